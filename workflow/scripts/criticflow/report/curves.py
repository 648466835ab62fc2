"""Learning curves of all runs in one figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from criticflow.config.names import run_and_seed
from criticflow.files import replacing

PANELS = {
    "score (before any mask)": "critic/score/mean",
    "response length (tokens)": "response_length/mean",
    "entropy (nats a token)": "actor/entropy",
    "KL to the old policy": "actor/ppo_kl",
    "value (mean)": "critic/values/mean",
    "explained variance (true returns)": "criticflow/explained_variance/true_return",
}
"""Title of each panel and its column of ``metrics.parquet``; a run without it is left out there."""


def plot_curves(metrics: list[Path], out: Path) -> None:
    """Draw every panel over the steps.

    Args:
        metrics: ``.../{run}/seed{seed}/metrics.parquet`` of every run and seed. A run's line is the
            mean over its seeds, the band goes from the lowest to the highest.
        out: PNG file.
    """
    runs = by_run(metrics)
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for axis, (title, metric) in zip(axes.flat, PANELS.items(), strict=True):
        for number, (run, seeds) in enumerate(runs.items()):
            _draw(axis, run, [table for table in seeds if metric in table], metric, f"C{number}")
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if not axis.lines:
            axis.text(0.5, 0.5, "not logged", ha="center", transform=axis.transAxes, color="grey")
    handles = {line.get_label(): line for axis in axes.flat for line in axis.lines}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    with replacing(out) as partial:
        figure.savefig(partial, format="png", dpi=110)
    plt.close(figure)


def by_run(metrics: list[Path]) -> dict[str, list[pd.DataFrame]]:
    """Tables indexed by step, of all seeds of each run, runs in the given order."""
    runs: dict[str, list[pd.DataFrame]] = {}
    for path in metrics:
        table = pd.read_parquet(path).set_index("step")
        runs.setdefault(run_and_seed(path)[0], []).append(table)
    return runs


def _draw(axis: Axes, run: str, seeds: list[pd.DataFrame], metric: str, color: str) -> None:
    if not seeds:
        return
    lines = pd.concat([table[metric].dropna() for table in seeds], axis=1)
    axis.plot(lines.index, lines.mean(axis=1), color=color, label=run)
    if len(seeds) > 1:
        axis.fill_between(lines.index, lines.min(axis=1), lines.max(axis=1), color=color, alpha=0.2)
