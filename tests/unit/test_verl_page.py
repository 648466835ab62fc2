"""docs/verl.md names keys that exist: of verl's configuration with ours, and of a study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from criticflow.config import Run, Task
from criticflow.planning.verl_keys import verl_configuration

TEXT = (Path(__file__).parents[2] / "docs" / "verl.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for table in re.findall(
        r"^\| \w+ \| `criticflow.train` \| in a study \|\n\|.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE
    )
    for line in table.splitlines()
]


def names(cell: str) -> list[str]:
    """Dotted keys in a cell; values (``gae``), programs and environment variables are none."""
    return [name for name in re.findall(r"`([a-z_.]+)`", cell) if "." in name]


def test_all_tables_were_found():
    assert len(ROWS) > 30
    assert all(len(row) == 3 for row in ROWS)


def test_keys_on_the_right_are_verls_or_ours():
    whole = verl_configuration()
    missing = object()
    named = {name for _, ours, _ in ROWS for name in names(ours)}
    assert len(named) > 20
    unknown = [name for name in named if OmegaConf.select(whole, name, default=missing) is missing]
    assert unknown == []


@pytest.mark.parametrize("name", sorted({name for *_, study in ROWS for name in names(study)}))
def test_keys_of_a_study_exist(name):
    parts = name.split(".")
    if parts[0] == "tasks":
        assert parts[2] in Task.model_fields
        return
    model = Run
    for part in parts:
        fields = {field.alias or key: field for key, field in model.model_fields.items()}
        assert part in fields, f"{name}: {part}"
        model = fields[part].annotation
