"""The signal that a base model gives: pass rates, variance of rewards, lengths."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.report.charts import Figure, frame

Floats = NDArray[np.float64]


def panels(
    pass_rates: Floats, variances: Floats, lengths: Floats, n: int, prefix: str = "probe"
) -> list[Figure]:
    """Three figures, whose charts still lack size and theme.

    Args:
        pass_rates: share of correct samples per prompt, shape ``(prompts,)``.
        variances: population variance of the rewards per prompt, shape ``(prompts,)``.
        lengths: tokens of every response.
        n: samples per prompt.
        prefix: of the figures' names.
    """
    rates = pd.DataFrame({"rate": np.round(np.asarray(pass_rates) * n) / n})
    rates = rates.groupby("rate", as_index=False).size().rename(columns={"size": "prompts"})
    rates = rates.assign(low=rates["rate"] - 0.5 / n, high=rates["rate"] + 0.5 / n)
    points = pd.DataFrame({"rate": pass_rates, "variance": variances}).round(6)
    points = points.groupby(["rate", "variance"], as_index=False).size()
    points = points.rename(columns={"size": "prompts"})
    counts, edges = np.histogram(lengths, bins=_bins(np.asarray(lengths)))
    bins = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "responses": counts})
    return [
        Figure(
            f"{prefix}-pass-rates",
            "Pass rates",
            f"Prompts by their share of right samples, {n} of each. What is always or never solved "
            "teaches nothing.",
            _bars(rates, "prompts", f"pass rate of {n} samples", "#0072B2"),
            rates,
        ),
        Figure(
            f"{prefix}-signal",
            "Signal per prompt",
            "Variance of a prompt's rewards, which advantages are made of. Dashed: 0/1 rewards, "
            "p(1 - p).",
            _signal(points),
            points,
        ),
        Figure(
            f"{prefix}-lengths",
            "Response length",
            "Tokens of the responses.",
            _bars(bins, "responses", "tokens", "#009E73"),
            bins,
        ),
    ]


def _bars(table: pd.DataFrame, count: str, title: str, color: str) -> alt.Chart:
    return (
        alt.Chart(frame(table))
        .mark_rect(color=color, stroke="white")
        .encode(
            x=alt.X("low:Q", title=title, scale=alt.Scale(zero=False)),
            x2="high:Q",
            y=alt.Y(f"{count}:Q", title=count),
            y2=alt.datum(0),
            tooltip=[alt.Tooltip("low:Q", format=".4g"), f"{count}:Q"],
        )
    )


def _signal(points: pd.DataFrame) -> alt.LayerChart:
    curve = pd.DataFrame({"rate": np.linspace(0, 1, 51)})
    curve["variance"] = curve["rate"] * (1 - curve["rate"])
    x = alt.X("rate:Q", title="pass rate")
    y = alt.Y("variance:Q", title="variance of rewards")
    return alt.layer(
        alt.Chart(frame(curve)).mark_line(color="black", strokeDash=[5, 4]).encode(x=x, y=y),
        alt.Chart(frame(points))
        .mark_point(filled=True, color="#D55E00", opacity=0.6)
        .encode(
            x=x,
            y=y,
            size=alt.Size("prompts:Q", legend=None),
            tooltip=[alt.Tooltip("rate:Q", format=".3f"), "prompts:Q"],
        ),
    )


def _bins(lengths: Floats) -> Floats | int:
    return np.arange(lengths.min(), lengths.max() + 2) - 0.5 if lengths.max() < 64 else 50
