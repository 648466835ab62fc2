"""What would end a training on GPUs in its first minutes, asked before it starts."""

from __future__ import annotations

from criticflow.config import Model, Resources, Run, Task
from criticflow.doctor.cuda import (
    Torch,
    installed_torch,
    judge_bf16,
    judge_driver,
    judge_generation,
    judge_torch,
)
from criticflow.doctor.finding import Finding, refuse
from criticflow.doctor.free_gpus import judge_free
from criticflow.doctor.tools import judge_attention, judge_compiler, own_compiler
from criticflow.logs import progress
from criticflow.models.shape import directory_shape
from criticflow.runtime.gpus import Gpu, visible_gpus
from criticflow.training.footprint import described, total
from criticflow.training.gpu_footprint import (
    card_gib,
    changes_memory,
    check_gpu_memory,
    gpu_memory,
)


def check_gpus(run: Run, task: Task, model: Model, resources: Resources, model_dir: str) -> None:
    """Judge the GPUs of this job, what computes on them, and their memory.

    Raises:
        UserError: with all that is wrong; what is a warning is only told.
    """
    gpus, torch = visible_gpus(), installed_torch()
    dtypes = {f"models.{run.model}.dtype": model.dtype, "train.dtype": run.train.dtype}
    users = [key for key, dtype in dtypes.items() if dtype == "bfloat16"]
    attention = {f"models.{run.model}.attn_implementation": model.attn_implementation}
    findings = [
        *judge_gpus(gpus, torch, resources, users),
        *judge_attention(attention),
        judge_compiler(*own_compiler(), needed=True),
    ]
    refuse(findings)
    for finding in findings:
        if finding.state == "warning":
            progress(f"warning: {finding.about}: {finding.said} ({finding.mend})")
    # What the job really has, whatever the configuration says of the site.
    own = resources.model_copy(update={"gpu_memory_gb": None})
    shape, card = directory_shape(model_dir), card_gib(own) or resources.gpu_memory_gb
    if shape is None or card is None:
        return
    found = gpu_memory(run, task, resources, shape, card)
    progress(
        f"of each GPU's {card:.0f} GiB training takes about {total(found.training):.0f} "
        f"({described(found.training)}), sampling {total(found.rollout):.0f}"
    )
    if not changes_memory(run):
        check_gpu_memory("resources", found)


def judge_gpus(
    gpus: list[Gpu], torch: Torch, resources: Resources, bf16: list[str]
) -> list[Finding]:
    """Driver, torch, generations, bfloat16, free memory.

    Args:
        gpus: those that this process may use.
        bf16: what asks for bfloat16.
    """
    seen = len(gpus) or torch.count
    found = [judge_torch(torch, seen, needed=resources.gpu > 0)]
    if gpus:
        kinds = {gpu.name: gpu for gpu in gpus}.values()
        found.append(judge_driver(gpus, torch))
        found += [judge_generation(gpu, torch.arches) for gpu in kinds]
        found.append(judge_bf16(gpus, bf16))
    found.append(judge_free(gpus, resources.gpu, resources.rollout_memory, torch.count))
    return found
