"""How far one language model is from another, on given responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel


@torch.inference_mode()
def token_kl(
    model: PreTrainedModel,
    other: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[NDArray[np.float64]]:
    """``KL(model || other)`` of the next token before each token of every response, in nats.

    The sum over the whole vocabulary, of softmaxes over the temperature; ``(tokens,)`` each.
    """
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([[*map(int, prompt), *map(int, response)]])[:, :-1]
        ours, theirs = (
            one.eval()(input_ids=ids.to(one.device)).logits[0, len(prompt) - 1 :].double()
            / temperature
            for one in (model, other)
        )
        ours, theirs = ours.log_softmax(-1), theirs.to(ours.device).log_softmax(-1)
        kl = torch.nn.functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)
        found.append(kl.cpu().numpy())
    return found
