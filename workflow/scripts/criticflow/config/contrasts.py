"""``contrasts``: which runs a study compares, and what that comparison can answer.

A contrast answers a question about one factor only where its two runs differ in that factor alone.
What differs is read from the resolved settings, not from names, so that a setting which came
along by inheritance is found too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from criticflow.config.fields import Strict
from criticflow.config.names import Name, RunName
from criticflow.config.runs import Run

FACTOR_OF = {
    "critic.from": "critic source",
    "critic.from_step": "critic source",
    "critic.from_seed": "critic source",
    "critic.pretrained": "critic source",
    "critic.path": "critic source",
    "critic.revision": "critic source",
    "critic.constant": "critic source",
    "critic.oracle": "critic source",
    "critic.scale": "critic source",
    "critic.shuffle": "critic source",
    "critic.freeze": "freeze",
    "reward_mask": "mask",
    "train.lam": "lambda",
    "algorithm": "algorithm",
    "search.mask_observations": "state masking",
}
"""The declared factor of a setting, and of all that lies below it."""

_OF_A_CRITIC = ("critic.value_head", "critic.allow_untrained", "train.critic_lr")
# Steps in which only a learning critic learns come on top of the actor's, whose number is equal.
_WARM_UP = ("train.critic_warmup", "train.steps")
IMPLIED = {
    "critic source": (*_OF_A_CRITIC, *_WARM_UP),
    "freeze": (*_OF_A_CRITIC, *_WARM_UP),
    "mask": (),
    "lambda": (),
    "state masking": (),
    # GRPO has no critic, and several responses to each of fewer prompts.
    "algorithm": (
        "critic",
        "train.critic_lr",
        "train.lam",
        "train.rollout_n",
        "train.batch_size",
        "train.mini_batch_size",
        *_WARM_UP,
    ),
}
"""Settings that have to differ, or have no effect, where a factor differs: they don't count."""

WITHOUT_EFFECT = (
    "train.save_every",
    "train.keep_checkpoints",
    "train.keep_steps",
    "train.test_every",
    "train.logger",
)
"""Settings that decide what is kept and watched, not what is learned."""


class Contrast(Strict):
    """The difference between two runs over their seeds: ``a`` minus ``b``."""

    name: Name = Field(description="what the report calls it")
    a: RunName = Field(description="the run that is judged")
    b: RunName = Field(description="the run that it is judged against")
    kind: Literal["primary", "secondary", "bundle"] = Field(
        "secondary",
        description="primary: tested alone, at most one, the first; secondary: corrected for their "
        "number; bundle: the runs differ in several things, so it says nothing about one of them",
    )
    metric: str = Field(
        "greedy.pass@1",
        pattern=r"^((greedy\.)?(mean_score|pass@1)|pass@[1-9]\d*)$",
        description="figure of the test split: greedy.pass@1, greedy.mean_score, pass@k or "
        "mean_score (sampled)",
    )


def settings_difference(a: Run, b: Run) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with the values in ``a`` and in ``b``; None: not there."""
    first, second = (_flat(run.model_dump(mode="json", by_alias=True)) for run in (a, b))
    keys = dict.fromkeys([*first, *second])
    pairs = {key: (first.get(key), second.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def differs_in(a: Run, b: Run) -> list[str]:
    """Factors in which two runs differ; a setting that is part of none stands for itself.

    What a factor implies is not counted: a constant and an oracle are frozen, GRPO has no critic.
    """
    keys = [key for key in settings_difference(a, b) if not _below(key, WITHOUT_EFFECT)]
    factors = dict.fromkeys(found for key in keys if (found := _factor(key)))
    if "algorithm" in factors:
        for factor in ("critic source", "freeze", "lambda"):
            factors.pop(factor, None)
    if a.critic.is_model != b.critic.is_model:
        factors.pop("freeze", None)
    implied = [key for factor in factors for key in IMPLIED[factor]]
    rest = [key for key in keys if _factor(key) is None and not _below(key, implied)]
    return [*factors, *rest]


def actor_updates(run: Run) -> int:
    """Optimizer steps of the actor in one training."""
    train = run.train
    steps = train.steps - (train.critic_warmup if run.critic_learns else 0)
    epochs = train.verl.get("actor_rollout_ref.actor.ppo_epochs", 1)
    return steps * epochs * train.batch_size // train.mini_batch_size


def gae_lambda(run: Run) -> float | None:
    """Lambda of the actor's advantages; GRPO has none."""
    return None if run.algorithm == "grpo" else run.train.verl.get("algorithm.lam", run.train.lam)


def declared(contrasts: Sequence[Contrast], runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """Contrasts as JSON, each with the factors in which its runs differ, and its oracle."""
    return [
        {
            **contrast.model_dump(mode="json"),
            "differs_in": ", ".join(differs_in(runs[contrast.a], runs[contrast.b])),
            "oracle": oracle_of(contrast, runs),
        }
        for contrast in contrasts
    ]


def oracle_of(contrast: Contrast, runs: Mapping[str, Run]) -> str | None:
    """The run that is a ceiling for a contrast with a constant critic: it differs from both runs in
    the critic's source alone (and whether that learns), and its values are an oracle's."""
    a, b = runs[contrast.a], runs[contrast.b]
    if b.algorithm == "grpo" or b.critic.constant is None or a.critic.oracle is not None:
        return None
    allowed = {"critic source", "freeze"}
    return next(
        (
            name
            for name, run in runs.items()
            if run.critic.oracle is not None
            and all(set(differs_in(run, other)) <= allowed for other in (a, b))
        ),
        None,
    )


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{above}{key}.")
        elif value != {}:
            found[f"{above}{key}"] = value
    return found


def _factor(key: str) -> str | None:
    if key == "train.verl.algorithm.lam":
        return "lambda"
    return next((factor for part, factor in FACTOR_OF.items() if _below(key, [part])), None)


def _below(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)
