"""Pictures that stages leave beside their results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from criticflow.files import replacing
from criticflow.report.charts import THEME, frame
from criticflow.report.figures.probe import Floats, panels

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def plot_probe(
    pass_rates: Floats, variances: Floats, lengths: Floats, n: int, title: str, out: Path | str
) -> None:
    """Write a PNG of three panels: pass rates, reward variance against pass rate, lengths.

    Args: see :func:`criticflow.report.figures.probe.panels`.
    """
    figures = panels(pass_rates, variances, lengths, n)
    _save([figure.chart.properties(title=figure.title) for figure in figures], title, out)


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
