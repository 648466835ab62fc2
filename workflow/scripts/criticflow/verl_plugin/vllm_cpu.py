"""vLLM's side of the plugin: called in every vLLM process before a model is built."""

from __future__ import annotations

from criticflow.verl_plugin.patches import apply_to_vllm
from criticflow.verl_plugin.versions import check_versions


def register() -> None:
    """Entry point ``vllm.general_plugins``. Outside of verl's workers it changes nothing."""
    check_versions()
    apply_to_vllm()
