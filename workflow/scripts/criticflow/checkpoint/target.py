"""What must hold for a directory before it is written."""

from __future__ import annotations

from pathlib import Path

from criticflow.errors import UserError


def require_free_target(target_dir: Path, local_dir: Path, overwrite: bool) -> None:
    """Raise :class:`UserError` unless ``target_dir`` may be written."""
    if target_dir.exists() and not target_dir.is_dir():
        raise UserError(f"{target_dir} is a file: choose another target")
    if local_dir.resolve().is_relative_to(target_dir.resolve()):
        raise UserError(f"{target_dir} contains the checkpoint itself: choose another target")
    if target_dir.is_dir() and any(target_dir.iterdir()) and not overwrite:
        raise UserError(f"{target_dir} is not empty: choose another target or add --overwrite")
