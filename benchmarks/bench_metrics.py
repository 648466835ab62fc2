"""Cost of the ``criticflow/...`` metrics: ``python benchmarks/bench_metrics.py [METRICS]``.

``METRICS`` is a run's ``metrics.parquet``; without one, ``--step-seconds`` says how long a step
takes. Prints one JSON object: milliseconds a step (median, wall time, one thread) for the critic's
metrics and for drawing, applying and describing the reward mask, and their share of a step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from tensordict import TensorDict

from criticflow.verl_plugin.critic_metrics import critic_metrics
from criticflow.verl_plugin.settings import RewardMaskSettings
from criticflow.verl_plugin.trainer import rewards_seen


def milliseconds(action: Callable[[], object], repeats: int = 50) -> float:
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def batch(size: int, tokens: int) -> TensorDict:
    """Full-length responses with an outcome at the end and noisy values."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(size, tokens)
    scores[:, -1] = torch.randint(0, 2, (size,), generator=generator).float()
    tensors = {
        "token_level_scores": scores,
        "token_level_rewards": scores,
        "response_mask": torch.ones(size, tokens, dtype=torch.int64),
        "values": torch.rand(size, tokens, generator=generator),
    }
    return TensorDict(tensors, batch_size=size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path, nargs="?")
    parser.add_argument("--step-seconds", type=float)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=24, help="response length")
    arguments = parser.parse_args()
    if (arguments.metrics is None) == (arguments.step_seconds is None):
        parser.error("give METRICS or --step-seconds")
    seconds = arguments.step_seconds
    if arguments.metrics is not None:
        seconds = float(pd.read_parquet(arguments.metrics)["timing_s/step"].median())

    torch.set_num_threads(1)
    data = batch(arguments.batch, arguments.tokens)
    names = ("values", "token_level_scores", "token_level_rewards", "response_mask")
    arrays = [data[name].float().numpy() for name in names]
    keys = [f"1-{index:016x}-1_0_0" for index in range(arguments.batch)]
    mask, real = RewardMaskSettings(ratio=0.5), np.ones(arguments.batch, dtype=bool)
    cost = {
        "critic_metrics_ms": milliseconds(lambda: critic_metrics(*arrays, gamma=1.0)),
        "reward_mask_ms": milliseconds(lambda: rewards_seen(data, keys, real, 1, mask, None)),
    }
    result = {key: round(value, 3) for key, value in cost.items()}
    result |= {
        "batch": arguments.batch,
        "tokens": arguments.tokens,
        "step_s": seconds,
        "share_of_step": round(sum(cost.values()) / 1000 / seconds, 6),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
