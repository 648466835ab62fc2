"""The trainer: verl's synchronous PPO trainer, with what the study needs at four points.

For every batch verl computes, and this trainer leaves as it is,

    A_t = sum_l (gamma lambda)^l (r_{t+l} + gamma V(s_{t+l+1}) - V(s_{t+l}))      GAE
    L   = -E[min(rho_t A_t, clip(rho_t, 1-eps, 1+eps) A_t)]                       PPO

1. r may be masked per trajectory before A_t is computed (``reward_mask``).
2. V may be frozen: no update of the critic (``frozen_critic``).
3. V may come from another run's checkpoint while everything else is fresh (``critic_loading``).
4. Prompts are named by step and content rather than at random, so that a trajectory has the same
   identity in every run; and the replay buffer is polled every 50 ms rather than every 2 s.

With the defaults none of 1-3 does anything.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.workers.utils.padding import response_to_nested

from criticflow.verl_plugin import patches, settings
from criticflow.verl_plugin.critic_loading import critic_folder
from criticflow.verl_plugin.critic_metrics import critic_metrics
from criticflow.verl_plugin.reward_mask import mask_metrics, masked_trajectories, reward_scale
from criticflow.verl_plugin.workers import CriticWorker

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

POLL_INTERVAL = 0.05
"""Seconds between two looks into the replay buffer."""


@register_trainer("criticflow")
class CriticflowTrainer(PPOTrainerSync):
    """Selected with ``trainer.v1.trainer_mode=criticflow``."""

    trainer_mode = property(
        lambda self: "sync",  # verl asks by name what a trainer does; this one is synchronous
        lambda self, _: None,
    )

    def __init__(self, config: DictConfig) -> None:
        settings.check(config)
        self.reward_mask = settings.RewardMaskSettings.read(config)
        self.freeze_critic = settings.as_bool("critic.freeze", config.critic.freeze)
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = POLL_INTERVAL
        return buffer

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if Role.Critic in self.role_worker_mapping:
            self.role_worker_mapping[Role.Critic] = ray.remote(CriticWorker)

    def _fetch_one_gen_batch(self) -> TensorDict:
        batch = super()._fetch_one_gen_batch()
        names = prompt_names(self.global_steps, list(batch["raw_prompt"]))
        tu.assign_non_tensor_stack(batch, "uid", names)
        return batch

    # --- critic -----------------------------------------------------------------------------

    def _load_checkpoint(self) -> None:
        trainer = self.config.trainer
        if not settings.as_bool("trainer.load_critic_only", trainer.load_critic_only):
            super()._load_checkpoint()
            return
        own = find_latest_ckpt_path(trainer.default_local_dir)
        if own is not None:
            logger.info("resuming this run from %s; its warm start is not repeated", own)
            with _overridden(trainer, resume_mode="auto"):
                super()._load_checkpoint()
            return
        self.global_steps = 0
        folder = critic_folder(trainer.resume_from_path, self.critic_wg.world_size)
        before = self.critic_wg.weights_checksum()
        names = self.critic_wg.load_weights_only(str(folder))[0]
        after = self.critic_wg.weights_checksum()
        print(
            f"critic: {len(names)} tensors from {folder}, none from elsewhere: {', '.join(names)}"
        )
        for rank, (old, new) in enumerate(zip(before, after, strict=True)):
            print(f"critic: rank {rank} sha256 {old[:16]} before, {new[:16]} after loading")

    def _update_critic(self, batch: Any, metrics: dict) -> Any:
        return batch if self.freeze_critic else super()._update_critic(batch, metrics)

    # --- reward -> advantage ----------------------------------------------------------------

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        real = np.array([not tag.get("is_padding", False) for tag in batch.tags])
        rewards = None

        def transform(data: Any, keys: list[str]) -> None:
            nonlocal rewards
            scores = data.batch["token_level_scores"]
            if self.reward_mask.ratio > 0:
                trajectories = [key.rsplit("_", 1)[0] for key in keys]
                masked = masked_trajectories(self.reward_mask, self.global_steps, trajectories)
                scale = scores.new_tensor(reward_scale(self.reward_mask, masked))
                rewards = data.batch["token_level_rewards"] * scale.unsqueeze(-1)
                data.batch["token_level_rewards"] = rewards
                totals = scores.sum(dim=-1).numpy()
                metrics.update(mask_metrics(self.reward_mask, masked[real], totals[real]))
            if self.use_critic:
                columns = ("values", "token_level_scores", "token_level_rewards", "response_mask")
                arrays = [data.batch[name].float().numpy()[real] for name in columns]
                metrics.update(critic_metrics(*arrays, gamma=self.config.algorithm.gamma))

        with patches.before_advantage(transform):
            batch = super()._compute_advantage(batch, metrics)
        if rewards is not None:
            self._publish_rewards(batch, rewards)
        return batch

    def _publish_rewards(self, batch: Any, rewards: Any) -> None:
        """Hand the rewards that PPO saw to verl's metrics (``critic/rewards/*``)."""
        mask = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"]
        )["response_mask"]
        fields = TensorDict(
            {"token_level_rewards": response_to_nested(rewards, mask)}, batch_size=len(batch)
        )
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def prompt_names(step: int, prompts: list[Any]) -> list[str]:
    """A name for each prompt of a step: the same for the same step and content, and unique.

    Args:
        step: the global step.
        prompts: message lists.
    """
    seen: Counter[str] = Counter()
    names = []
    for prompt in prompts:
        content = json.dumps(prompt, sort_keys=True, default=str).encode()
        digest = hashlib.sha256(content).hexdigest()[:16]
        seen[digest] += 1
        names.append(f"{step}-{digest}-{seen[digest]}")
    return names


@contextmanager
def _overridden(section: DictConfig, **values: Any) -> Iterator[None]:
    """A configuration section with other values for the length of a block."""
    before = {key: section[key] for key in values}
    section.update(values)
    try:
        yield
    finally:
        section.update(before)
