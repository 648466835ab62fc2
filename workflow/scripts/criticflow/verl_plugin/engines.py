"""verl engines: its FSDP engines on the CPU, and the value model's engine on every device.

verl looks for an engine of (device, vendor) before one of (device) alone. Ours is registered for a
vendor, so that it is found before verl's own, which stays as it is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import (
    FSDPEngineWithLMHead,
    FSDPEngineWithValueHead,
)

from criticflow.verl_plugin import patches
from criticflow.verl_plugin.frozen_critic import FreezableEngine
from criticflow.verl_plugin.model_config import ValueModelConfig
from criticflow.verl_plugin.value_model import load_for_engine

FSDP = ["fsdp", "fsdp2"]


class ValueEngine(FreezableEngine, FSDPEngineWithValueHead):
    """verl's FSDP engine for critics, with criticflow's loading and freezing.

    With verl's own model configuration (its own trainer) it is verl's engine, unchanged.
    """

    def _build_module(self) -> Any:
        if not isinstance(self.model_config, ValueModelConfig):
            return super()._build_module()
        with patches.value_model_loader(partial(load_for_engine, self.model_config)):
            return super()._build_module()


EngineRegistry.register(model_type="language_model", backend=FSDP, device="cpu")(
    FSDPEngineWithLMHead
)
EngineRegistry.register(model_type="value_model", backend=FSDP, device="cpu")(ValueEngine)
EngineRegistry.register(model_type="value_model", backend=FSDP, device="cuda", vendor="nvidia")(
    ValueEngine
)
