"""Gradients of a language model's log-probabilities, token by token, as their inner products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

BLOCK = 2**28
"""Numbers of a block of gradients, at most: 1 GiB in float32."""


def passes(parameters: int, tokens: int, block: int = BLOCK) -> int:
    """How often all tokens are gone through: a block has some parameters' gradients of all."""
    return -(-parameters // max(1, block // tokens))


def token_products(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    temperature: float,
    block: int = BLOCK,
) -> NDArray[np.float32]:
    """Inner products ``<grad log pi(a_t | s_t), grad log pi(a_u | s_u)>`` of all pairs of tokens.

    pi is the softmax of the logits over the temperature, the gradient that by all parameters of the
    model. One backward pass a token, and memory for ``block`` numbers of gradients beside the model
    and one gradient of it; the more tokens and parameters, the more often that is repeated
    (:func:`passes`).

    Returns:
        Shape ``(tokens, tokens)``, the tokens of all responses in order.
    """
    model.eval()
    weights = [weight.requires_grad_(True) for weight in model.parameters()]
    total = sum(weight.numel() for weight in weights)
    count = sum(map(len, responses))
    width = max(1, block // count)
    products = torch.zeros(count, count, dtype=torch.float64)
    for start in range(0, total, width):
        stop = min(start + width, total)
        chosen, inside = _overlapping(weights, start, stop)
        gradients = torch.empty(count, stop - start, device=model.device)
        row = 0
        for prompt, response in zip(prompts, responses, strict=True):
            for one in _log_probabilities(model, prompt, response, temperature):
                found = torch.autograd.grad(one, chosen, retain_graph=True, allow_unused=True)
                flat = [
                    torch.zeros_like(weight).flatten() if part is None else part.flatten()
                    for part, weight in zip(found, chosen, strict=True)
                ]
                gradients[row] = torch.cat(flat)[inside]
                row += 1
        products += (gradients @ gradients.T).double().cpu()
        del gradients
    return products.float().numpy()


def _log_probabilities(
    model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], temperature: float
) -> Iterator[torch.Tensor]:
    """log pi of each token of a response, as scalars of one graph."""
    ids = torch.tensor([[*map(int, prompt), *map(int, response)]], device=model.device)
    logits = model(input_ids=ids[:, :-1]).logits[0, len(prompt) - 1 :].float() / temperature
    yield from logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def _overlapping(
    weights: Sequence[torch.Tensor], start: int, stop: int
) -> tuple[list[torch.Tensor], slice]:
    """Weights that have some of the parameters start to stop, and where these lie among theirs."""
    chosen, before, at = [], None, 0
    for weight in weights:
        if at < stop and at + weight.numel() > start:
            chosen.append(weight)
            before = at if before is None else before
        at += weight.numel()
    first = before or 0
    return chosen, slice(start - first, stop - first)
