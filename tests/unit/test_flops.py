"""Operations of a training: against published figures, and against torch's own count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForTokenClassification

from criticflow.models.size import model_size
from criticflow.stats import flops
from criticflow.stats.flops import Passes, Size

TOKENS = 64


def test_gpt3_as_published():
    # Brown et al. 2020, table D.1: 174.6 billion parameters, 300 billion tokens, 3.14e23.
    gpt3 = Size(174_600_000_000, 174_600_000_000, 96, 12288)
    assert flops.TRAINED * gpt3.forward(300e9, 0) == pytest.approx(3.14e23, rel=0.002)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [Qwen3ForCausalLM, Qwen3ForTokenClassification])
def test_a_forward_pass_takes_what_torch_counts(tmp_path, kind, tied):
    config = Qwen3Config(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        tie_word_embeddings=tied,
        num_labels=1,
        attn_implementation="eager",
    )
    model = kind(config)
    model.save_pretrained(tmp_path)
    found = model_size(tmp_path)
    assert found["parameters"] == model.num_parameters()
    size = flops.size_of(found)
    assert (size.layers, size.width) == (3, 96)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(TOKENS)[None])
    # torch counts both products of attention whole; a causal mask leaves half of them.
    masked_out = size.layers * 2 * TOKENS**2 * size.width
    ours = float(size.forward(TOKENS, TOKENS))
    assert ours == pytest.approx(counter.get_total_flops() - masked_out, rel=0.02)


def test_a_step_is_the_sum_of_its_passes():
    actor, critic = Size(110, 100, 0, 0), Size(60, 50, 0, 0)
    tokens, context = np.full(3, 10.0), np.full(3, 5.0)
    found = flops.of_steps(
        tokens, context, [False, True, True], actor, critic, Passes(1, 2, True, True)
    )
    passes = 10 * 2 * (100 * np.array([3, 6, 6]) + 50 * (1 + 6))
    assert found.tolist() == passes.tolist()
    frozen = flops.of_steps(tokens, context, [True] * 3, actor, critic, Passes(1, 0, True, False))
    assert frozen.tolist() == [10 * 2 * (100 * 5 + 50)] * 3
    none = flops.of_steps(tokens, context, [True] * 3, actor, None, Passes(2, 0, False, False))
    assert none.tolist() == [10 * 2 * 100 * 8] * 3


def test_a_model_that_does_not_say_its_shape_has_no_operations(tmp_path):
    assert flops.size_of(model_size(tmp_path)) is None
