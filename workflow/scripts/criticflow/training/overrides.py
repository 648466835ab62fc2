"""Translates a run's settings into verl's keys; no other module knows both names."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criticflow import verl_plugin
from criticflow.config import Model, Resources, Run, Search, Task
from criticflow.verl_plugin import BATCHED_ROLLOUTS, REWARD, SEARCH_LOOP

STORAGE = "transfer_queue.backend.SimpleStorage.num_data_storage_units"
PRECISION = {"float32": "fp32", "bfloat16": "bf16"}
SEARCH_TOOL = Path(verl_plugin.__file__).with_name("search_tool.py")
SEQUENCES = 256
"""Responses that a rollout engine generates at a time on the CPU."""
OBJECT_STORE = 512 * 2**20
"""Bytes of Ray's object store on the CPU."""
STORAGE_UNITS = 2
"""Processes of a node that hold verl's queue between processes, each with a CPU of its own. verl
starts eight for any number of nodes, and advises two for each."""
RANK_CPUS = 3
"""CPUs that verl asks Ray for beside each GPU."""
SMALLEST_BUCKET = 16
"""MiB of new rollout weights that travel at a time on the CPU, or one tensor if that is larger."""


@dataclass(frozen=True)
class Places:
    """What a training reads, and where it writes.

    Attributes:
        model_dir: directory or hub name of actor and reference policy.
        critic_dir: the same for the critic; None: the actor's.
        data_dir: holds train.parquet and val.parquet.
        checkpoint_dir: where verl keeps its checkpoints.
        corpus_dir: of a task with search.
    """

    model_dir: str
    critic_dir: str | None
    data_dir: Path
    checkpoint_dir: Path
    corpus_dir: Path | None = None


def verl_overrides(
    run: Run,
    model: Model,
    task: Task,
    resources: Resources,
    *,
    name: str,
    seed: int,
    places: Places,
    largest_tensor: int = 0,
) -> list[str]:
    """Hydra overrides for ``python -m criticflow.train``.

    ``run.train.verl`` comes last, so it wins over everything that is derived here.

    Args:
        run, model, task, resources: the run and what it refers to.
        name: the run's name (verl's experiment name).
        seed: of the data order, the rollouts, the mask and a fresh value head.
        places: what it reads, and where it writes.
        largest_tensor: elements of the actor's largest tensor.
    """
    settings = (
        _data(run, task, places.data_dir, seed)
        | _actor(run, model, places.model_dir)
        | _rollout(run, task, resources, seed)
        | _trainer(run, name, places.checkpoint_dir, resources)
    )
    if run.algorithm == "ppo":
        settings |= _critic(run, model, places.critic_dir or places.model_dir, seed)
    if resources.device == "cpu":
        settings |= _cpu(task, resources, largest_tensor, critic=run.algorithm == "ppo")
    else:
        settings[STORAGE] = STORAGE_UNITS * resources.nodes
    if resources.own_node:
        settings |= _own_ray(resources)
    if task.search is not None:
        settings |= _search(run, task.search, places.corpus_dir)
    settings |= {f"++{key}": value for key, value in run.train.verl.items()}
    return [f"{key}={_literal(value)}" for key, value in settings.items()]


def _search(run: Run, search: Search, corpus_dir: Path | None) -> dict[str, Any]:
    given = search.model_dump(mode="json", exclude={"corpus", "dense", "reward"})
    # verl's data set counts the tokens of prompts as the chat template makes them.
    tools = {} if search.format == "tags" else {"data.function_tool_path": str(SEARCH_TOOL)}
    return (
        tools
        | {
            "actor_rollout_ref.rollout.agent.default_agent_loop": SEARCH_LOOP,
            "search.corpus": None if corpus_dir is None else str(corpus_dir.resolve()),
            "search.mask_observations": run.search.mask_observations,
        }
        | {f"search.{key}": value for key, value in given.items()}
    )


