"""Files that are either complete or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from criticflow.errors import UserError


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(target: Path | str) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; when the block ends it is renamed to ``target``.

    Works for a file and for a directory (the caller makes it). If the block raises, what it wrote
    is removed and the target stays as it was. A killed process leaves at most a hidden
    ``.NAME.partial-PID`` beside the target, never half a target.

    Raises:
        UserError: the disk is full.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    _remove(partial)
    try:
        yield partial
        if target.is_dir() and partial.is_dir():
            old = target.parent / f".{target.name}.old-{os.getpid()}"
            os.rename(target, old)
            os.rename(partial, target)
            shutil.rmtree(old)
        else:
            os.replace(partial, target)
    except OSError as error:
        _remove(partial)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left while writing {target}: free some and run again"
            ) from error
        raise
    except BaseException:
        _remove(partial)
        raise


def own_directory(path: Path) -> None:
    """Make a directory that nobody else may enter, in a folder that is everybody's.

    Raises:
        UserError: it is there and not this user's alone.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if not ours or stat.S_IMODE(found.st_mode) != 0o700:
            raise UserError(f"{path} is not this user's alone: remove it and run again") from None


def free_space(path: Path | str) -> int:
    """Bytes free on the file system of ``path``, which need not exist yet."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(path: Path | str, needed: int) -> None:
    """Whether ``needed`` bytes fit on the file system of ``path``.

    Raises:
        UserError: they do not.
    """
    if (free := free_space(path)) < needed:
        raise UserError(
            f"no space for {path}: it needs about {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are "
            "free on its file system: make room and run again"
        )


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read JSON; a broken file is a :class:`UserError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): remove it and run again") from error


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
