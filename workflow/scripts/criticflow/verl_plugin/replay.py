"""The batch of a step: complete, and in the order of its trajectories instead of their arrival.

verl trains on trajectories in the order in which they arrive, so that mini-batches, and with them
the weights, differ from run to run although every trajectory is the same. What it does about
trajectories that are missing stands in :mod:`criticflow.verl_plugin.lost_trajectories`.
"""

from __future__ import annotations

from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from criticflow.verl_plugin.lost_trajectories import METRIC, Tolerance
from criticflow.verl_plugin.rollout_errors import rollout_errors

POLL_INTERVAL = 0.05
"""Seconds between two looks for finished trajectories; verl's 2 s would be most of a step."""


class OrderedReplayBuffer(ReplayBuffer):
    """
    Args:
        tolerance: how many trajectories a step may lack.
    """

    def __init__(self, *args: Any, tolerance: Tolerance, **kwargs: Any) -> None:
        super().__init__(*args, poll_interval=POLL_INTERVAL, **kwargs)
        self.tolerance = tolerance
        self.lost = 0
        self.newest: KVBatchMeta | None = None
        """The batch of the step, as it was sampled last."""

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[KVBatchMeta, dict[str, Any]]:
        """verl's, with the number of lost trajectories among the metrics.

        Raises:
            UserError: they are too many.
        """
        self.lost = 0
        batch, metrics = super().sample(
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        if partition_id != "train":
            return batch, metrics
        self.newest = batch
        return batch, metrics | {METRIC: self.lost}

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict[str, Any]], dict[str, int]]:
        selected = super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)
        prompts, trajectories, _ = selected
        failed = self.failure_keys[partition_id].intersection(prompts)
        errors = rollout_errors(partition_id, sorted(failed)) if failed else []
        self.lost = self.tolerance.check(partition_id, prompts, trajectories, errors)
        return selected

    def _materialize_batch(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        batch = super()._materialize_batch(*args, **kwargs)
        batch.reorder(sorted(range(len(batch)), key=batch.keys.__getitem__))
        return batch
