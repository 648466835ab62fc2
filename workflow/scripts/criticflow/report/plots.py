"""Plots of the probe and of critics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from criticflow.files import replacing

Floats = NDArray[np.float64]


def plot_probe(
    pass_rates: Floats, variances: Floats, lengths: Floats, n: int, title: str, out: Path | str
) -> None:
    """Write a PNG of three panels: pass rates, reward variance against pass rate, lengths.

    Args:
        pass_rates: share of correct samples per prompt, shape ``(prompts,)``.
        variances: population variance of the rewards per prompt, shape ``(prompts,)``.
        lengths: tokens of every response.
        n: samples per prompt.
    """
    figure, (histogram, scatter, length) = _panels(title)
    edges = (np.arange(n + 2) - 0.5) / n
    histogram.hist(pass_rates, bins=edges, color="tab:blue", edgecolor="white")
    histogram.set(xlabel=f"pass rate of {n} samples", ylabel="prompts", title="Pass rates")
    rates, counts = np.unique(np.stack([pass_rates, variances]), axis=1, return_counts=True)
    scatter.scatter(*rates, s=12 + 6 * counts, alpha=0.5, color="tab:orange")
    curve = np.linspace(0, 1, 101)
    scatter.plot(curve, curve * (1 - curve), "k--", linewidth=1, label="0/1 rewards: p(1 - p)")
    scatter.set(xlabel="pass rate", ylabel="variance of rewards", title="Signal per prompt")
    scatter.legend(frameon=False, fontsize="small")
    bins = np.arange(lengths.max() + 2) - 0.5 if lengths.max() < 64 else 50
    length.hist(lengths, bins=bins, color="tab:green")
    length.set(xlabel="tokens", ylabel="responses", title="Response length")
    _save(figure, out)


def plot_critic(
    summary: Mapping[str, Any], prompts: pd.DataFrame, title: str, out: Path | str
) -> None:
    """Write a PNG of three panels: reliability, V(prompt) against pass rate, the way to the end.

    Args:
        summary: figures of a critic (:func:`criticflow.stages.critics.critic_figures`).
        prompts: ``value`` and ``pass_rate`` per prompt.
    """
    figure, (diagram, scatter, way) = _panels(title)
    diagram.plot([0, 1], [0, 1], "k--", linewidth=1)
    for name, bins in summary["reliability"].items():
        means = pd.DataFrame(bins)[["mean_value", "mean_return"]].to_numpy()
        diagram.plot(*means.T, "o-", markersize=4, label=name)
    diagram.set(xlabel="mean value", ylabel="mean return", title="Reliability")
    rates, counts = np.unique(prompts["pass_rate"], return_counts=True)
    scatter.boxplot(
        [prompts.loc[prompts["pass_rate"] == rate, "value"] for rate in rates],
        positions=rates,
        widths=0.6 * (np.diff(rates).min() if len(rates) > 1 else 1),
        showfliers=False,
        manage_ticks=False,
    )
    scatter.plot([0, 1], [0, 1], "k--", linewidth=1)
    scatter.set(xlabel="pass rate", ylabel="V(prompt)", title=f"{counts.sum()} prompts")
    for name, label in (("explained_variance", "explained variance"), ("auc", "AUC")):
        known = [row for row in summary["positions"] if row[name] is not None]
        where = [row["position"] for row in known]
        way.plot(where, [row[name]["value"] for row in known], label=label)
        bounds = [(row[name]["low"], row[name]["high"]) for row in known]
        if bounds and None not in bounds[0]:
            way.fill_between(where, *zip(*bounds, strict=True), alpha=0.2)
    way.set(xlabel="share of the response", title="From prompt to end")
    for axis in (diagram, way):
        axis.legend(frameon=False, fontsize="small")
    _save(figure, out)


def _panels(title: str) -> tuple[Figure, NDArray[np.object_]]:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, figure.subplots(1, 3)


def _save(figure: Figure, out: Path | str) -> None:
    with replacing(out) as partial:
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
