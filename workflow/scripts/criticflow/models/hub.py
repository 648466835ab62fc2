"""Models of the Hugging Face hub: which commit a name stands for, and its files.

A name is looked up once, and everything else works with the files of that commit. Without a network
the local cache answers, as it does in transformers and vLLM.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from criticflow.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.tiktoken"]
_WEIGHTS = ["*.safetensors", "*.bin"]
"""Formats of weights, in order of preference: the first that the model has is fetched."""


def is_name(path: Path | str) -> bool:
    """Whether ``path`` is a name on the hub: it looks like one, and no such directory is there."""
    directory = Path(path)
    return not directory.exists() and bool(
        _NAME.fullmatch(str(path)) and not directory.parent.is_dir()
    )


def commit(path: str, revision: str | None = None) -> str | None:
    """The commit that a model's name stands for; None for a directory.

    Args:
        path: directory, or name on the hub.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        UserError: neither the hub nor the local cache knows it.
    """
    if not is_name(path):
        return None
    return _snapshot(path, revision, ["config.json"]).name


def local_copy(path: str, revision: str | None = None) -> str:
    """The directory with a model's files, fetched if they are not in the local cache; a directory
    is returned as it is.

    Raises:
        UserError: neither the hub nor the local cache has it.
    """
    if not is_name(path):
        return path
    for kind in _WEIGHTS:
        folder = _snapshot(path, revision, [*_SMALL, kind])
        if any(folder.glob(kind)):
            break
    return str(folder)


def data_commit(name: str, revision: str | None = None) -> str | None:
    """The commit that a data set's name stands for; None: neither hub nor cache can tell."""
    try:
        return _snapshot(name, revision, ["README.md"], "dataset").name
    except UserError:
        return None


def _snapshot(name: str, revision: str | None, patterns: list[str], kind: str = "model") -> Path:
    import httpx  # slow to import, and needed for the hub only
    from huggingface_hub import snapshot_download

    found = partial(
        snapshot_download, name, repo_type=kind, revision=revision, allow_patterns=patterns
    )
    try:
        return Path(found())
    except (OSError, ValueError, httpx.HTTPError) as error:
        try:  # where a commit is given, the first try asks the hub for its list of files
            return Path(found(local_files_only=True))
        except (OSError, ValueError):
            at = f" at revision {revision}" if revision else ""
            raise UserError(
                f"{name}{at}: neither the Hugging Face hub nor the local cache has this model "
                f"({str(error).strip().splitlines()[0]}): check name, revision and connection, or "
                "give a directory"
            ) from error
