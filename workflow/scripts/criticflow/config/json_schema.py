"""The JSON Schema of a configuration file, with which an editor completes and checks it.

``python -m criticflow.config.documents`` writes it anew.

A file differs from :class:`Config`: it may be an overlay, so that no key is required; it has
``train`` (defaults of all runs), ``grid`` (runs as combinations of factors) and
``runs.*.like`` (the run whose settings are inherited); a null model, task, run or pretrained critic
is one that the overlay takes away. What concerns several keys at once, such as
names that must exist, is checked when the files are merged (:func:`criticflow.config.load_config`).
"""

from __future__ import annotations

import json
from typing import Any

from criticflow.config.grid import Grids
from criticflow.config.study import Config

NAMED = ("models", "tasks", "runs", "critics")
"""Sections whose entries have names of the user's choice."""


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12), as plain dictionaries."""
    schema = Config.model_json_schema(by_alias=True)
    grids = Grids.model_json_schema(by_alias=True)
    schema["$defs"] |= grids["$defs"]
    schema["properties"]["grid"] = grids["properties"]["grid"]
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
        for field in part["properties"].values():
            field.pop("title", None)  # the key again
    sections = schema["properties"]
    for name in NAMED:
        (pattern, entry), *_ = sections[name]["patternProperties"].items()
        sections[name]["patternProperties"] = {pattern: {"anyOf": [entry, {"type": "null"}]}}
        sections[name]["additionalProperties"] = False
    schema["$defs"]["Run"]["properties"]["like"] = {
        "description": "inherit the settings of this run",
        "type": "string",
    }
    sections["train"] = {
        "$ref": "#/$defs/Train",
        "description": "how runs are trained: defaults of all runs",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "criticflow: a study",
    }


def text() -> str:
    """What stands in ``config/schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
