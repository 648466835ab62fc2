"""One decoding step of vLLM's attention on the CPU, with two threads to share it."""

from __future__ import annotations

import sys

import torch
from vllm import _custom_ops as ops
from vllm import envs
from vllm.platforms import current_platform

HEADS, KV_HEADS, DIMENSIONS, BLOCK = 9, 3, 64, 128


def decode(length: int) -> torch.Tensor:
    """The output for the newest of ``length`` tokens, (1, heads, dimensions)."""
    blocks = -(-length // BLOCK)
    cache = torch.randn(blocks, KV_HEADS, 2 * BLOCK, DIMENSIONS)
    keys, values = cache.chunk(2, dim=2)
    query = torch.randn(1, HEADS, DIMENSIONS)
    output = torch.empty_like(query)
    starts = torch.tensor([0, 1], dtype=torch.int32)
    lengths = torch.tensor([length], dtype=torch.int32)
    schedule = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=1,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=DIMENSIONS,
        seq_lens=lengths,
        dtype=torch.float32,
        query_start_loc=starts,
        causal=True,
        sliding_window_size=-1,
        isa="vec",
        enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,  # as vLLM's own backend asks
    )
    ops.cpu_attention_with_kv_cache(
        query=query,
        key_cache=keys,
        value_cache=values,
        output=output,
        query_start_loc=starts,
        seq_lens=lengths,
        scale=DIMENSIONS**-0.5,
        causal=True,
        alibi_slopes=None,
        sliding_window=-1,
        block_table=torch.arange(blocks, dtype=torch.int32).unsqueeze(0),
        softcap=0,
        scheduler_metadata=schedule,
        s_aux=None,
    )
    return output


if __name__ == "__main__":
    current_platform.import_kernels()
    torch.set_num_threads(2)  # as any library in the engine's process may
    assert torch.get_num_threads() == 2
    for length in map(int, sys.argv[1:]):
        assert decode(length).isfinite().all()
        print(length, flush=True)
