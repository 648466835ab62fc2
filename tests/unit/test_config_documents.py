"""What describes the configuration agrees with it: descriptions, README's tables, JSON Schema."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from criticflow import config
from criticflow.config import json_schema
from criticflow.config.fields import Strict

CONFIG = Path(__file__).parents[2] / "config"
SHIPPED = [CONFIG / "config.yaml", *sorted((CONFIG / "experiments").glob("*.yaml"))]

TABLES = {
    "models": [config.Model, config.Shape, config.Build],
    "tasks": [config.Task, config.Source, config.Generate, config.Facts, config.Search],
    "probe": [config.Probe],
    "runs": [config.Run],
    "train": [config.Train],
    "evaluate": [config.Evaluate],
    "resources": [config.Resources],
}
"""Sections of config/README.md, and what each of their tables describes."""
APART = {"build", "source", "test_source", "generate", "train"}
"""Fields with a table of their own."""
RESOLVED = {"critic.pretrained", "critic.from_step", "critic.from_seed"}
"""Fields that the long form of ``critic.from`` is resolved to."""
FILE_ONLY = {"like"}
"""Keys that a file has and the resolved configuration has not."""


def test_every_field_has_a_description():
    without = [
        f"{model.__name__}.{name}"
        for model in Strict.__subclasses__()
        if model.__module__.startswith("criticflow.config.")
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert without == []


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    """Dotted key and default of every field; a section is replaced by its fields."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel) and name not in APART:
            found |= fields(section, f"{key}.")
        else:
            found[key] = field.default
    return found


def rows(table: str) -> dict[str, object]:
    """Key and default of every row; a row may have several of both."""
    found: dict[str, object] = {}
    for line in table.splitlines()[2:]:
        _, keys, default, meaning, _ = map(str.strip, line.split("|"))
        assert meaning
        names = re.findall(r"`([^`]+)`", keys)
        values = yaml.safe_load(f"[{default.replace('`', '')}]")
        assert len(values) in (0, len(names)), line
        found |= dict(zip(names, values or [PydanticUndefined] * len(names), strict=True))
    return found


@pytest.mark.parametrize("section", TABLES)
def test_the_tables_of_the_readme_are_those_of_the_schema(section):
    text = (CONFIG / "README.md").read_text(encoding="utf-8")
    part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert len(tables) == len(TABLES[section])
    for table, model in zip(tables, TABLES[section], strict=True):
        told, real = rows(table), fields(model)
        assert told.keys() - FILE_ONLY == real.keys() - RESOLVED
        for key in told.keys() - FILE_ONLY:
            if told[key] is not PydanticUndefined:  # an empty cell: no default worth telling
                assert told[key] == real[key], key


def test_the_json_schema_is_fresh():
    written = (CONFIG / "schema.json").read_text(encoding="utf-8")
    assert written == json_schema.text(), (
        "run: python -m criticflow.config.json_schema > config/schema.json"
    )


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json_schema.json_schema())
    return jsonschema.Draft202012Validator(json_schema.json_schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_fit_the_json_schema_and_name_it(path):
    text = path.read_text(encoding="utf-8")
    validator().validate(yaml.safe_load(text))
    reference = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert reference and (path.parent / reference[1]).resolve() == CONFIG / "schema.json"


@pytest.mark.parametrize(
    "wrong",
    [
        "runs: {cold: {train: {stepz: 3}}}",
        "runs: {cold: {reward_mask: {ratio: 1.5}}}",
        "train: {steps: many}",
        "resource: {gpu: 1}",
        "models: {tiny: {dtype: float8}}",
        "runs: {no spaces: {like: cold}}",
    ],
)
def test_mistakes_do_not_fit(wrong):
    assert not validator().is_valid(yaml.safe_load(wrong))


def test_an_overlay_may_be_short_and_take_things_away():
    validator().validate(
        yaml.safe_load("runs: {cold: null, m80: {like: warm, reward_mask: {ratio: 0.8}}}")
    )
