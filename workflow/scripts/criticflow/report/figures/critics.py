"""Critics against the truth about values (``critics.json``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from criticflow.report.charts import SHOWN, Figure, arm_encodings, finished, frame, switchable
from criticflow.report.palette import GREY, Style

Row = Mapping[str, Any]

REFERENCES = {"position": "knows the position alone", "prompt_mean": "mean of other responses"}
"""Kinds of rows that need no critic; the best constant's share is 0 by definition, and k samples of
Monte Carlo are worth k."""
ROW = 34


def compared(rows: Sequence[Row], styles: Mapping[str, Style]) -> list[Figure]:
    """Share explained and worth in rollouts of every critic, by the actor it is judged on."""
    if not rows:
        return []
    found = []
    for name, title, figure, floor, caption in (
        (
            "share-explained",
            "Share of the value function that a critic explains",
            "share_explained",
            None,
            "1 is the true value function, 0 the best constant; below 0 a critic is worse than "
            "that. Truth: the mean score of many continuations from each state, its noise taken "
            "out.",
        ),
        (
            "worth-in-rollouts",
            "What a critic is worth in rollouts",
            "worth_in_rollouts",
            "constant_worth",
            "A value as near to the truth as the mean of this many continuations from the same "
            "state. The grey line is what the best constant is worth.",
        ),
    ):
        table = _table(rows, figure, floor)
        if not table.empty:
            found.append(
                Figure(name, title, f"{caption} {_bars(table)}", _dots(table, styles), table)
            )
    return found


def by_position(rows: Sequence[Row], styles: Mapping[str, Style]) -> list[Figure]:
    """Share explained from the prompt to the end of the response, on the critic's own actor."""
    table = pd.DataFrame(
        [
            {
                "arm": row["critic"],
                "position": part["position"],
                "value": part["share_explained"]["value"],
            }
            for row in rows
            if row["kind"] in ("run", "pretrained") and row["actor"] == row["critic"]
            for part in row["by_position"]
            if part["share_explained"]["value"] is not None
        ]
    )
    if table.empty:
        return []
    table = table.groupby(["arm", "position"], sort=False, as_index=False).mean()
    return [
        Figure(
            "share-by-position",
            "Share explained, from the prompt to the end",
            "Of the critic's own actor; 0 on the axis is the prompt, 1 where the last token is "
            "chosen. Mean over seeds.",
            _lines(table, styles, "share explained"),
            table,
        )
    ]


def stale(rows: Sequence[Row], styles: Mapping[str, Style]) -> list[Figure]:
    """Squared error of a run's critics on its actors of other steps, by how far these are."""
    table = pd.DataFrame(
        [
            {
                "arm": row["critic"],
                "seed": row["critic_seed"],
                "critic_step": row["critic_step"],
                "actor_step": row["actor_step"],
                "line": f"{row['critic']}, seed {row['critic_seed']}, step {row['critic_step']}",
                "kl": row["kl_from_learned"]["value"],
                "kl_low": row["kl_from_learned"]["low"],
                "kl_high": row["kl_from_learned"]["high"],
                "value": row["mse"]["value"],
                "low": row["mse"]["low"],
                "high": row["mse"]["high"],
                "share_explained": row["share_explained"]["value"],
                **{
                    f"{part}{bound}": found[name]
                    for part, found in (row.get("staleness") or {}).items()
                    for bound, name in (("", "value"), ("_low", "low"), ("_high", "high"))
                },
            }
            for row in rows
            if row.get("kl_from_learned") and row["kind"] == "run"
        ]
    )
    if table.empty:
        return []
    base = alt.Chart(frame(table)).transform_filter(SHOWN)
    color = arm_encodings(styles)["color"]
    x = alt.X("kl:Q", title="KL(actor || actor that the critic learned with), nats a token")
    y = alt.Y("value:Q", title="mse", scale=alt.Scale(zero=False))
    named = ["kl", "value", *({"drift", "shift"} & set(table))]
    shown = [alt.Tooltip(f"{name}:Q", format=".4f") for name in sorted(named)]
    layers = [
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color, detail="line:N"),
        base.mark_rule().encode(x=x, y="low:Q", y2="high:Q", color=color),
        base.mark_point(filled=True, size=40).encode(
            x=x, y=y, color=color, tooltip=["line:N", "actor_step:Q", *shown]
        ),
    ]
    return [
        Figure(
            "staleness",
            "How a critic ages as the actor moves on",
            "Squared error of the critic of one step on the actors of the run's steps, by the KL "
            "divergence of these from the actor of the critic's own step (0), on the responses of "
            "the actor that is judged. Errors are compared, not shares: the actors' variances "
            "differ. Bars: 95 % intervals over problems.",
            finished(switchable(alt.layer(*layers))),
            table,
        )
    ]


