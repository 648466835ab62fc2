"""Programs and libraries that are used while it runs: attention, a compiler."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from criticflow.doctor.finding import Finding, ok, warning, wrong

ATTENTION_VARIABLES = ("VERL_ATTN_IMPLEMENTATION", "HF_ATTN_IMPLEMENTATION")
"""Win over the configuration, the first over the second."""
_MODULES = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flex_attention": "torch.nn.attention.flex_attention",
}
"""What a kind of attention is imported from; the others need nothing but torch."""


def judge_attention(
    configured: Mapping[str, str | None],
    environment: Mapping[str, str] = os.environ,
    installed: Callable[[str], object] = find_spec,
) -> list[Finding]:
    """Whether each kind of attention that is asked for is installed.

    Args:
        configured: ``attn_implementation`` by the key that asks for it; None: the model decides.
    """
    asked = {key: kind for key, kind in configured.items() if kind}
    for variable in ATTENTION_VARIABLES:
        if kind := environment.get(variable):
            asked = {f"the environment's {variable}": kind}
            break
    found = []
    for key, kind in asked.items():
        module = _MODULES.get(kind)
        if module and not _there(module, installed):
            found.append(
                wrong(
                    "attention",
                    f"{key} is {kind}, and {module.split('.')[0]} is not installed",
                    f"{key}: sdpa, which needs nothing more",
                )
            )
    return found or [ok("attention", ", ".join(sorted(set(asked.values()))) or "the model's own")]


def _there(module: str, installed: Callable[[str], object]) -> bool:
    try:
        return installed(module) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False


def judge_compiler(compiler: str, headers: Path, needed: bool) -> Finding:
    """Whether C code that uses Python's headers compiles, by trying it.

    Args:
        compiler: ``CC``, or ``gcc``.
        headers: the folder with ``Python.h``.
        needed: on GPUs, where vLLM and triton compile kernels.
    """
    bad = wrong if needed else warning
    version = sysconfig.get_python_version()
    if not (headers / "Python.h").is_file():
        return bad(
            "compiler",
            f"{headers}/Python.h is missing, with which vLLM's kernels are compiled on GPUs",
            f"apt-get install python{version}-dev, or a Python that brings it (conda's, uv's)",
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n")
        command = [*compiler.split(), "-shared", "-fPIC", f"-I{headers}", str(source)]
        command += ["-o", str(source.with_suffix(".so"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return bad(
                "compiler",
                f"there is no {compiler}, with which vLLM's kernels are compiled on GPUs",
                "apt-get install gcc, or module load gcc, or CC=/path/to/one in the environment",
            )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no word why"]
        return bad("compiler", f"{compiler} fails: {lines[0]}", "try it by hand on a C file")
    return ok("compiler", f"{compiler}, with Python.h of {version}")


def judge_library(library: str, package: str) -> Finding:
    """Whether a library of the system is there, which vLLM for the CPU is linked with.

    Args:
        package: Debian's, that has it.
    """
    try:
        ctypes.CDLL(library)
    except OSError:
        said = f"{library} is missing, which vLLM for the CPU is linked with"
        return wrong("libraries", said, f"apt-get install {package}, or the like elsewhere")
    return ok("libraries", library)


def own_compiler() -> tuple[str, Path]:
    """The compiler that torch and triton would take, and the folder of Python's headers."""
    return os.environ.get("CC") or "gcc", Path(sysconfig.get_path("include"))
