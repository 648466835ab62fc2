"""From YAML to :class:`Config`: inheritance between runs, then validation in readable words."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from criticflow.config.checks import check
from criticflow.config.grid import Grids
from criticflow.config.merging import merge, without_null
from criticflow.config.study import Config
from criticflow.errors import UserError

DESCRIPTION = "description"
"""Key of Snakemake's ``config`` under which the report's first page finds a sentence for each run
(:mod:`criticflow.report.description`); no key of a configuration file."""


def load_config(raw: Mapping[str, Any]) -> Config:
    """Expand ``grid``, resolve ``like`` and ``train`` defaults, then validate.

    ``raw`` is what Snakemake (or YAML) read: plain dictionaries with three keys more than
    :class:`Config` has, ``train`` (defaults merged under every run), ``grid`` (runs as combinations
    of factors) and ``runs.*.like`` (the run whose settings this one inherits). A model, task, run
    or pretrained critic that is null is left out: so an overlay takes away what the file below it
    defines. A null run also takes away the run of that name from a grid. In a job of the workflow
    there is :data:`DESCRIPTION` too, which is left out.

    Raises:
        UserError: every mistake within a section, or else the first between sections, each with
            the key it stands under.
    """
    resolved = copy.deepcopy(dict(raw))
    resolved.pop(DESCRIPTION, None)
    defaults = resolved.pop("train", None) or {}
    try:
        if (grid := resolved.pop("grid", None)) is not None:
            of_grids = Grids.model_validate({"grid": grid}).runs()
            resolved["runs"] = _beside(resolved.get("runs", {}), of_grids)
        for section in ("models", "tasks", "runs", "critics"):
            if section in resolved:
                resolved[section] = without_null(resolved[section])
        runs = resolved.get("runs")
        if isinstance(runs, dict):
            resolved["runs"] = {name: _resolve(name, runs, defaults) for name in runs}
            _keep_what_is_asked_for(resolved["runs"], resolved.get("truth"))
        config = Config.model_validate(resolved)
    except ValidationError as error:
        raise UserError(f"configuration: {_in_words(error)}") from None
    try:
        check(config)
    except ValueError as error:
        raise UserError(f"configuration: {error}") from None
    return config


def read_config(path: Path | str) -> Config:
    """:func:`load_config` on a YAML file."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"configuration: cannot read {path}: {error}") from error
    return load_config(raw or {})


def _beside(runs: Any, of_grids: dict[str, Any]) -> Any:
    """The runs and those of the grids; a run that is null takes away the grid's of its name."""
    if runs is None or not isinstance(runs, Mapping):
        return of_grids if runs is None else runs  # the wrong type is reported with other mistakes
    for name in runs.keys() & of_grids.keys():
        if runs[name] is not None:
            raise UserError(
                f"configuration: runs.{name}: the grid has a run of this name: "
                "set it right there under override, or call the run otherwise"
            )
    return {**of_grids, **runs}


def _keep_what_is_asked_for(runs: dict[str, Any], truth: Any) -> None:
    """Have runs keep the steps that ``truth.steps`` and others' ``critic.from`` name, in place."""
    asked = [
        (origin.get("run"), origin.get("step"))
        for run in runs.values()
        if isinstance(run, Mapping) and isinstance(critic := run.get("critic"), Mapping)
        if isinstance(origin := critic.get("from"), Mapping)
    ]
    steps = truth.get("steps") if isinstance(truth, Mapping) else None
    if isinstance(steps, Mapping):
        asked += [
            (run, step)
            for run, listed in steps.items()
            for step in (listed if isinstance(listed, list) else [])
        ]
    for name, step in asked:
        run = runs.get(name)
        if step is None or not isinstance(run, Mapping):
            continue  # what does not exist is reported with all other mistakes
        train = run.get("train") or {}
        kept = train.get("keep_steps") or []
        if isinstance(kept, list) and step not in kept:
            run["train"] = {**train, "keep_steps": [*kept, step]}


def _resolve(name: str, runs: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    chain: list[str] = []
    parent: Any = name
    while parent is not None:
        if parent in chain:
            raise UserError(
                f"configuration: runs: like is a cycle: {' -> '.join([*chain, parent])}"
            )
        if parent not in runs:
            raise UserError(
                f"configuration: runs.{chain[-1]}.like: no run named {parent!r}; "
                f"there is {', '.join(runs)}"
            )
        chain.append(parent)
        if not isinstance(runs[parent], Mapping):
            return runs[name]  # the wrong type is reported with all other mistakes
        parent = runs[parent].get("like")
    resolved: dict[str, Any] = {"train": defaults}
    for ancestor in reversed(chain):
        resolved = merge(resolved, runs[ancestor])
    resolved.pop("like", None)
    resolved["factors"] = runs[name].get("factors") or {}  # of a grid; `like` does not inherit them
    return resolved


def _in_words(error: ValidationError) -> str:
    messages = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        elif problem["type"] == "missing":
            message = "is missing"
        elif problem["type"] == "float_type" and isinstance(problem["input"], str):
            message += (
                f", not the text {problem['input']!r} (write 1.0e-6, YAML reads 1e-6 as text)"
            )
        elif problem["type"] != "value_error":
            message += f", not {problem['input']!r}"
        messages.append(f"{where}: {message}" if where else message)
    return "; ".join(messages)
