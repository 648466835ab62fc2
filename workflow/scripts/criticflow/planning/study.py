"""A study's configuration, read as the workflow reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from criticflow.config import Config, load_config
from criticflow.config.merging import merge
from criticflow.errors import UserError
from criticflow.planning import project


def here() -> tuple[Path, Path]:
    """Snakefile and default configuration: of a folder that ``criticflow init`` laid out, where
    this process is in one; else the workflow's own."""
    snakefile, default = Path("workflow/Snakefile"), Path("config/config.yaml")
    ours = snakefile.is_file() and "criticflow" in snakefile.read_text(encoding="utf-8")
    if ours and default.is_file():
        return snakefile.resolve(), default.resolve()
    return project.SNAKEFILE, project.CONFIG / "config.yaml"


def read_study(files: Sequence[Path]) -> Config:
    """The default configuration with ``files`` over it, the last one strongest.

    Raises:
        UserError: a file cannot be read, or the whole is not valid.
    """
    raw: dict = {}
    for path in (here()[1], *files):
        try:
            over = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"configuration: cannot read {path}: {error}") from error
        if not isinstance(over, dict):
            raise UserError(f"configuration: {path} holds no settings")
        raw = merge(raw, over)
    return load_config(raw)
