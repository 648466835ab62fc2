"""The trainer: verl's synchronous PPO trainer, with what the study needs added.

For every batch verl computes, and this trainer leaves as it is,

    A_t = sum_l (gamma lambda)^l (r_{t+l} + gamma V(s_{t+l+1}) - V(s_{t+l}))      GAE
    L   = -E[min(rho_t A_t, clip(rho_t, 1-eps, 1+eps) A_t)]                       PPO

1. r may be masked per trajectory before A_t is computed (``reward_mask``), or be random
   (``random_reward``).
2. V may be frozen: no update of the critic (``frozen_critic``); constant (``constant_critic``); or
   the mean of continuations from every state (``oracle``); or a critic's, exchanged between
   trajectories (``shuffled_critic``).
3. V may come from another run's checkpoint while everything else is fresh (``critic_loading``).
4. Prompts are named by step and content rather than at random, so that a trajectory has the same
   identity in every run, and batches are in the order of these names (``replay``). A step that
   lacks trajectories ends the training (``lost_trajectories``).
5. Masked trajectories may leave the step as a whole; the critic's returns may have a lambda of
   their own, the policy's lambda depend on the length, a batch's mean replace values that are worse
   (``advantages``).
6. Between two steps it can stop with a checkpoint (``stopping``), and older checkpoints go only
   when a newer one is complete (``checkpoint.retention``).

With the defaults none of 1-3 and 5 does anything.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry
from verl.workers.utils.padding import response_to_nested

from criticflow.checkpoint.retention import keep_last
from criticflow.errors import UserError
from criticflow.verl_plugin import BATCHED_ROLLOUTS, batched_rollouts, patches, settings
from criticflow.verl_plugin.advantages import recompute, without
from criticflow.verl_plugin.critic_loading import critic_folder, own_checkpoint
from criticflow.verl_plugin.critic_metrics import critic_metrics
from criticflow.verl_plugin.oracle import Oracle, in_rows
from criticflow.verl_plugin.random_reward import random_outcomes, with_random_outcomes
from criticflow.verl_plugin.replay import OrderedReplayBuffer
from criticflow.verl_plugin.reward_mask import mask_metrics, masked_trajectories, reward_scale
from criticflow.verl_plugin.shuffled_critic import KEPT, kept, lenders
from criticflow.verl_plugin.stopping import EarlyStop, StoppedEarly
from criticflow.verl_plugin.workers import CriticWorker


def _batched_replica() -> type[RolloutReplica]:
    """For verl's registry of rollout replicas: engines with rollouts beside them."""
    from criticflow.verl_plugin.batched_server import BatchedReplica  # imports vLLM

    return BatchedReplica


