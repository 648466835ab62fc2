"""A control run: a critic whose value is the same for every state.

    V(s_t) = c                       c = ``critic.constant``
    A_t    = lambda^(T-t) (r_T - c)  with gamma = 1 and one reward, at the last token T

All temporal differences but the last are 0, so A_t is the outcome less a constant: REINFORCE
with a constant baseline, through the same code, batches and normalisation of advantages as every
other run. What a trained critic is worth is what a run gains over this one.

The last bias of the value head is c, every other parameter of the head is 0; the rest of the model
and everything in PPO are unchanged. The critic must be frozen, or it would learn.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def make_constant(model: PreTrainedModel, value: float) -> None:
    """Turn a value model's head (``linear`` or ``mlp``) into a constant, in place.

    Parameters on the meta device (ranks that receive their weights from rank 0) stay as they are.
    """
    parameters = [item for item in model.score.parameters() if not item.is_meta]
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
        if parameters:
            parameters[-1].fill_(value)  # the bias of the last layer
