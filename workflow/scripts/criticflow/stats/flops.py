"""Floating-point operations of a training, estimated from the sizes of its models.

Kaplan et al. 2020 (arXiv 2001.08361, section 2.1 and table 1): of one token the forward pass of a
transformer takes ``2 N + 2 layers * context * width`` operations, where N are the parameters that
multiply every token and width that of the attention; the backward pass takes twice as many.

N is here without the table of input embeddings, which is looked up, and with the output layer: of a
small model with a large vocabulary that is no small part. ``context`` is the mean length of a
sequence; with it the second term is what both products of attention take under a causal mask.
Operations of the model count, not what is computed twice to spare memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
TRAINED = 3
"""Forward and backward pass together, in forward passes."""


@dataclass(frozen=True)
class Size:
    """What the operations of a model depend on.

    Attributes:
        parameters: all of them.
        multiplied: those that multiply every token.
        layers: transformer layers.
        width: of the attention, heads x width of a head.
    """

    parameters: int
    multiplied: int
    layers: int
    width: int

    def forward(self, tokens: ArrayLike, context: ArrayLike) -> Floats:
        """Operations of the forward pass of ``tokens`` in sequences of ``context`` tokens."""
        each = 2 * self.multiplied + 2 * self.layers * self.width * np.asarray(context, np.float64)
        return np.asarray(tokens, np.float64) * each


@dataclass(frozen=True)
class Passes:
    """How often the tokens of a step go through the models.

    Attributes:
        actor_epochs, critic_epochs: passes over a step's batch that learn; 0: it does not learn.
        values: whether a critic gives values.
        reference: whether the reference policy gives log-probabilities.
    """

    actor_epochs: int
    critic_epochs: int
    values: bool
    reference: bool


def of_steps(
    tokens: ArrayLike,
    context: ArrayLike,
    updates_actor: ArrayLike,
    actor: Size,
    critic: Size | None,
    passes: Passes,
) -> Floats:
    """Operations of every step of PPO or GRPO, shape ``(steps,)``.

    Rollouts and the log-probabilities of the old policy are one forward pass of the actor each;
    the reference policy and the critic's values one more; an update three for every epoch.

    Args:
        tokens: of prompts and responses, by step.
        context: mean length of prompt and response together, by step.
        updates_actor: whether the actor is updated in the step; in warm-up steps it is not.
        actor: also of the reference policy.
        critic: None: there is none, or it is a constant.
    """
    learns = np.asarray(updates_actor, np.float64)
    times = 2 + passes.reference + TRAINED * passes.actor_epochs * learns
    found = times * actor.forward(tokens, context)
    if critic is not None:
        times_critic = passes.values + TRAINED * passes.critic_epochs
        found = found + times_critic * critic.forward(tokens, context)
    return found


def size_of(found: Mapping[str, Any]) -> Size | None:
    """A size as it stands in a JSON file; None: the file does not say it."""
    keys = ("parameters", "multiplied", "layers", "width")
    return Size(*(found[key] for key in keys)) if all(found.get(key) for key in keys) else None