@register_trainer("criticflow")
class CriticflowTrainer(PPOTrainerSync):
    """Selected with ``trainer.v1.trainer_mode=criticflow``."""

    trainer_mode = property(
        lambda self: "sync",  # verl compares this name; this trainer is a synchronous one
        lambda self, _: None,
    )

    def __init__(self, config: DictConfig) -> None:
        settings.check(config)
        self.reward_mask = settings.RewardMaskSettings.read(config)
        self.random_reward = settings.RandomRewardSettings.read(config)
        self.advantage = settings.AdvantageSettings.read(config)
        self._whole_masks: tuple[list[str], torch.Tensor] | None = None
        self.oracle_settings = settings.OracleSettings.read(config)
        self.shuffle_seed = settings.shuffle_seed(config)
        self.freeze_critic = settings.as_bool("critic.freeze", config.critic.freeze)
        self.keep_checkpoints = settings.keep_checkpoints(config)
        self.keep_steps = frozenset(config.trainer.keep_steps)
        directory = Path(config.trainer.default_local_dir)
        self.early_stop = EarlyStop(directory, config.trainer.checkpoint_bytes)
        agent = config.actor_rollout_ref.rollout.agent
        self.batched_rollouts = agent.agent_loop_manager_class == BATCHED_ROLLOUTS
        if self.batched_rollouts:
            RolloutReplicaRegistry.register("vllm", _batched_replica)
        super().__init__(config)

    def get_llm_client(self) -> LLMServerClient:
        if not self.batched_rollouts:
            return super().get_llm_client()
        manager = self.llm_server_manager
        return manager.get_client(batched_rollouts.BatchedClient, servers=manager.server_handles)

    def _build_replay_buffer(self) -> Any:
        tolerance = settings.lost_trajectories(self.config)
        with patches.replay_buffer(partial(OrderedReplayBuffer, tolerance=tolerance)):
            return super()._build_replay_buffer()

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        problems, batch = len(self.train_dataset), self.config.data.train_batch_size
        if batch > problems:
            raise UserError(
                f"data.train_batch_size={batch}: {problems} prompts are left to train on, without "
                "those that are too long: lower train.batch_size, or take more problems"
            )

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if Role.Critic in self.role_worker_mapping:
            self.role_worker_mapping[Role.Critic] = ray.remote(CriticWorker)

    def _fetch_one_gen_batch(self) -> TensorDict:
        batch = super()._fetch_one_gen_batch()
        names = prompt_names(self.global_steps, list(batch["raw_prompt"]))
        tu.assign_non_tensor_stack(batch, "uid", names)
        return batch

    @cached_property
    def oracle(self) -> Oracle | None:
        """What takes the critic's place, if anything does; there when the engines are."""
        if self.oracle_settings is None:
            return None
        return Oracle(self.oracle_settings, self.config, self.get_llm_client(), self.tokenizer)

    def on_sample_begin(self) -> None:
        super().on_sample_begin()
        if self.batched_rollouts:
            self.agent_loop_manager.wait()

    def on_sample_end(self) -> None:
        if self.oracle is not None:  # while the engines are awake
            with marked_timer("oracle", self.timing_raw, color="red"):
                self.oracle_values = self.oracle.values(self.replay_buffer.newest)
        super().on_sample_end()

    def on_step_begin(self) -> None:
        super().on_step_begin()
        if reason := self.early_stop.reason():
            self._save_and_stop(reason)

    def _save_and_stop(self, reason: str) -> None:
        self.global_steps -= 1  # the step that is done; the next has not begun
        save_freq = self.config.trainer.save_freq
        if save_freq <= 0 or self.global_steps % save_freq:
            self._save_checkpoint()
        raise StoppedEarly(f"stopped after step {self.global_steps}, {reason}")

    def _save_checkpoint(self) -> None:
        directory, started = Path(self.config.trainer.default_local_dir), time.monotonic()
        super()._save_checkpoint()
        seconds = time.monotonic() - started
        self.early_stop.saved(directory / f"global_step_{self.global_steps}", seconds)
        if self.keep_checkpoints is not None:
            keep_last(directory, self.keep_checkpoints, self.keep_steps)

    # --- critic -----------------------------------------------------------------------------

    def _load_checkpoint(self) -> None:
        trainer = self.config.trainer
        warm = settings.as_bool("trainer.load_critic_only", trainer.load_critic_only)
        if not warm and trainer.resume_mode != "auto":
            super()._load_checkpoint()
            return
        own = own_checkpoint(trainer)
        if warm and own is None:
            self._load_critic_only()
            return
        if own is not None:
            print(f"critic: from this run's own {own}; no warm start, nor critic.model.path")
        with _overridden(trainer, resume_mode="auto"):
            super()._load_checkpoint()

    def _load_critic_only(self) -> None:
        self.global_steps = 0
        folder = critic_folder(self.config.trainer.resume_from_path, self.critic_wg.world_size)
        before = self.critic_wg.weights_checksum()
        names = self.critic_wg.load_weights_only(str(folder))[0]
        after = self.critic_wg.weights_checksum()
        print(f"critic: {len(names)} tensors from {folder}, none from elsewhere: {names}")
        for rank, (old, new) in enumerate(zip(before, after, strict=True)):
            print(f"critic: rank {rank} sha256 {old[:16]} before, {new[:16]} after loading")

    def _compute_values(self, batch: Any, metrics: dict) -> Any:
        if self.oracle is None:
            batch = super()._compute_values(batch, metrics)
            if self.shuffle_seed is not None:
                self._shuffle_values(batch, metrics)
            return batch
        values, found = self.oracle_values
        metrics.update(found)
        self.give_values(batch, values)
        return batch

    def give_values(self, batch: Any, values: dict[str, np.ndarray]) -> None:
        """Let a batch have these values, by trajectory, as if its critic had given them."""
        self._publish(batch, {"values": in_rows(values, batch.keys)})

    def _shuffle_values(self, batch: Any, metrics: dict) -> None:
        fields = ["values", "response_mask"]
        where = {"keys": batch.keys, "partition_id": batch.partition_id}
        data = tq.kv_batch_get(**where, select_fields=fields).to_padded_tensor()
        own = (data["response_mask"].numpy() > 0) & _real(batch)[:, None]
        rows = self.value_lenders(batch.keys, own)
        metrics[KEPT] = kept(rows, own)
        self._publish(batch, {"values": data["values"].gather(0, torch.from_numpy(rows))})

    def value_lenders(self, keys: Sequence[str], own: np.ndarray) -> np.ndarray:
        """From which row of this step's batch each token has its value, (batch, tokens)."""
        return lenders(self.shuffle_seed, self.global_steps, keys, own)

    def _update_critic(self, batch: Any, metrics: dict) -> Any:
        return batch if self.freeze_critic else super()._update_critic(batch, metrics)

    # --- reward -> advantage ----------------------------------------------------------------

    def _compute_advantage(self, batch: Any, metrics: dict) -> Any:
        before = partial(self._change_rewards, batch, metrics)
        after = partial(self._change_advantages, batch, metrics)
        with patches.around_advantage(before, after):
            return super()._compute_advantage(batch, metrics)

    def _change_rewards(self, batch: Any, metrics: dict, data: Any, keys: list[str]) -> None:
        """Give ``data`` the rewards that PPO is to see, and log what was done and how V fits."""
        real = _real(batch)
        rewards, found = rewards_seen(
            data.batch, keys, real, self.global_steps, self.reward_mask, self.random_reward
        )
        metrics.update(found)
        if rewards is not None:
            data.batch["token_level_rewards"] = rewards
            if not self.config.algorithm.use_kl_in_reward:  # with it verl writes them itself
                self._publish(batch, {"token_level_rewards": rewards})
        if self.use_critic:
            columns = ("values", "token_level_scores", "token_level_rewards", "response_mask")
            arrays = [data.batch[name].float().numpy()[real] for name in columns]
            metrics.update(critic_metrics(*arrays, gamma=self.config.algorithm.gamma))
        if self.reward_mask.drop and self.reward_mask.ratio > 0:
            self._whole_masks = (list(batch.keys), data.batch["response_mask"])
            without(data.batch, masked_rows(self.reward_mask, self.global_steps, keys, real))
            kept = data.batch["response_mask"]
            self._publish(batch, {"response_mask": kept, "loss_mask": kept})

    def _change_advantages(self, batch: Any, metrics: dict, data: Any) -> None:
        if self.use_critic and self.advantage.changes_something:
            metrics.update(recompute(data.batch, self.advantage, _real(batch)))

    def _compute_metrics(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if self._whole_masks is not None:  # lengths are those of what was written
            keys, whole = self._whole_masks
            rows = [keys.index(key) for key in batch.keys]
            self._publish(batch, {"response_mask": whole[rows]})
            self._whole_masks = None
        return super()._compute_metrics(batch, *args, **kwargs)

    def _publish(self, batch: Any, columns: dict[str, torch.Tensor]) -> None:
        """Hand columns of the responses' tokens, (batch, tokens) each, to who reads them next."""
        mask = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"]
        )["response_mask"]
        nested = {name: response_to_nested(column, mask) for name, column in columns.items()}
        fields = TensorDict(nested, batch_size=len(batch))
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)


