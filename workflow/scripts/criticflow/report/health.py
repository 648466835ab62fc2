"""Warnings about a study's trainings and evaluations, each linked to the figure that shows it."""

from __future__ import annotations

from dataclasses import dataclass

from criticflow.report.figures.curves import HEALTH, Metrics
from criticflow.report.results import Results

LOST = "criticflow/lost_trajectories"
ANCHORS = {
    "entropy": "figure-entropy",
    "format": "models",
    "length": "figure-length",
    "truncat": "models",
}
"""Anchor of a warning's figure, by a word that the warning contains."""


@dataclass(frozen=True)
class Warning:
    """A sentence, and the anchor of what shows it."""

    text: str
    anchor: str


def warnings(results: Results) -> list[Warning]:
    """All warnings: of evaluations, trainings and probes."""
    found = [
        Warning(f"{_who(row)}: {text}", _anchor(text))
        for row in results.summary
        for text in row.get("warnings", [])
    ]
    found += [*lost_trajectories(results.metrics), *_collapsed(results.metrics)]
    found += [
        Warning(f"probe of {probe.model} on {probe.task}: {text}", "probe")
        for probe in results.probes
        if not probe.summary["verdict"].get("ok", True)
        for text in probe.summary["verdict"]["advice"]
    ]
    return found


def _collapsed(metrics: Metrics) -> list[Warning]:
    """Trainings that end with less than the smallest healthy entropy."""
    panel = next(panel for panel in HEALTH if panel.name == "entropy")
    least = panel.healthy[0]
    found = []
    for arm, seeds in metrics.items():
        for seed, table in seeds.items():
            last = table[panel.column].dropna().iloc[-1:] if panel.column in table else []
            if len(last) and least is not None and last.iloc[0] < least:
                text = f"{arm}, seed {seed}: training ended with entropy {last.iloc[0]:.4f}"
                found.append(Warning(f"{text}, under {least:g} nats a token", "figure-entropy"))
    return found


def lost_trajectories(metrics: Metrics) -> list[Warning]:
    found = []
    for arm, seeds in metrics.items():
        for seed, table in seeds.items():
            lost = table[LOST].fillna(0) if LOST in table else None
            if lost is not None and lost.any():
                found.append(
                    Warning(
                        f"{arm}, seed {seed}: {lost.sum():.0f} trajectories were lost to errors in "
                        f"rollouts, in {(lost > 0).sum()} of {len(lost)} steps: see the run's log",
                        "figure-score",
                    )
                )
    return found


def _who(row: dict) -> str:
    return row["name"] if row.get("seed") is None else f"{row['name']}, seed {row['seed']}"


def _anchor(text: str) -> str:
    return next((anchor for word, anchor in ANCHORS.items() if word in text), "models")