def _literal(value: Any) -> str:
    """A value in Hydra's grammar: JSON without the quotes around a dictionary's keys."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    if value is None:
        return "null"
    return json.dumps(value, ensure_ascii=False)


def _data(run: Run, task: Task, data_dir: Path, seed: int) -> dict[str, Any]:
    return {
        "data.train_files": str(data_dir / "train.parquet"),
        "data.val_files": str(data_dir / "val.parquet"),
        "data.train_batch_size": run.train.batch_size,
        "data.max_prompt_length": task.max_prompt_length,
        "data.max_response_length": task.max_response_length,
        "data.filter_overlong_prompts": True,
        "data.dataloader_num_workers": 0,
        "data.seed": seed,
        "reward.custom_reward_function.path": REWARD,
        "reward.custom_reward_function.name": "compute_score",
    }


def _engine(prefix: str, run: Run) -> dict[str, Any]:
    precision = PRECISION[run.train.dtype]
    mixed = {"param_dtype": precision, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    return {f"+{prefix}.mixed_precision": mixed}


def _packs(model: Model) -> bool:
    """Whether sequences may be packed without padding: only flash-attention can do that without a
    mask of all tokens against all."""
    return (model.attn_implementation or "").startswith("flash_attention")


def _actor(run: Run, model: Model, model_dir: str) -> dict[str, Any]:
    train, actor = run.train, "actor_rollout_ref.actor"
    settings = {
        "actor_rollout_ref.model.path": model_dir,
        "actor_rollout_ref.model.trust_remote_code": model.trust_remote_code,
        "actor_rollout_ref.model.use_remove_padding": _packs(model),
        f"{actor}.strategy": train.strategy,
        f"{actor}.optim.lr": train.actor_lr,
        f"{actor}.ppo_mini_batch_size": train.mini_batch_size,
        f"{actor}.ppo_micro_batch_size_per_gpu": train.micro_batch_size,
        f"{actor}.use_kl_loss": train.kl_loss_coef > 0,
        f"{actor}.kl_loss_coef": train.kl_loss_coef,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": train.micro_batch_size,
    }
    # The reference policy as precise as the actor, or their KL would not be 0 at the start.
    settings |= _engine(f"{actor}.fsdp_config", run)
    settings |= _engine("actor_rollout_ref.ref.fsdp_config", run)
    if model.attn_implementation:
        settings["+actor_rollout_ref.model.override_config.attn_implementation"] = (
            model.attn_implementation
        )
    return settings


def _rollout(run: Run, task: Task, resources: Resources, seed: int) -> dict[str, Any]:
    rollout = "actor_rollout_ref.rollout"
    return {
        f"{rollout}.name": "vllm",
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.n": run.train.rollout_n,
        f"{rollout}.temperature": run.train.temperature,
        f"{rollout}.seed": seed,
        f"{rollout}.dtype": run.train.dtype,
        f"{rollout}.max_model_len": task.max_prompt_length + task.max_response_length,
        f"{rollout}.gpu_memory_utilization": resources.rollout_memory,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": run.train.micro_batch_size,
    }


def _critic(run: Run, model: Model, critic_dir: str, seed: int) -> dict[str, Any]:
    train, oracle = run.train, run.critic.oracle
    settings = {
        "critic.model.path": critic_dir,
        "critic.model.trust_remote_code": model.trust_remote_code,
        "critic.model.use_remove_padding": _packs(model),
        "critic.model.head_seed": seed,
        "critic.strategy": train.strategy,
        "critic.optim.lr": train.critic_lr,
        "critic.ppo_mini_batch_size": train.critic_mini_batch_size or train.mini_batch_size,
        "critic.ppo_micro_batch_size_per_gpu": train.micro_batch_size,
        "critic.freeze": run.critic.freeze,
        "critic.value_head": run.critic.value_head,
        # The engine of a critic whose values an oracle replaces is a constant's.
        "critic.constant": 0.0 if oracle else run.critic.constant,
        "critic.scale": run.critic.scale,
        # verl's own critic.shuffle is that of its data loader.
        "critic.shuffle_values": run.critic.shuffle,
        "critic.oracle_continuations": oracle and oracle.continuations,
        "critic.oracle_lines_above": oracle and oracle.lines_above,
    } | _engine("critic.fsdp", run)
    if train.critic_epochs is not None:
        settings["critic.ppo_epochs"] = train.critic_epochs
    if run.critic.allow_untrained:
        settings["critic.allow_untrained"] = True
    if model.attn_implementation:
        settings["+critic.model.override_config.attn_implementation"] = model.attn_implementation
    return settings


def _trainer(run: Run, name: str, checkpoint_dir: Path, resources: Resources) -> dict[str, Any]:
    train, mask = run.train, run.reward_mask
    return {
        "algorithm.adv_estimator": {"ppo": "gae", "grpo": "grpo"}[run.algorithm],
        "algorithm.gamma": train.gamma,
        "algorithm.lam": train.lam,
        "algorithm.critic_lam": train.critic_lam,
        "algorithm.length_adaptive_alpha": train.length_adaptive_alpha,
        "algorithm.value_gate": train.value_gate,
        "algorithm.use_kl_in_reward": train.kl_coef > 0,
        "algorithm.kl_ctrl.kl_coef": train.kl_coef,
        "algorithm.reward_mask_ratio": mask.ratio,
        "algorithm.reward_mask_type": mask.type,
        "algorithm.reward_mask_rescale": mask.rescale,
        "algorithm.reward_mask_drop": mask.drop,
        "algorithm.random_reward": run.random_reward,
        "trainer.project_name": "criticflow",
        "trainer.experiment_name": name,
        "trainer.logger": ["console", "file", *train.logger],
        "trainer.nnodes": resources.nodes,
        "trainer.n_gpus_per_node": resources.ranks_per_node,
        "trainer.total_training_steps": train.steps,
        # Far more than the steps need: the number of steps alone ends a run.
        "trainer.total_epochs": 1_000_000,
        "trainer.critic_warmup": _first_actor_step(run),
        "trainer.lost_trajectories": train.lost_trajectories,
        "trainer.save_freq": train.save_every,
        "trainer.test_freq": train.test_every,
        "trainer.val_before_train": train.test_every > 0,
        "trainer.keep_checkpoints": train.keep_checkpoints,
        "trainer.keep_steps": train.keep_steps,
        "trainer.default_local_dir": str(checkpoint_dir),
        "trainer.resume_mode": "auto",
    }


def _first_actor_step(run: Run) -> int:
    """verl's ``trainer.critic_warmup``: the step, counted from 1, with which the actor starts."""
    return run.train.critic_warmup + 1 if run.critic_learns and run.train.critic_warmup else 0


