"""Where the time of a step goes, arm by arm."""

from __future__ import annotations

import altair as alt
import pandas as pd

from criticflow.report.charts import Figure, finished, frame
from criticflow.report.figures.curves import Metrics

PARTS = {
    "timing_s/gen": "rollouts",
    "timing_s/old_log_prob": "log-probabilities",
    "timing_s/ref": "reference policy",
    "timing_s/values": "values",
    "timing_s/update_critic": "critic's update",
    "timing_s/update_actor": "actor's update",
    "timing_s/update_weights": "weights to the engine",
}
"""verl's timers, less those of starting and saving."""
COLORS = ("#0072B2", "#56B4E9", "#999999", "#E69F00", "#D55E00", "#009E73", "#CC79A7")


def step_times(metrics: Metrics) -> list[Figure]:
    """Median seconds of the parts of a step; the first step of a run pays for starting."""
    rows = []
    for arm, seeds in metrics.items():
        tables = [table.loc[table.index > table.index.min()] for table in seeds.values()]
        for column, part in PARTS.items():
            found = [table[column].dropna() for table in tables if column in table]
            if found and len(seconds := pd.concat(found)):
                rows.append({"arm": arm, "part": part, "seconds": float(seconds.median())})
    if not rows:
        return []
    table = pd.DataFrame(rows)
    present = [part for part in PARTS.values() if part in set(table["part"])]
    colors = {part: COLORS[list(PARTS.values()).index(part)] for part in present}
    base = alt.Chart(
        frame(table.assign(order=table["part"].map({p: n for n, p in enumerate(PARTS.values())})))
    )
    y = alt.Y("arm:N", sort=None, axis=None)
    bars = base.mark_bar(yOffset=7, height=14).encode(
        y=y,
        x=alt.X("seconds:Q", title="seconds a step, medians of its parts"),
        order="order:Q",
        color=alt.Color(
            "part:N",
            sort=None,
            scale=alt.Scale(domain=list(colors), range=list(colors.values())),
            legend=alt.Legend(orient="bottom", title=None, columns=2),
        ),
        tooltip=["arm:N", "part:N", alt.Tooltip("seconds:Q", format=".3g")],
    )
    names = (
        alt.Chart(frame(pd.DataFrame({"arm": list(dict.fromkeys(table["arm"]))})))
        .mark_text(align="left", baseline="bottom", dy=-2, dx=2, fontSize=12)
        .encode(y=y, text="arm:N", x=alt.value(0))
    )
    height = 36 * table["arm"].nunique()
    return [
        Figure(
            "step-times",
            "Where the time of a step goes",
            "A frozen critic still gives values, and is never updated. Timers of one machine; "
            "other jobs on it lengthen them.",
            finished(alt.layer(bars, names), height=height),
            table,
        )
    ]
