"""Models and data that are named on the Hugging Face hub: in the local cache, or within reach."""

from __future__ import annotations

import os
from collections.abc import Callable

from criticflow.doctor.finding import Finding, ok, warning, wrong
from criticflow.models.shape import cached

SECONDS = 10
FETCH = "criticflow fetch with the same --configfile, on a machine with internet that shares the \
cache (HF_HOME)"


def judge_model(
    name: str, revision: str | None, have: str | None, reach: Callable[[], str | None]
) -> Finding:
    """Whether a hub model can be had where this runs.

    Args:
        have: its commit in the local cache; None: it is not there.
        reach: asks the hub; what stands in the way, None: nothing does.
    """
    about = f"model {name}"
    if have:
        return ok(about, f"in the local cache, commit {have}")
    if (problem := reach()) is None:
        return warning(about, "not in the local cache; the hub has it", FETCH)
    return wrong(about, f"neither in the local cache nor on the hub ({problem})", FETCH)


def own_model(name: str, revision: str | None) -> Finding:
    """The same with this machine's cache and network."""
    folder = cached(name, revision)
    weights = folder and any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir())
    return judge_model(
        name, revision, folder.name if weights else None, lambda: _problem(name, revision)
    )


def _problem(name: str, revision: str | None) -> str | None:
    import httpx
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE"):
        return "HF_HUB_OFFLINE is set"
    try:
        HfApi().model_info(name, revision=revision, timeout=SECONDS)
    except (OSError, ValueError, httpx.HTTPError) as error:
        return str(error).strip().splitlines()[0]
    return None
