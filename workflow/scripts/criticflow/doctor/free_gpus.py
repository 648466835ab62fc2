"""Whether enough GPUs are free, each with the memory that vLLM takes first."""

from __future__ import annotations

from collections.abc import Sequence

from criticflow.doctor.finding import Finding, ok, warning, wrong
from criticflow.runtime.gpus import Gpu

IDLE_GIB = 1.0
"""A GPU of which no more is used is nobody's."""


def judge_free(gpus: Sequence[Gpu], needed: int, share: float, seen: int = 0) -> Finding:
    """Whether ``needed`` GPUs are there, and free.

    Args:
        gpus: those that this process may use.
        needed: by one training job; 0: the study runs on the CPU.
        share: of a GPU's memory for vLLM, which must be free when it starts.
        seen: how many torch sees, which may be more where there is no ``nvidia-smi``.
    """
    if needed and not gpus and seen >= needed:
        said = f"torch sees {seen}; there is no nvidia-smi to tell of their memory and driver"
        return warning("GPUs", said, "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility")
    if needed and len(gpus) < needed:
        return wrong(
            "GPUs",
            f"{len(gpus)} here, a training takes {needed}",
            "lower resources.gpu, widen CUDA_VISIBLE_DEVICES, or take a larger machine",
        )
    idle = [gpu for gpu in gpus if not gpu.used_gib > IDLE_GIB]
    said = f"{len(gpus)} here, {len(idle)} idle; free GiB: " + ", ".join(
        f"{gpu.free_gib:.0f} of {gpu.total_gib:.0f}" for gpu in gpus
    )
    short = [gpu for gpu in gpus if gpu.free_gib < share * gpu.total_gib]
    if needed and len(gpus) - len(short) < needed:
        return wrong(
            "GPUs",
            f"{said}; vLLM asks for {share:.0%} of each",
            "end other programs on them (nvidia-smi lists them), or lower resources.rollout_memory",
        )
    if needed and len(idle) < needed:
        return warning("GPUs", f"{said}: others use them", "nvidia-smi lists their programs")
    return ok("GPUs", said if gpus else "none here, none needed")
