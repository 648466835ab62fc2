"""Which settings of a run can change its weights, and which only how the work is carried out.

When one of the first kind changes, a training starts afresh. Those of the second kind may change in
the middle of a training: ranks and nodes, micro-batches, offloading, caches, how often it saves.
Sums are then rounded in another order, and the record says from which attempt on. Time limits
(``stall_minutes``, ``rollout_stall_minutes``, ``save_minutes``), what is deleted after conversion
(``free_converted``) and where files lie belong to neither kind.
"""

from __future__ import annotations

from typing import Any

from criticflow.config import Config

EXECUTION_TRAIN = {
    "micro_batch_size",
    "save_every",
    "keep_checkpoints",
    "keep_steps",
    "lost_trajectories",
    "logger",
}
"""Keys of a run's ``train``."""
EXECUTION_VERL = {
    "nnodes",
    "n_gpus_per_node",
    "param_offload",
    "optimizer_offload",
    "offload_policy",
    "enable_activation_offload",
    "enable_gradient_checkpointing",
    "ppo_micro_batch_size",
    "ppo_micro_batch_size_per_gpu",
    "log_prob_micro_batch_size",
    "log_prob_micro_batch_size_per_gpu",
    "forward_micro_batch_size",
    "forward_micro_batch_size_per_gpu",
    "ppo_max_token_len_per_gpu",
    "log_prob_max_token_len_per_gpu",
    "forward_max_token_len_per_gpu",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "update_weights_bucket_megabytes",
    "save_freq",
    "max_actor_ckpt_to_keep",
    "max_critic_ckpt_to_keep",
}
"""Last parts of keys under ``train.verl``; all of ``ray_kwargs`` besides."""
_WAITING = {"stall_minutes", "rollout_stall_minutes", "save_minutes", "free_converted"}
_CRITIC_ORIGIN = {"from_run", "from_step", "from_seed", "pretrained", "path", "revision"}
"""Keys of a run's ``critic`` whose whole effect is in the critic that it starts from."""
_IN_DATA = {
    **dict.fromkeys(("source", "test_source", "split", "prompt", "system"), True),
    "search": {"corpus", "dense", "service"},
}
"""Settings of a task whose whole effect is in the training and validation sets, or in the corpus;
and where the corpus is searched, which finds the same."""


def deciding(config: Config, run: str) -> dict[str, Any]:
    """Settings of a run that can change its weights, as JSON.

    Models, critics and problems are not among them: their content counts, not their names
    (:func:`criticflow.training.identity.build`).
    """
    settings = config.runs[run]
    own = settings.model_dump(
        mode="json",
        by_alias=True,
        exclude={"model": True, "task": True, "critic": _CRITIC_ORIGIN},
    )
    if not own["critic"]["shuffle"]:  # or runs of before there was the setting would be others
        del own["critic"]["shuffle"]
    train = {key: value for key, value in own["train"].items() if key not in EXECUTION_TRAIN}
    train["verl"] = {k: v for k, v in train["verl"].items() if not _is_execution(k)}
    model, task = config.models[settings.model], config.tasks[settings.task]
    return {
        "run": own | {"train": train},
        "model": model.model_dump(mode="json", exclude={"path", "revision", "build"}),
        "task": task.model_dump(mode="json", exclude=_IN_DATA),
        "device": config.resources.device,
    }


def execution(config: Config, run: str) -> dict[str, Any]:
    """Settings that may change while a run is trained, as JSON."""
    train = config.runs[run].train.model_dump(mode="json")
    return {
        "resources": config.resources_of(run).model_dump(mode="json", exclude=_WAITING),
        "train": {key: train[key] for key in sorted(EXECUTION_TRAIN)}
        | {"verl": {k: v for k, v in train["verl"].items() if _is_execution(k)}},
    }


def ranks(config: Config, run: str) -> int:
    """FSDP ranks of a run, over all its nodes."""
    verl, resources = config.runs[run].train.verl, config.resources_of(run)
    per_node = verl.get("trainer.n_gpus_per_node", resources.ranks_per_node)
    return int(verl.get("trainer.nnodes", resources.nodes)) * int(per_node)


def _is_execution(key: str) -> bool:
    return key.rpartition(".")[2] in EXECUTION_VERL or key.startswith("ray_kwargs.")
