"""What describes the configuration agrees with it: descriptions, README's tables, JSON Schema."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic_core import PydanticUndefined

from criticflow.config import documents, json_schema
from criticflow.config.fields import Strict

CONFIG = Path(__file__).parents[2] / "config"
COMMAND = "python -m criticflow.config.documents"
SHIPPED = [CONFIG / "config.yaml", *sorted((CONFIG / "experiments").glob("*.yaml"))]

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


def rows(table: str) -> dict[str, object]:
    """Key and default of every row; a row may have several of both."""
    found: dict[str, object] = {}
    for line in table.splitlines()[2:]:
        _, _, default, meaning, _ = map(str.strip, line.split("|"))
        assert meaning
        names = documents.keys(line)
        values = yaml.safe_load(f"[{default.replace('`', '')}]")
        assert len(values) in (0, len(names)), line
        found |= dict(zip(names, values or [PydanticUndefined] * len(names), strict=True))
    return found


@pytest.mark.parametrize("section", documents.TABLES)
def test_the_tables_of_the_readme_are_those_of_the_schema(section):
    tables = documents.tables((CONFIG / "README.md").read_text(encoding="utf-8"), section)
    assert len(tables) == len(documents.TABLES[section])
    for table, model in zip(tables, documents.TABLES[section], strict=True):
        told, real = rows(table), documents.fields(model)
        assert told.keys() - FILE_ONLY == real.keys(), f"run: {COMMAND}"
        for key in told.keys() - FILE_ONLY:
            if told[key] is not PydanticUndefined:  # an empty cell: no default worth telling
                assert told[key] == real[key].get_default(call_default_factory=True), key


def test_a_field_without_a_row_gets_one_and_all_others_stay_as_they_are():
    text = (CONFIG / "README.md").read_text(encoding="utf-8")
    assert documents.with_all_rows(text) == text
    for key in ("`critic.freeze`", "`strategy`", "`keep_steps`"):
        row = re.search(rf"^\| {key} \|.*\n", text, re.MULTILINE)[0]
        mended = documents.with_all_rows(text.replace(row, "", 1))
        assert len(mended.splitlines()) == len(text.splitlines())
        assert (
            re.search(rf"^\| {key} \| .*", mended, re.MULTILINE)[0].split("|")[2]
            == row.split("|")[2]
        )


def test_the_json_schema_is_fresh():
    written = (CONFIG / "schema.json").read_text(encoding="utf-8")
    assert written == json_schema.text(), f"run: {COMMAND}"


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
