"""An export as a folder or as one zip file, which hold the same."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from criticflow.errors import UserError
from criticflow.files import replacing

MANIFEST = "export.json"
"""What an export holds."""
SUFFIX = ".zip"
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every file in an archive: the same rows give the same bytes."""


def files_of(folder: Path) -> list[str]:
    """All files below a folder, as paths from there."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def write(folder: Path, out: Path) -> None:
    """Make ``out`` of what is in ``folder``: a zip file if it is called one, else a folder.

    Raises:
        UserError: there is a folder of that name which is no export, or the disk is full.
    """
    if out.suffix != SUFFIX:
        if out.exists() and not (out / MANIFEST).is_file():
            raise UserError(f"{out} is there, and is no export: name another folder, or a .zip")
        with replacing(out) as partial:
            shutil.copytree(folder, partial)
        return
    if out.is_dir():
        raise UserError(f"{out} is a folder: name another file")
    with replacing(out) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files_of(folder):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes())


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """The folder of an export; a zip file is unpacked for as long as the block lasts.

    Raises:
        UserError: it is neither, or it would write outside of its folder.
    """
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="criticflow-import-") as unpacked:
        try:
            with zipfile.ZipFile(source) as archive:
                for name in archive.namelist():
                    path = PurePosixPath(name)
                    if path.is_absolute() or ".." in path.parts:
                        raise UserError(f"{source} has a file {name} outside of its own folder")
                archive.extractall(unpacked)
        except FileNotFoundError as error:
            raise UserError(f"{source}: there is no such file or folder") from error
        except zipfile.BadZipFile as error:
            raise UserError(f"{source} is no export: neither a folder nor a zip file") from error
        yield Path(unpacked)
