"""Contrasts as a forest plot, and the arms with their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from criticflow.report.charts import SHOWN, Figure, arm_encodings, finished, frame, switchable
from criticflow.report.palette import GREY, Style
from criticflow.stats.contrasts import FEWEST_SEEDS

ROW = 46
"""Pixels of a contrast: its name stands above its interval, so that it fits a phone."""
KINDS = {"primary": "#000000", "secondary": "#0072B2", "bundle": GREY}


def forest(contrasts: Sequence[Mapping[str, Any]], smallest_effect: float | None) -> Figure:
    """Every contrast with its interval, in the order that the study declares."""
    table = pd.DataFrame(
        [
            {
                "contrast": row["name"],
                "a": row["a"],
                "b": row["b"],
                "differs in": row["differs_in"],
                "kind": row["kind"],
                "metric": row["metric"],
                "seeds": len(row["seeds"]),
                **row["difference"],
                "p": row["p"],
                "p_holm": row["p_holm"],
                "verdict": row["verdict"],
                "label": f"{row['name']}: {row['a']} − {row['b']}",
            }
            for row in contrasts
        ]
    )
    drawn = _without_unclaimed_bounds(table)
    layers = _forest_layers(drawn, smallest_effect)
    return Figure(
        "contrasts",
        "Contrasts",
        _forest_caption(bool(drawn["low"].notna().any()), smallest_effect),
        finished(alt.layer(*layers), height=ROW * len(table)),
        table.drop(columns="label"),
    )


def _forest_layers(drawn: pd.DataFrame, smallest_effect: float | None) -> list[alt.Chart]:
    bounds = [drawn[name].dropna() for name in ("value", "low", "high")]
    ends = pd.concat([*bounds, pd.Series([0.0, smallest_effect or 0.0, -(smallest_effect or 0.0)])])
    spread = max(ends.max() - ends.min(), 0.02)
    domain = [ends.min() - 0.04 * spread, ends.max() + 0.04 * spread]
    data = frame(drawn)
    y = alt.Y("label:N", sort=None, axis=None)
    x = {"scale": alt.Scale(domain=domain, nice=False, zero=False)}
    color = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())),
        legend=alt.Legend(orient="top", title=None),
    )
    tooltip = ["contrast:N", "a:N", "b:N", "differs in:N", "kind:N", "metric:N", "seeds:Q"]
    tooltip += [alt.Tooltip(f"{name}:Q", format="+.3f") for name in ("value", "low", "high")]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".3g") for name in ("p", "p_holm")]
    base = alt.Chart(data)
    zero = alt.Chart(frame(pd.DataFrame({"x": [0.0]}))).mark_rule(color="#444").encode(x="x:Q")
    layers = [
        zero,
        base.mark_rule(strokeWidth=2, yOffset=7).encode(
            y=y, x=alt.X("low:Q", **x), x2="high:Q", color=color
        ),
        base.mark_point(filled=True, size=90, opacity=1, yOffset=7).encode(
            y=y,
            x=alt.X(
                "value:Q",
                title="difference, a − b",
                axis=alt.Axis(format="+.2f", tickMinStep=0.01),
                **x,
            ),
            color=color,
            tooltip=tooltip,
        ),
        base.mark_text(align="left", baseline="bottom", dy=-3, dx=2, fontSize=12).encode(
            y=y, text="label:N", x=alt.value(0)
        ),
    ]
    if smallest_effect:
        limits = frame(pd.DataFrame({"low": [-smallest_effect], "high": [smallest_effect]}))
        band = alt.Chart(limits).mark_rect(color="#f1ede0").encode(x="low:Q", x2="high:Q")
        layers.insert(0, band)
    return layers


def _forest_caption(claims: bool, smallest_effect: float | None) -> str:
    return (
        "Each dot is the mean difference of two arms over the seeds and problems that they share; "
        + (
            "bars are 95 % intervals of the crossed seeds x problems model, from three seeds on. "
            if claims
            else "with fewer than three seeds there is no interval, and no claim. "
        )
        + (
            f"Shaded: differences under {smallest_effect:g}, the smallest of interest, fixed "
            "beforehand. "
            if smallest_effect
            else ""
        )
        + "The primary contrast is tested alone; secondary ones share Holm's correction; a bundle "
        "differs in several settings and answers no question about one of them."
    )


def arms(rows: Sequence[Mapping[str, Any]], metric: str, styles: Mapping[str, Style]) -> Figure:
    """Means of all arms with intervals, and every seed beside them."""
    rows = [row for row in rows if row["metric"] == metric]
    table = pd.DataFrame(
        [
            {
                "arm": row["arm"],
                "seeds": len(row["seeds"]),
                **row["mean"],
                "iqm": row["iqm"],
                "sd_seed": row["sd_seed"],
                "sd_problem": row["sd_problem"],
            }
            for row in rows
        ]
    )
    of_seeds = pd.DataFrame(
        [
            {"arm": row["arm"], "seed": seed, "value": value}
            for row in rows
            for seed, value in zip(row["seeds"], row["by_seed"], strict=True)
        ]
    )
    layers = _arm_layers(table, of_seeds, metric, styles)
    return Figure(
        "arms",
        f"Arms by {metric}",
        "Dots are means over seeds and test problems, bars their 95 % intervals (from three "
        "seeds on), ticks the single seeds.",
        finished(switchable(alt.layer(*layers)), height=36 * len(table)),
        table,
    )


def _arm_layers(
    table: pd.DataFrame, of_seeds: pd.DataFrame, metric: str, styles: Mapping[str, Style]
) -> list[alt.Chart]:
    look = arm_encodings(styles, shape=True)
    y = alt.Y("arm:N", sort=None, axis=None)
    scale = alt.Scale(zero=False)
    drawn = _without_unclaimed_bounds(table)
    base = alt.Chart(frame(drawn)).transform_filter(SHOWN)
    bars = base.mark_rule(strokeWidth=2, yOffset=7).encode(
        y=y, x=alt.X("low:Q", scale=scale), x2="high:Q", color=look["color"]
    )
    return [
        *([bars] if drawn["low"].notna().any() else []),  # of no bounds Vega warns
        alt.Chart(frame(of_seeds))
        .transform_filter(SHOWN)
        .mark_tick(yOffset=7, height=12, thickness=1, opacity=0.7)
        .encode(
            y=y,
            x=alt.X("value:Q", scale=scale),
            color=look["color"],
            tooltip=["arm:N", "seed:N", alt.Tooltip("value:Q", format=".3f")],
        ),
        base.mark_point(filled=True, size=90, opacity=1, yOffset=7).encode(
            y=y,
            x=alt.X("value:Q", scale=scale, title=metric),
            tooltip=[
                "arm:N",
                "seeds:Q",
                *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("value", "low", "high")),
            ],
            **look,
        ),
        base.mark_text(align="left", baseline="bottom", dy=-2, dx=2, fontSize=12).encode(
            y=y, text="arm:N", x=alt.value(0)
        ),
    ]


def _without_unclaimed_bounds(table: pd.DataFrame) -> pd.DataFrame:
    """What is drawn: two seeds have an interval, wider than the plot, and no claim."""
    few = table["seeds"] < FEWEST_SEEDS
    return table.assign(**{name: table[name].astype(float).mask(few) for name in ("low", "high")})
