"""A verl platform for machines without an accelerator. Selected with ``VERL_PLATFORM=cpu``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

_PAGE = os.sysconf("SC_PAGE_SIZE")


def _resident() -> int:
    """Resident memory of this process, bytes (second number of Linux's ``statm``, in pages)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _mem_get_info(*_: Any) -> tuple[int, int]:
    """Memory of the machine that can be had without swapping, and all there is, in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kibibytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return 1024 * kibibytes["MemAvailable"], 1024 * kibibytes["MemTotal"]


# What verl calls on ``torch.cuda``; ``torch.cpu`` has less than half of it.
_DEVICE = SimpleNamespace(
    current_stream=torch.cpu.current_stream,
    device_count=lambda: 1,
    empty_cache=_nothing,
    get_device_name=lambda *_: "cpu",
    get_rng_state=torch.get_rng_state,
    ipc_collect=_nothing,
    is_available=lambda: True,
    manual_seed=torch.manual_seed,
    manual_seed_all=torch.manual_seed,
    max_memory_allocated=lambda *_: _resident(),
    max_memory_reserved=lambda *_: _resident(),
    mem_get_info=_mem_get_info,
    memory_allocated=lambda *_: _resident(),
    memory_reserved=lambda *_: _resident(),
    reset_peak_memory_stats=_nothing,
    set_device=_nothing,
    set_per_process_memory_fraction=_nothing,
    set_rng_state=torch.set_rng_state,
    Event=torch.cpu.Event if hasattr(torch.cpu, "Event") else None,
    Stream=torch.cpu.Stream,
    stream=nullcontext,
    synchronize=_nothing,
)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """The CPU as verl's device. verl does not detect it: ``VERL_PLATFORM=cpu`` selects it."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        # Ray counts logical GPUs, so verl's own placement works unchanged.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None
