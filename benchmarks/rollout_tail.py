"""How much faster a step's rollouts get with more nodes, and how long engines wait for the longest.

A simulation, no measurement: prompts are independent, so that engines wait for each other only at
the end of a step. verl sends every response to the engine with the fewest, all at once, and an
engine keeps ``SLOTS`` of them at a time. One more token of all of them takes as long as the GPU
reads weights, keys and values, or computes, whichever is longer. Lengths are lognormal, cut at the
task's limit.

    python benchmarks/rollout_tail.py
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SHARE_READ, SHARE_COMPUTE = 0.7, 0.4
"""What an engine reaches of a GPU's data sheet: assumed."""
REDUCE = 10e-6
"""Seconds of one all-reduce between the GPUs of an engine, of which a layer has two: assumed."""
SIGMA = 0.8
"""Of the logarithm of the lengths: assumed."""
SLOTS = 256
"""verl's ``max_num_seqs``."""
PROMPT, GPUS_PER_NODE, STEPS = 512, 8, 20


@dataclass(frozen=True)
class Gpu:
    """A GPU's data sheet, and the part of its memory that vLLM has.

    Attributes:
        read, compute: bytes and bfloat16 operations a second.
        memory: bytes for weights, keys and values.
    """

    read: float
    compute: float
    memory: float


@dataclass(frozen=True)
class Engine:
    """A model on one or several GPUs."""

    name: str
    parameters: float
    layers: int
    kv_heads: int
    head: int
    gpus: int
    gpu: Gpu

    @property
    def kv_bytes(self) -> int:
        """Of one token, in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head

    def slots(self, limit: int) -> int:
        """Responses of up to ``limit`` tokens that it keeps at a time."""
        cache = self.gpu.memory * self.gpus - 2 * self.parameters
        return max(1, min(SLOTS, int(cache / self.kv_bytes / (PROMPT + limit))))

    def token(self, active: int, context: float) -> float:
        """Seconds for one more token of each of ``active`` responses of this mean length."""
        read = (2 * self.parameters + active * context * self.kv_bytes) / self.gpu.read / SHARE_READ
        reduces = 2 * self.layers * REDUCE if self.gpus > 1 else 0
        return max(read, self._computed(active)) / self.gpus + reduces

    def prompt(self) -> float:
        """Seconds for reading one prompt."""
        return self._computed(PROMPT) / self.gpus

    def _computed(self, tokens: int) -> float:
        return 2 * self.parameters * tokens / self.gpu.compute / SHARE_COMPUTE


H100 = Gpu(read=3.35e12, compute=989e12, memory=0.5 * 80e9)
H20 = Gpu(read=4.0e12, compute=148e12, memory=0.8 * 96e9)
SEVEN = Engine("7B", 7.6e9, layers=28, kv_heads=4, head=128, gpus=1, gpu=H100)
SEVENTY = Engine("70B", 70.6e9, layers=80, kv_heads=8, head=128, gpus=8, gpu=H100)
TASKS = [(400, 1536), (4000, 28672)]
"""Median and largest number of tokens of a response."""
PUBLISHED = {4: 357, 8: 151, 16: 178}
"""Seconds of a step's rollouts by nodes, Qwen2.5-Math-7B on H20, 8192 responses of at most 28,672
tokens (verl, docs/advance/fully_async.md, "colocate sync"). Engines of four GPUs, as verl's scripts
for the asynchronous runs beside it have; of these runs none is there."""


def drawn(rng: np.random.Generator, median: int, limit: int, count: int) -> NDArray[np.int64]:
    """Lengths of ``count`` responses."""
    return np.clip(rng.lognormal(np.log(median), SIGMA, count), 1, limit).astype(np.int64)


def seconds(engine: Engine, lengths: NDArray[np.int64], slots: int) -> float:
    """Until one engine has generated responses of these lengths."""
    waiting, passed, now = list(lengths[::-1]), 0.0, 0
    running: list[tuple[int, int]] = []  # the token at which each ends, and at which it began
    while waiting or running:
        while waiting and len(running) < slots:
            heapq.heappush(running, (now + waiting.pop(), now))
            passed += engine.prompt()
        end = running[0][0]
        context = PROMPT + (now + end) / 2 - np.mean([begun for _, begun in running])
        passed += (end - now) * engine.token(len(running), context)
        now = end
        while running and running[0][0] == now:
            heapq.heappop(running)
    return passed


def step(
    engine: Engine, nodes: int, lengths: NDArray[np.int64], limit: int
) -> tuple[float, np.floating]:
    """Seconds of a step's rollouts, and the share of them in which an engine has work."""
    shares = np.array_split(lengths, nodes * GPUS_PER_NODE // engine.gpus)
    busy = [seconds(engine, share, engine.slots(limit)) for share in shares]
    return max(busy), np.mean(busy) / max(busy)


def main() -> None:
    rng = np.random.default_rng(0)
    for median, limit in TASKS:
        print(f"\nmedian {median}, at most {limit} tokens; means of {STEPS} steps")
        print("model  responses  nodes  seconds  responses/s  engines busy")
        for engine in (SEVEN, SEVENTY):
            for count, nodes in ((1024, 2), (1024, 8), (1024, 64), (4096, 8), (32768, 64)):
                steps = [
                    step(engine, nodes, drawn(rng, median, limit, count), limit)
                    for _ in range(STEPS)
                ]
                took, busy = np.mean(steps, axis=0)
                print(
                    f"{engine.name:5}  {count:9}  {nodes:5}  {took:7.1f}  {count / took:11.1f}  "
                    f"{busy:12.0%}"
                )
    print("\n7B on H20 as published; the median makes the first fit")
    engine = replace(SEVEN, gpus=4, gpu=H20)
    for nodes, published in PUBLISHED.items():
        steps = [step(engine, nodes, drawn(rng, 2800, 28672, 8192), 28672)[0] for _ in range(STEPS)]
        print(f"{8 * nodes:3} GPUs: published {published}, here {np.mean(steps):.0f} seconds")


if __name__ == "__main__":
    main()
