"""What a training had spent after each of its steps, from its metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from criticflow.config import Run
from criticflow.models.size import model_size
from criticflow.stats import flops

UNITS = ("steps", "generated_tokens", "seconds", "flops")
VALIDATION = "val-core/"
"""First part of the columns with scores on validation; their mean over samples ends with this."""
MEAN = "/mean@"
ORACLE_TOKENS = "criticflow/oracle/tokens"


def cumulative(
    metrics: pd.DataFrame, run: Run, actor: Path | None, critic: Path | None
) -> pd.DataFrame:
    """``step`` and :data:`UNITS`, one row a step, 0 first: what it cost until the end of a step.

    ``generated_tokens`` are those of responses and of an oracle's continuations; ``seconds`` verl's
    time of a step, with validation and saving; ``flops`` as :mod:`criticflow.stats.flops` estimates
    them, NaN where the models' sizes are not known. A step that has no metrics (its process died
    before it logged them) counts as the median step.

    Args:
        metrics: ``metrics.parquet``.
        actor, critic: models, or files that say how large they are; None: not known, or none.
    """
    table = metrics[metrics["step"] > 0].sort_values("step")
    sequences = run.train.batch_size * run.train.rollout_n
    response, prompt = (_filled(table, f"{name}_length/mean") for name in ("response", "prompt"))
    spent = {
        "steps": np.ones(len(table)),
        "generated_tokens": sequences * response + _continued(table),
        "seconds": _filled(table, "timing_s/step"),
        "flops": _flops(table, run, sequences, prompt + response, actor, critic),
    }
    steps = np.concatenate([[0], table["step"].to_numpy(int)])
    costs = {unit: np.concatenate([[0.0], np.cumsum(each)]) for unit, each in spent.items()}
    return pd.DataFrame({"step": steps, **costs})


def validation_curve(metrics: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """``score`` on the validation split, at every evaluation, beside ``step`` and costs."""
    columns = [name for name in metrics if name.startswith(VALIDATION) and MEAN in name]
    scores = pd.DataFrame({"step": metrics["step"], "score": metrics[columns].mean(axis=1)})
    scores = scores.dropna().drop_duplicates("step", keep="last")
    return scores.merge(costs, on="step").sort_values("step").reset_index(drop=True)


def _flops(
    table: pd.DataFrame,
    run: Run,
    sequences: int,
    context: np.ndarray,
    actor: Path | None,
    critic: Path | None,
) -> np.ndarray:
    sizes = [
        flops.size_of(model_size(path)) if path is not None and path.exists() else None
        for path in (actor, critic)
    ]
    has_critic = run.algorithm == "ppo" and run.critic.is_model
    if sizes[0] is None or (has_critic and sizes[1] is None):
        return np.full(len(table), np.nan)
    train = run.train
    learns = run.algorithm == "ppo" and not run.critic.freeze
    epochs = int(train.verl.get("actor_rollout_ref.actor.ppo_epochs", 1))
    passes = flops.Passes(
        actor_epochs=epochs,
        critic_epochs=(train.critic_epochs or epochs) if learns else 0,
        values=has_critic,
        reference=train.kl_coef > 0 or train.kl_loss_coef > 0,
    )
    warm_up = train.critic_warmup if learns else 0
    updates = table["step"].to_numpy() > warm_up
    critic_size = sizes[1] if has_critic else None
    found = flops.of_steps(sequences * context, context, updates, sizes[0], critic_size, passes)
    return found + sizes[0].forward(_continued(table), context)


def _continued(table: pd.DataFrame) -> np.ndarray:
    """Tokens of an oracle's continuations in each step."""
    return _filled(table, ORACLE_TOKENS) if ORACLE_TOKENS in table else np.zeros(len(table))


def _filled(table: pd.DataFrame, column: str) -> np.ndarray:
    if column not in table:
        return np.full(len(table), np.nan)
    return table[column].fillna(table[column].median()).to_numpy(np.float64)
