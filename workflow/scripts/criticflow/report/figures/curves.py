"""What training looked like, step by step: a line an arm, a band over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import altair as alt
import pandas as pd

from criticflow.report.charts import SHOWN, Figure, arm_encodings, finished, frame, switchable
from criticflow.report.palette import Style

POINTS = 300
"""Most points of a line: a reader cannot distinguish more."""

Metrics = Mapping[str, Mapping[int, pd.DataFrame]]
"""``metrics.parquet`` by arm and seed, indexed by step."""


@dataclass(frozen=True)
class Panel:
    """A metric that is drawn over the steps.

    Attributes:
        name: of the figure.
        title: with its unit.
        column: of ``metrics.parquet``; verl's name of the metric.
        caption: what it means.
        healthy: from and to, as far as the sources say what is healthy.
        claim: whose range that is, in a few words.
    """

    name: str
    title: str
    column: str
    caption: str
    healthy: tuple[float | None, float | None] = (None, None)
    claim: str = ""


LEARNING = (
    Panel(
        "score",
        "Training score, before any mask",
        "critic/score/mean",
        "Mean task score of the rollouts of a step. The reward mask acts after it is taken: it is "
        "what the actor got right, not what it was paid for.",
    ),
    Panel(
        "true-explained-variance",
        "Explained variance of true returns, in training",
        "criticflow/explained_variance/true_return",
        "How much of the returns' variance the critic's values explain, over the tokens of a step; "
        "returns are those of the scores before any mask. 0 is the best constant, below 0 is worse "
        "than it.",
    ),
)

HEALTH = (
    Panel(
        "entropy",
        "Entropy (nats a token)",
        "actor/entropy",
        "Entropy of the actor's choices. Under 0.01 (the dashed line) it has one answer to each "
        "prompt: mode collapse.",
        (0.01, None),
    ),
    Panel(
        "kl",
        "KL to the policy before the step (nats a token)",
        "actor/ppo_kl",
        "How far the updates of a step moved the actor from the policy that made the rollouts.",
    ),
    Panel(
        "length",
        "Response length (tokens)",
        "response_length/mean",
        "Mean length of the rollouts. A sudden fall means that the actor has stopped to reason, a "
        "steady rise to the limit that responses are cut off.",
    ),
    Panel(
        "grad-norm",
        "Gradient norm of the actor",
        "actor/grad_norm",
        "Before clipping. 0.05 to 0.2 (between the dashed lines) is healthy for models of billions "
        "of parameters at learning rates about 1e-6; a small model at a high rate lies above.",
        (0.05, 0.2),
    ),
    Panel(
        "critic-grad-norm",
        "Gradient norm of the critic",
        "critic/grad_norm",
        "Before clipping; a frozen critic has none.",
    ),
    Panel(
        "value",
        "Mean value",
        "critic/values/mean",
        "Mean of the critic's values over the tokens of a step. A critic that learns from masked "
        "rewards settles below the scores.",
    ),
    Panel(
        "memory",
        "Memory of a training worker (GiB)",
        "actor/perf/max_memory_allocated_gb",
        "Peak of the worker that holds actor and critic: GPU memory, on the CPU its resident "
        "memory. A frozen critic has neither gradients nor optimizer state.",
    ),
)


def validation(
    metrics: Metrics, styles: Mapping[str, Style], threshold: float | None = None
) -> list[Figure]:
    """Scores on the validation split, where runs were tested during training.

    Args:
        threshold: the score whose cost is compared.
    """
    line = "" if threshold is None else " The dashed line is the threshold, fixed beforehand."
    columns = {
        column
        for seeds in metrics.values()
        for table in seeds.values()
        for column in table
        if column.startswith("val-core/")
    }
    panels = [
        Panel(
            f"validation-{number}" if number else "validation",
            f"Validation: {column.removeprefix('val-core/')}",
            column,
            f"On the validation split, every few steps (train.test_every).{line}",
            (threshold, None),
        )
        for number, column in enumerate(sorted(columns))
    ]
    return drawn(panels, metrics, styles)


def drawn(
    panels: tuple[Panel, ...] | list[Panel], metrics: Metrics, styles: Mapping[str, Style]
) -> list[Figure]:
    """The panels that some run has logged."""
    found = []
    for panel in panels:
        table = over_seeds(metrics, panel.column)
        if not table.empty:
            found.append(
                Figure(panel.name, panel.title, panel.caption, _chart(panel, table, styles), table)
            )
    return found


def over_seeds(metrics: Metrics, column: str) -> pd.DataFrame:
    """``arm``, ``step``, ``seeds``, ``mean``, ``low`` and ``high`` (of the seeds) of a metric."""
    parts = []
    for arm, seeds in metrics.items():
        lines = [table[column].dropna() for table in seeds.values() if column in table]
        lines = [line for line in lines if len(line)]
        if not lines:
            continue
        together = pd.concat(lines, axis=1)
        keep = together.iloc[:: -(-len(together) // POINTS)]
        parts.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "step": keep.index,
                    "seeds": keep.notna().sum(axis=1).to_numpy(),
                    "mean": keep.mean(axis=1).to_numpy(),
                    "low": keep.min(axis=1).to_numpy(),
                    "high": keep.max(axis=1).to_numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _chart(panel: Panel, table: pd.DataFrame, styles: Mapping[str, Style]) -> alt.TopLevelMixin:
    look = arm_encodings(styles)
    base = alt.Chart(frame(table)).transform_filter(SHOWN)
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False))
    y = alt.Y("mean:Q", title=None, scale=alt.Scale(zero=False))
    layers = list(_limits(panel, table))
    if (table["seeds"] > 1).any():
        layers.append(
            base.mark_area(opacity=0.15).encode(
                x=x, y=alt.Y("low:Q"), y2="high:Q", color=look["color"]
            )
        )
    layers.append(base.mark_line(strokeWidth=2).encode(x=x, y=y, **look))
    layers.append(
        base.mark_point(opacity=0, size=80).encode(
            x=x,
            y=y,
            tooltip=[
                "arm:N",
                "step:Q",
                *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("mean", "low", "high")),
                "seeds:Q",
            ],
        )
    )
    return finished(switchable(alt.layer(*layers)))


def _limits(panel: Panel, table: pd.DataFrame) -> list[alt.Chart]:
    """Lines at the ends of the healthy range."""
    ends = [end for end in panel.healthy if end is not None]
    if not ends:
        return []
    rule = alt.Chart(frame(pd.DataFrame({"end": ends})))
    return [rule.mark_rule(color="#8a1c1c", strokeDash=[3, 3]).encode(y="end:Q")]
