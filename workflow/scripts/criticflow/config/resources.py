"""What one training job may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from criticflow.config.fields import NotNegative, Positive, Strict


class OwnResources(Strict):
    """What the training of one run may use in place of what all may."""

    nodes: Positive | None = Field(None, description="nodes of its training; null: the study's")
    gpu: Positive | None = Field(
        None, description="GPUs of its training on each node; null: the study's"
    )
    cpu_ranks: Positive | None = Field(
        None, description="its FSDP ranks of a node on the CPU; null: the study's"
    )


class Resources(Strict):
    """What a training job may use."""

    gpu: NotNegative = Field(
        0, description="GPUs of a training job on each node; 0: run on the CPU"
    )
    cpu_ranks: Positive = Field(2, description="FSDP ranks of a node when there is no GPU")
    nodes: Positive = Field(
        1, description="nodes of a training job, each with so many GPUs or ranks; more need Slurm"
    )
    interface: str | None = Field(
        None, description="network interface between these nodes; null: by which Slurm knows them"
    )
    ray_address: str | None = Field(
        None,
        description="address of a Ray cluster that runs elsewhere, HOST:PORT, to train on; null: a "
        "training has a Ray of its own",
    )
    rollout_memory: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="share of GPU memory for vLLM"
    )
    gpu_memory_gb: float | None = Field(
        None,
        gt=0,
        exclude=True,
        description="GiB of one GPU where jobs run; null: what this machine's GPUs have",
    )
    kv_cache_gb: float = Field(1, gt=0, description="cache of one vLLM engine on the CPU, GiB")
    stall_minutes: float = Field(
        60, gt=0, description="a training job that completes no step for so long is ended"
    )
    rollout_stall_minutes: float = Field(
        15, gt=0, description="one whose rollouts yield no token for so long is ended (CPU)"
    )
    save_minutes: float = Field(
        5, gt=0, description="what SIGTERM leaves a training job to end its step and save"
    )
    free_converted: Literal["none", "optimizer", "all"] = Field(
        "optimizer", description="what of a finished run's checkpoint goes once it is converted"
    )

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.gpu else "cpu"

    @property
    def own_node(self) -> bool:
        """Whether a training has nothing to do with any other machine."""
        return self.nodes == 1 and self.ray_address is None

    @property
    def ranks_per_node(self) -> int:
        return self.gpu or self.cpu_ranks

    @property
    def ranks(self) -> int:
        """FSDP ranks of a training, over all its nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def total_gpus(self) -> int:
        """GPUs of a training, over all its nodes."""
        return self.nodes * self.gpu

    def with_own(self, own: OwnResources) -> Resources:
        """These, less what a run has of its own."""
        return self.model_copy(update=own.model_dump(exclude_none=True))
