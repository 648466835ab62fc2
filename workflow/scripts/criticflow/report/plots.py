"""Pictures that stages leave beside their results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert
from numpy.typing import NDArray

from criticflow.files import replacing
from criticflow.report.charts import THEME, frame

Floats = NDArray[np.float64]

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


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
    width = 1 / n
    rates = pd.DataFrame({"rate": np.round(np.asarray(pass_rates) * n) / n})
    rates = rates.groupby("rate", as_index=False).size()
    rates = rates.assign(low=rates["rate"] - width / 2, high=rates["rate"] + width / 2)
    histogram = (
        alt.Chart(frame(rates), title="Pass rates")
        .mark_rect(color=BLUE, stroke="white")
        .encode(
            x=alt.X("low:Q", title=f"pass rate of {n} samples"),
            x2="high:Q",
            y=alt.Y("size:Q", title="prompts"),
            y2=alt.datum(0),
        )
    )
    points = pd.DataFrame({"rate": pass_rates, "variance": variances}).round(6)
    points = points.groupby(["rate", "variance"], as_index=False).size()
    curve = pd.DataFrame({"rate": np.linspace(0, 1, 51)})
    curve["variance"] = curve["rate"] * (1 - curve["rate"])
    axes = {"x": alt.X("rate:Q", title="pass rate"), "y": alt.Y("variance:Q")}
    signal = alt.layer(
        alt.Chart(frame(curve)).mark_line(color="black", strokeDash=[5, 4]).encode(**axes),
        alt.Chart(frame(points))
        .mark_point(filled=True, color=ORANGE, opacity=0.6)
        .encode(
            x=axes["x"],
            y=alt.Y("variance:Q", title="variance of rewards"),
            size=alt.Size("size:Q", legend=None),
        ),
        title="Signal per prompt (dashed: 0/1 rewards, p(1 - p))",
    )
    counts, edges = np.histogram(lengths, bins=_length_bins(np.asarray(lengths)))
    bins = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "responses": counts})
    length = (
        alt.Chart(frame(bins), title="Response length")
        .mark_rect(color=GREEN, stroke="white")
        .encode(
            x=alt.X("low:Q", title="tokens", scale=alt.Scale(zero=False)),
            x2="high:Q",
            y=alt.Y("responses:Q", title="responses"),
            y2=alt.datum(0),
        )
    )
    _save([histogram, signal, length], title, out)


def plot_critic(
    summary: Mapping[str, Any], prompts: pd.DataFrame, title: str, out: Path | str
) -> None:
    """Write a PNG of three panels: reliability, V(prompt) against pass rate, the way to the end.

    Args:
        summary: figures of a critic (:func:`criticflow.stages.critics.critic_figures`).
        prompts: ``value`` and ``pass_rate`` per prompt.
    """
    bins = pd.DataFrame(
        [
            {"states": name, "value": row["mean_value"], "return": row["mean_return"]}
            for name, rows in summary["reliability"].items()
            for row in rows
        ]
    )
    ends = pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]})
    diagonal = (
        alt.Chart(frame(ends)).mark_line(color="black", strokeDash=[5, 4]).encode(x="x:Q", y="y:Q")
    )
    reliability = alt.layer(
        diagonal,
        alt.Chart(frame(bins))
        .mark_line(point=True)
        .encode(
            x=alt.X("value:Q", title="mean value"),
            y=alt.Y("return:Q", title="mean return"),
            color=_named("states", ["tokens", "prompt", "last"]),
        ),
        title="Reliability",
    )
    at_prompt = alt.layer(
        diagonal,
        alt.Chart(frame(prompts[["value", "pass_rate"]].reset_index(drop=True)))
        .mark_boxplot(extent=1.5, outliers=False, color=ORANGE)
        .encode(x=alt.X("pass_rate:Q", title="pass rate"), y=alt.Y("value:Q", title="V(prompt)")),
        title=f"{len(prompts)} prompts",
    )
    way = pd.DataFrame(
        [
            {"figure": label, "position": row["position"], **row[name]}
            for name, label in (("explained_variance", "explained variance"), ("auc", "AUC"))
            for row in summary["positions"]
            if row[name] is not None
        ],
        columns=["figure", "position", "value", "low", "high"],
    )
    base = alt.Chart(frame(way), title="From prompt to end").encode(
        x=alt.X("position:Q", title="share of the response"),
        color=_named("figure", ["explained variance", "AUC"]),
    )
    along = alt.layer(
        base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        base.mark_line().encode(y="value:Q"),
    )
    _save([reliability, at_prompt, along], title, out)


def _length_bins(lengths: Floats) -> Floats | int:
    return np.arange(lengths.max() + 2) - 0.5 if lengths.max() < 64 else 50


def _named(field: str, names: list[str]) -> alt.Color:
    scale = alt.Scale(domain=names, range=[BLUE, ORANGE, GREEN][: len(names)])
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(orient="bottom", title=None))


def _save(panels: list[alt.TopLevelMixin], title: str, out: Path | str) -> None:
    """Panels side by side, each with scales of its own."""
    sized = [panel.properties(width=300, height=240) for panel in panels]
    chart = alt.hconcat(*sized, title=title).resolve_scale(color="independent", size="independent")
    spec = chart.configure(**THEME).to_dict(validate=False)
    with replacing(out) as partial:
        partial.write_bytes(vl_convert.vegalite_to_png(spec, scale=1.5))