def held_out(summaries: Sequence[Row], styles: Mapping[str, Style]) -> list[Figure]:
    """AUC along the way on held-out responses, from every critic's evaluation."""
    table = pd.DataFrame(
        [
            {"arm": row["name"], "position": part["position"], "value": part["auc"]["value"]}
            for row in summaries
            for part in row["positions"]
            if part.get("auc") is not None and "position" in part
        ]
    )
    if table.empty:
        return []
    table = table.groupby(["arm", "position"], sort=False, as_index=False).mean()
    return [
        Figure(
            "auc-by-position",
            "Telling right responses from wrong ones",
            "AUC: how often a right response has the higher value than a wrong one, on held-out "
            "problems, from the prompt (0) to the last token (1). 0.5 is chance. Mean over seeds.",
            _lines(table, styles, "AUC"),
            table,
        )
    ]


def _table(rows: Sequence[Row], figure: str, floor: str | None) -> pd.DataFrame:
    """One row a critic and actor: over seeds the mean and their range, or one seed's interval."""
    flat = pd.DataFrame(
        [
            {
                "arm": REFERENCES.get(row["kind"], row["critic"]),
                "kind": row["kind"],
                "on": _on(row),
                "seed": row["critic_seed"] if row["critic_seed"] is not None else row["actor_seed"],
                **row[figure],
                "floor": row[floor]["value"] if floor else 0.0,
            }
            for row in rows
            if row["kind"] in ("run", "pretrained", *REFERENCES)
            and row[figure]["value"] is not None
        ]
    )
    if flat.empty:
        return flat
    flat = flat.sort_values("kind", key=lambda kind: kind.isin(REFERENCES), kind="stable")
    parts = []
    for (arm, kind, on), part in flat.groupby(["arm", "kind", "on"], sort=False):
        several = len(part) > 1
        parts.append(
            {
                "arm": arm,
                "kind": kind,
                "on": on,
                "count": len(part),
                "value": part["value"].mean(),
                "low": part["value"].min() if several else part["low"].iloc[0],
                "high": part["value"].max() if several else part["high"].iloc[0],
                "floor": part["floor"].mean(),
            }
        )
    return pd.DataFrame(parts)


def _on(row: Row) -> str:
    """Whose states a critic is judged on."""
    if row["kind"] in REFERENCES:
        return "all actors"
    if row["actor_seed"] is None:
        return "the base model"
    return "its own actor" if row["actor"] == row["critic"] else "another actor"


def _bars(table: pd.DataFrame) -> str:
    if (table["count"] > 1).any():
        return "Bars: the range of several seeds or actors; of a single one its 95 % interval."
    return "Bars: 95 % intervals over problems."


def _dots(table: pd.DataFrame, styles: Mapping[str, Style]) -> alt.TopLevelMixin:
    table = table.assign(label=table["arm"] + ", on " + table["on"])
    names = list(dict.fromkeys(table["arm"]))
    colors = [styles[name].color if name in styles else GREY for name in names]
    color = alt.Color("arm:N", scale=alt.Scale(domain=names, range=colors), legend=None)
    y = alt.Y("label:N", sort=None, axis=None)
    base = alt.Chart(frame(table))
    scale = alt.Scale(zero=False)
    layers = [
        base.mark_tick(color=GREY, thickness=2, height=14, yOffset=6).encode(
            y=y, x=alt.X("floor:Q", scale=scale, title=None)
        ),
        base.mark_rule(strokeWidth=2, yOffset=6).encode(y=y, x="low:Q", x2="high:Q", color=color),
        base.mark_point(filled=True, size=80, opacity=1, yOffset=6).encode(
            y=y,
            x=alt.X("value:Q", scale=scale, title=None),
            color=color,
            tooltip=[
                "arm:N",
                "kind:N",
                "on:N",
                "count:Q",
                *(
                    alt.Tooltip(f"{name}:Q", format=".3f")
                    for name in ("value", "low", "high", "floor")
                ),
            ],
        ),
        base.mark_text(align="left", baseline="bottom", dy=-1, dx=2, fontSize=11).encode(
            y=y, text="label:N", x=alt.value(0)
        ),
    ]
    return finished(alt.layer(*layers), height=ROW * len(table))


def _lines(table: pd.DataFrame, styles: Mapping[str, Style], title: str) -> alt.TopLevelMixin:
    base = alt.Chart(frame(table)).transform_filter(SHOWN)
    look = arm_encodings(styles)
    x = alt.X("position:Q", title="share of the response")
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    tooltip = ["arm:N", "position:Q", alt.Tooltip("value:Q", format=".3f")]
    lines = base.mark_line(strokeWidth=2).encode(x=x, y=y, **look)
    points = base.mark_point(filled=True, size=30).encode(
        x=x, y=y, color=look["color"], tooltip=tooltip
    )
    return finished(switchable(alt.layer(lines, points)))