def _real(batch: Any) -> np.ndarray:
    """False where verl filled the batch up, (batch,)."""
    return np.array([not tag.get("is_padding", False) for tag in batch.tags])


def masked_rows(
    mask: settings.RewardMaskSettings, step: int, keys: Sequence[str], real: np.ndarray
) -> np.ndarray:
    """Which rows of a batch belong to masked trajectories, boolean (batch,).

    Args:
        keys: verl's key of each trajectory, identity and output number.
        real: False where verl filled the batch up, (batch,).
    """
    names = np.array([key.rsplit("_", 1)[0] for key in keys])[real]
    masked = np.zeros(len(real), dtype=bool)
    masked[real] = masked_trajectories(mask, step, names)
    return masked


def rewards_seen(
    batch: TensorDict,
    keys: Sequence[str],
    real: np.ndarray,
    step: int,
    mask: settings.RewardMaskSettings,
    random: settings.RandomRewardSettings | None,
) -> tuple[torch.Tensor | None, dict[str, float]]:
    """The rewards that PPO is to see.

    Args:
        batch: ``token_level_scores``, ``token_level_rewards``, ``response_mask``, each
            (batch, tokens).
        keys: verl's key of each trajectory, identity and output number.
        real: False where verl filled the batch up, (batch,).
        step: the global step.
        mask, random: which trajectories lose their reward, and whether rewards are random.

    Returns:
        Token-level rewards (batch, tokens), None if they are what they were; and metrics.
    """
    scores, rewards = batch["token_level_scores"], batch["token_level_rewards"]
    names = np.array([key.rsplit("_", 1)[0] for key in keys])[real]
    metrics: dict[str, float] = {}
    if random is not None:
        outcomes = np.zeros(len(real), dtype=np.float32)
        outcomes[real] = random_outcomes(random, step, names)
        rewards = with_random_outcomes(rewards, scores, batch["response_mask"], outcomes)
        metrics["criticflow/random_reward/mean"] = float(outcomes[real].mean())
    if mask.ratio > 0:
        masked = masked_rows(mask, step, keys, real)
        rewards = rewards * scores.new_tensor(reward_scale(mask, masked)).unsqueeze(-1)
        totals = scores.sum(dim=-1).numpy()
        metrics |= mask_metrics(mask, masked[real], totals[real])
    return (rewards if metrics else None), metrics


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
