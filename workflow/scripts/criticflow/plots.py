"""Figures of the probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    histogram, scatter, length = figure.subplots(1, 3)
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
    figure.suptitle(title)
    with replacing(out) as aside:
        figure.savefig(aside, format="png", dpi=120, metadata={"Software": None})
