"""The order of a batch: by trajectory, not by who answered first.

verl trains on trajectories in the order in which they arrive, so that mini-batches, and with them
the weights, differ from run to run although every trajectory is the same.
"""

from __future__ import annotations

from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_INTERVAL = 0.05
"""Seconds between two looks for finished trajectories; verl's 2 s would be most of a step."""


class OrderedReplayBuffer(ReplayBuffer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, poll_interval=POLL_INTERVAL, **kwargs)

    def _materialize_batch(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        batch = super()._materialize_batch(*args, **kwargs)
        batch.reorder(sorted(range(len(batch)), key=batch.keys.__getitem__))
        return batch
