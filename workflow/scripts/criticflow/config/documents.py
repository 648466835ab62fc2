"""Keeps what describes the configuration up to date with it.

``python -m criticflow.config.documents``, in the project's folder, writes ``config/schema.json``
anew. For each field that has no row in a table of ``config/README.md`` it adds one, with the
field's default and description. Rows that are there stay as they are.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from criticflow.config import json_schema
from criticflow.config.measuring import Evaluate, Probe, Tempered
from criticflow.config.models import Build, Model, Shape
from criticflow.config.resources import Resources
from criticflow.config.runs import Run, Train
from criticflow.config.tasks import Dense, Facts, Generate, Search, Source, Task
from criticflow.files import replacing

TABLES: dict[str, list[type[BaseModel]]] = {
    "models": [Model, Shape, Build],
    "tasks": [Task, Source, Generate, Facts, Search, Dense],
    "probe": [Probe],
    "runs": [Run],
    "train": [Train],
    "evaluate": [Evaluate],
    "tempered": [Tempered],
    "resources": [Resources],
}
"""Sections of config/README.md, and what each of their tables describes."""
APART = {"build", "source", "test_source", "generate", "train"}
"""Fields with a table of their own."""
RESOLVED = {"critic.pretrained", "critic.from_step", "critic.from_seed"}
"""Fields that the long form of ``critic.from`` is resolved to."""


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted key of every field that a table describes; a section is replaced by its fields."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel) and name not in APART:
            found |= fields(section, f"{key}.")
        elif key not in RESOLVED:
            found[key] = field
    return found


def keys(row: str) -> list[str]:
    """The keys that a row of a table describes."""
    return re.findall(r"`([^`]+)`", row.split("|")[1])


def tables(text: str, section: str) -> list[str]:
    """The tables of a section of README.md, each with its head and its line end."""
    part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"(?:^\|.*\n)+", part, re.MULTILINE)


def with_all_rows(text: str) -> str:
    """``text`` of README.md, with a row for each field that has none."""
    for section, models in TABLES.items():
        for table, model in zip(tables(text, section), models, strict=True):
            told = {key for row in table.splitlines()[2:] for key in keys(row)}
            rows = [_row(key, field) for key, field in fields(model).items() if key not in told]
            text = text.replace(table, table + "".join(rows), 1)
    return text


def _row(key: str, field: FieldInfo) -> str:
    default: Any = "" if field.is_required() else field.get_default(call_default_factory=True)
    words = default if isinstance(default, str) else json.dumps(default)
    shown = f"`{words}` " if isinstance(default, str) and words else f"{words} ".lstrip()
    return f"| `{key}` | {shown}| {field.description} |\n"


if __name__ == "__main__":
    folder = Path("config")
    readme = folder / "README.md"
    written = {
        readme: with_all_rows(readme.read_text(encoding="utf-8")),
        folder / "schema.json": json_schema.text(),
    }
    for path, text in written.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
