"""What a training was made from, read from its record, and what is here to compare it with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from criticflow.config import Config, Model, Resources, Run, Task
from criticflow.errors import UserError
from criticflow.models import hub
from criticflow.training.deciding import deciding
from criticflow.training.identity import ENVIRONMENT, content

Record = Mapping[str, Any]
"""A run's ``provenance.json``."""
Origin = dict[str, str]
"""Digest of every file of base model and data, as ``model/NAME`` and ``data/NAME``, and
``model commit`` of a model from the hub."""


def recorded_settings(record: Record) -> dict[str, Any]:
    """Settings that decided a training's weights (:mod:`criticflow.training.deciding`).

    Raises:
        UserError: the record was written with other keys than this version has.
    """
    used = record["settings"]
    try:
        run = Run.model_validate(used["settings"])
        parts = {
            "models": {run.model: Model.model_validate(used["model"])},
            "tasks": {run.task: Task.model_validate(used["task"])},
            "runs": {used["run"]: run},
            "resources": Resources.model_validate(record["attempts"][-1]["execution"]["resources"]),
        }
    except (ValidationError, LookupError) as error:
        raise UserError(
            f"{used.get('run')}, seed {used.get('seed')}: its provenance.json is of another "
            f"version of criticflow ({str(error).splitlines()[0]})"
        ) from error
    # Validated part by part: other runs, which its critic may be from, are not in the record.
    return deciding(Config.model_construct(**parts), used["run"])


def recorded_origin(record: Record) -> Origin:
    """Base model and data of a training."""
    found = {
        name: digest
        for name, digest in record["inputs"].items()
        if name.startswith(("model/", "data/"))
    }
    if commit := record["revisions"].get("model"):
        found["model commit"] = commit
    return found


def origin_here(model: str, revision: str | None, data: Path) -> Origin:
    """The same of what lies here, as far as it is made.

    Args:
        model: directory of the base model, or name on the hub.
        data: folder with ``train.parquet`` and ``val.parquet``.
    """
    found: Origin = {}
    if hub.is_name(model):
        with suppress(UserError):  # neither the hub nor the local cache knows it
            found["model commit"] = hub.commit(model, revision) or ""
    elif Path(model).is_dir():
        found |= {f"model/{name}": digest for name, digest in content(Path(model)).items()}
    for name in ("train.parquet", "val.parquet"):
        if (data / name).is_file():
            found |= {f"data/{file}": digest for file, digest in content(data / name).items()}
    return found


def different(theirs: Origin, ours: Origin) -> list[str]:
    """Names of what differs, of base model and data that both know."""
    found = []
    for part in ("model commit", "model/", "data/"):
        known = [{key for key in one if key.startswith(part)} for one in (theirs, ours)]
        # Of a model both know all files or none; of the data one may be made and another not.
        keys = known[0] & known[1] if part == "data/" or not all(known) else known[0] | known[1]
        found += sorted(key for key in keys if theirs.get(key) != ours.get(key))
    return found


def environment() -> dict[str, str]:
    """Variables of this process that can change what is learned."""
    return {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}