def ray_cpus(gpus: int) -> int:
    """CPUs that verl's actors ask Ray for on a node: one for the queue's controller, which the
    first node has, those of its storage, and those of each GPU."""
    return 1 + STORAGE_UNITS + RANK_CPUS * gpus


def node_cpus(resources: Resources) -> int:
    """Logical CPUs of a node: with fewer than verl's actors ask for Ray waits for ever."""
    if resources.device == "cpu":
        return 8 * resources.ranks_per_node
    return max(os.cpu_count() or 1, ray_cpus(resources.gpu))


def _own_ray(resources: Resources) -> dict[str, Any]:
    """The Ray that a training starts by itself, on its one node."""
    settings: dict[str, Any] = {
        "ray_kwargs.ray_init.num_cpus": node_cpus(resources),
        "+ray_kwargs.ray_init.include_dashboard": False,
    }
    if resources.device == "cpu":
        # Logical resources: verl places workers by GPU and asks for several CPUs for each.
        settings["+ray_kwargs.ray_init.num_gpus"] = resources.ranks
        settings["+ray_kwargs.ray_init.object_store_memory"] = OBJECT_STORE
    return settings


def bucket_megabytes(largest_tensor: int) -> int:
    """MiB of shared memory through which one rank gives its engine new weights, on the CPU.

    The largest tensor has to fit in one piece, in the float32 that the actor trains in. (Where
    memory is an accelerator's, verl passes such a tensor on without the bucket.)

    Args:
        largest_tensor: its number of elements.
    """
    return max(SMALLEST_BUCKET, math.ceil(4 * largest_tensor / 2**20))


def _cpu(task: Task, resources: Resources, largest_tensor: int, critic: bool) -> dict[str, Any]:
    """Settings for a machine without an accelerator, and those that shorten its start."""
    rollout = "actor_rollout_ref.rollout"
    # Where there are turns, the prompt of the last is nearly the whole dialogue.
    longest = task.max_prompt_length + (task.max_response_length if task.search else 1)
    settings: dict[str, Any] = {
        "trainer.device": "cpu",
        "actor_rollout_ref.actor.use_torch_compile": False,
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.use_torch_compile": False,
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        f"{rollout}.enforce_eager": True,
        # All prompts fit into one batch: where vLLM splits a prompt of a seeded request, it asks
        # the generator for an offset, which the CPU's generator does not have.
        f"{rollout}.max_num_seqs": SEQUENCES,
        f"{rollout}.max_num_batched_tokens": SEQUENCES * longest,
        f"{rollout}.free_cache_engine": False,
        f"+{rollout}.enable_sleep_mode": False,
        # vLLM's worker in its engine's process: one start of Python less for each rank.
        f"+{rollout}.engine_kwargs.vllm.distributed_executor_backend": "uni",
        f"+{rollout}.engine_kwargs.vllm.kv_cache_memory_bytes": int(resources.kv_cache_gb * 2**30),
        f"{rollout}.agent.num_workers": 1,
        f"{rollout}.agent.agent_loop_manager_class": BATCHED_ROLLOUTS,
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": bucket_megabytes(
            largest_tensor
        ),
        "reward.num_workers": 0,  # the agent loop scores in place
        STORAGE: 1,
    }
    if critic:
        settings |= {
            "critic.fsdp.use_torch_compile": False,
            "critic.model.enable_gradient_checkpointing": False,
        }
    return settings
