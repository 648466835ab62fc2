"""Log-probabilities in chunks, beside verl's row by row."""

from __future__ import annotations

import pytest
import torch
from verl.utils import torch_functional

from criticflow.verl_plugin import log_probabilities as chunked
from criticflow.verl_plugin import patches

BY_ROW = torch_functional.logprobs_from_logits_v2
"""verl's own: the plugin's patch is not applied in this process before a test does it."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("vocabulary", "rows"), [(40, 4000), (5003, 60), (151936, 5)])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_values_and_gradients_are_those_of_verl_bit_for_bit(dtype, vocabulary, rows, scale):
    generator = torch.Generator().manual_seed(0)
    given = (scale * torch.randn(rows, vocabulary, generator=generator)).to(dtype)
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator).to(dtype)
    found = []
    for function in (BY_ROW, chunked.log_probabilities):
        logits = given.clone().requires_grad_()
        values = function(logits, labels)
        (values * weights).sum().backward()
        found.append((values.detach(), logits.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_any_number_of_dimensions(monkeypatch):
    monkeypatch.setitem(chunked.CHUNK, "cpu", 50)
    logits, labels = torch.randn(3, 7, 11), torch.randint(11, (3, 7))
    expected = torch.log_softmax(logits.double(), dim=-1).gather(-1, labels[..., None])[..., 0]
    assert torch.allclose(chunked.log_probabilities(logits, labels).double(), expected, atol=1e-6)


def test_verl_calls_it(monkeypatch):
    monkeypatch.setattr(torch_functional, "logprobs_from_logits_v2", BY_ROW)
    patches.take_many_rows_of_logits.__wrapped__()
    monkeypatch.setattr(chunked, "_of_rows", lambda logits, labels: torch.full((len(logits),), 7.0))
    logits, labels = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
    assert torch_functional.logprobs_from_logits(logits, labels).tolist() == [7.0] * 5
