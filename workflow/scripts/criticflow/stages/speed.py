"""How fast arms learn: area under the validation curve, and what it costs to reach a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.config import Config
from criticflow.files import write_json
from criticflow.stages.training_costs import UNITS, cumulative, validation_curve
from criticflow.stats import threshold as speed
from criticflow.stats.intervals import Figure

Files = Mapping[str, Mapping[int, Path]]
Curves = Mapping[str, Mapping[int, pd.DataFrame]]


def write_speed(
    config: Config,
    metrics: Files,
    actors: Files,
    critics: Files,
    compared: Sequence[Mapping[str, Any]],
    out: Path,
) -> dict[str, Any]:
    """Write ``speed.json``.

    ``threshold`` (``validation_threshold`` of the configuration), ``until`` (the step at which the
    areas end, the same for all), ``arms`` and ``contrasts``. Of an arm: ``arm``, ``seeds``,
    ``area {value, low, high}`` and ``area_by_seed``, and by unit in ``units``: ``median {value,
    low, high}`` of the cost to the threshold, ``reached`` (how many runs held it) and
    ``by_seed``, each run's ``cost`` and whether it was ``reached`` or is censored there. Of a
    contrast: ``name``, ``a``, ``b``, ``area`` (difference, paired by seeds) and ``p`` of the
    log-rank test by unit.

    Args:
        metrics: ``metrics.parquet`` by run and seed.
        actors, critics: models, or files that say how large they are, by run and seed.
        compared: as :func:`criticflow.config.contrasts.declared` gives them.
    """
    curves = _curves(config, metrics, actors, critics)
    ends = [curve["step"].iloc[-1] for seeds in curves.values() for curve in seeds.values()]
    until = float(min(ends)) if ends else None
    limit = config.validation_threshold
    areas = {
        arm: {
            seed: speed.area(curve, until=until)
            for seed, curve in seeds.items()
            if curve["step"].iloc[0] < until
        }
        for arm, seeds in curves.items()
    }
    found = {arm: _reached(seeds, limit) for arm, seeds in curves.items()}
    result = {
        "threshold": limit,
        "until": until,
        "arms": [
            {
                "arm": arm,
                "seeds": list(seeds),
                "area": _mean(areas[arm]),
                "area_by_seed": list(areas[arm].values()),
                "units": {unit: _summary(runs) for unit, runs in found[arm].items()},
            }
            for arm, seeds in curves.items()
        ],
        "contrasts": [
            {
                "name": one["name"],
                "a": one["a"],
                "b": one["b"],
                "area": speed.paired_seeds(areas[one["a"]], areas[one["b"]]),
                "p": {
                    unit: speed.compare(list(runs.values()), list(found[one["b"]][unit].values()))
                    for unit, runs in found[one["a"]].items()
                    if unit in found[one["b"]]
                },
            }
            for one in compared
            if one["a"] in curves and one["b"] in curves
        ],
    }
    write_json(out, result)
    return result


def _curves(config: Config, metrics: Files, actors: Files, critics: Files) -> Curves:
    """Validation curves of the runs that have one: two evaluations at least."""
    found: dict[str, dict[int, pd.DataFrame]] = {}
    for arm, seeds in metrics.items():
        for seed, path in seeds.items():
            table = pd.read_parquet(path)
            models = (files.get(arm, {}).get(seed) for files in (actors, critics))
            curve = validation_curve(table, cumulative(table, config.runs[arm], *models))
            if len(curve) > 1:
                found.setdefault(arm, {})[seed] = curve
    return found


def _mean(areas: Mapping[int, float]) -> Figure:
    """Over seeds, with Student's interval."""
    return speed.paired_seeds(areas, dict.fromkeys(areas, 0.0))["difference"]


def _reached(
    seeds: Mapping[int, pd.DataFrame], limit: float | None
) -> dict[str, dict[int, speed.Reached]]:
    """By unit and seed; a unit that is not known for every run is left out."""
    if limit is None:
        return {}
    return {
        unit: {seed: speed.reached(curve, limit, unit) for seed, curve in seeds.items()}
        for unit in UNITS
        if all(curve[unit].notna().all() for curve in seeds.values())
    }


def _summary(runs: Mapping[int, speed.Reached]) -> dict[str, Any]:
    median: Figure = speed.median_cost(list(runs.values()))
    return {
        "median": median,
        "reached": sum(run.reached for run in runs.values()),
        "by_seed": [{"cost": run.cost, "reached": run.reached} for run in runs.values()],
    }
