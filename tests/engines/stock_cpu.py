"""All that stock verl needs to train on a CPU and nothing else: the plugin of runs to compare with.

Named in ``VERL_USE_EXTERNAL_MODULES`` while ``VERL_USE_EXTERNAL_PLUGINS=none`` keeps criticflow's
own plugin out: the platform, the patches that make verl run there, verl's own engines registered
for the device, and another attention than the flash-attention that verl forces on value models.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForTokenClassification

from criticflow.verl_plugin import patches, platform_cpu  # noqa: F401  (registers)

patches.apply_to_verl()
patches.apply_to_vllm()

_from_pretrained = AutoModelForTokenClassification.from_pretrained


def _without_flash_attention(*args: Any, **kwargs: Any) -> Any:
    return _from_pretrained(*args, **{**kwargs, "attn_implementation": "sdpa"})


AutoModelForTokenClassification.from_pretrained = _without_flash_attention

if not patches.in_rollout_process():
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import (
        FSDPEngineWithLMHead,
        FSDPEngineWithValueHead,
    )

    for model_type, engine in (
        ("language_model", FSDPEngineWithLMHead),
        ("value_model", FSDPEngineWithValueHead),
    ):
        EngineRegistry.register(model_type=model_type, backend=["fsdp2"], device="cpu")(engine)
