"""vLLM serves converted actors."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from checkpoint_writers import tiny_actor, write_checkpoint
from criticflow.checkpoint.convert import convert


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("tied", [False, True])
def test_vllm_generates_what_transformers_does(tmp_path, monkeypatch, tied):
    vllm = pytest.importorskip("vllm")
    # Otherwise it takes half of the memory, and all cores for itself.
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # Sizes that vLLM's kernels accept.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    source = write_checkpoint(tmp_path / "in", tiny_actor(tied, **sizes), 2)
    convert(source, tmp_path / "out", "actor")
    engine = vllm.LLM(
        model=str(tmp_path / "out"), dtype="float32", enforce_eager=True, max_model_len=32
    )
    greedy = vllm.SamplingParams(temperature=0, max_tokens=4)
    (answer,) = engine.generate([{"prompt_token_ids": [3, 4, 5]}], greedy)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    expected = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, do_sample=False)
    assert list(answer.outputs[0].token_ids) == expected[0, 3:].tolist()
