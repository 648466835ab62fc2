"""Driver, build of torch, and generation of the GPUs: whether they go together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from criticflow.doctor.finding import Finding, ok, warning, wrong
from criticflow.runtime.gpus import Gpu

LEAST_DRIVER = {12: 525, 13: 580}
"""The oldest branch of NVIDIA's driver for Linux that runs programs of a major version of CUDA."""
BF16 = (8, 0)
"""The oldest generation that computes in bfloat16, which vLLM refuses on older ones."""

_ASK = """
import json, torch
arches = torch.cuda.get_arch_list() if torch.cuda.is_available() else []
error = ""
try:
    for index in range(torch.cuda.device_count()):
        torch.ones(1, device=f"cuda:{index}").add_(1).item()
except Exception as problem:
    error = str(problem).strip().splitlines()[0]
count = torch.cuda.device_count()
print(json.dumps([torch.__version__, torch.version.cuda, arches, count, error]))
"""


class Torch(NamedTuple):
    """The installed torch."""

    version: str
    cuda: str | None
    """CUDA's version that it was built with; None: a build for the CPU."""
    arches: list[str]
    """Generations of GPUs that it has code for (``sm_90``); empty where it sees no GPU."""
    count: int
    """GPUs that it sees."""
    error: str
    """What an addition on each GPU said; empty: it worked."""


def installed_torch() -> Torch:
    """Asked in a process of its own, which takes and gives back a little of each GPU's memory."""
    command = [sys.executable, "-W", "ignore", "-c", _ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Torch("", None, [], 0, last[0])
    return Torch(*json.loads(done.stdout.splitlines()[-1]))


def judge_driver(gpus: Sequence[Gpu], torch: Torch) -> Finding:
    """Whether the driver is new enough for torch's CUDA."""
    driver = gpus[0].driver
    least = LEAST_DRIVER.get(int((torch.cuda or "0").split(".")[0]))
    if least and int(driver.split(".")[0]) < least:
        return wrong(
            "driver",
            f"{driver} is too old for CUDA {torch.cuda}",
            f"have driver {least} or newer installed (nvidia-smi shows it), or take nodes with it",
        )
    return ok("driver", driver)


def judge_torch(torch: Torch, gpus: int, needed: bool) -> Finding:
    """Whether torch is there, and built for what it is to run on.

    Args:
        gpus: how many this process may use.
        needed: whether the study trains on GPUs.
    """
    if not torch.version:
        return wrong("torch", f"cannot be imported: {torch.error}", "make setup")
    said = f"{torch.version}, " + (f"CUDA {torch.cuda}" if torch.cuda else "for the CPU")
    if torch.cuda is None and (needed or gpus):
        state = wrong if needed else warning
        return state("torch", f"{said}: it uses no GPU", "make setup DEVICE=gpu")
    if torch.cuda and gpus and torch.error:
        return wrong("torch", f"{said}: no GPU works: {torch.error}", "see driver and GPUs here")
    return ok("torch", said)


def judge_generation(gpu: Gpu, arches: Sequence[str]) -> Finding:
    """Whether torch has code for a GPU: of its generation, or such as its driver can translate.

    Args:
        arches: as :class:`Torch` has them; empty: not known.
    """
    about, major = f"GPU {gpu.name}", gpu.capability[0]
    said = f"compute capability {major}.{gpu.capability[1]}"
    built = [(kind, _capability(number)) for kind, _, number in (a.partition("_") for a in arches)]
    runs = any(
        (kind == "sm" and made[0] == major and made <= gpu.capability)
        or (kind == "compute" and made <= gpu.capability)
        for kind, made in built
    )
    if built and not runs:
        return wrong(
            about,
            f"{said}, and torch is built for {', '.join(arches)}",
            "take another GPU: for this one torch and vLLM would have to be built from source",
        )
    return ok(about, said)


def _capability(number: str) -> tuple[int, int]:
    """``90`` is (9, 0), ``120`` is (12, 0); a letter behind it (``90a``) narrows it."""
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits[:-1]), int(digits[-1])


def judge_bf16(gpus: Sequence[Gpu], users: Sequence[str]) -> Finding:
    """Whether all GPUs compute in bfloat16.

    Args:
        users: what in the study asks for it (``models.X.dtype``).
    """
    old = [gpu for gpu in gpus if gpu.capability < BF16]
    if not old:
        return ok("bfloat16", "every GPU has it")
    said = f"{old[0].name} has none"
    if users:
        return wrong("bfloat16", f"{said}, {users[0]} asks for it", f"{users[0]}: float32")
    return ok("bfloat16", f"{said}, and nothing asks for it")
