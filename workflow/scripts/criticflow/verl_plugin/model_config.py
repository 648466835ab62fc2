"""verl's model and critic configuration with the keys that criticflow adds.

Hydra builds these in place of verl's classes (``_target_`` in ``config/criticflow_trainer.yaml``),
so the new keys reach the workers as verl's own do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig
from verl.workers.config import FSDPCriticConfig, HFModelConfig

from criticflow.verl_plugin.settings import as_bool

ATTENTION_VARIABLES = ("VERL_ATTN_IMPLEMENTATION", "HF_ATTN_IMPLEMENTATION")


def attention_implementation(configured: str | None, path: str, trust_remote_code: bool) -> str:
    """Which attention a model runs: the first of

    1. ``VERL_ATTN_IMPLEMENTATION``, 2. ``HF_ATTN_IMPLEMENTATION``, 3. the model's configuration
    (``configured``, i.e. ``override_config.attn_implementation``, then ``config.json``), 4. sdpa.
    """
    for variable in ATTENTION_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    if configured:
        return configured
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    return getattr(config, "_attn_implementation", None) or "sdpa"


@dataclass
class ModelConfig(HFModelConfig):
    """verl's model configuration with the attention that was configured; verl's own would silently
    take flash-attention."""

    def __post_init__(self) -> None:
        override = dict(self.override_config or {})
        override["attn_implementation"] = attention_implementation(
            override.get("attn_implementation"),
            self.hf_config_path or self.path,
            self.trust_remote_code,
        )
        # verl freezes the field once the object exists.
        object.__setattr__(self, "override_config", override)
        super().__post_init__()


@dataclass
class ValueModelConfig(ModelConfig):
    """A critic's model.

    Args:
        freeze: forward only: no gradient, no optimizer.
        value_head: ``linear``, or ``mlp`` (Linear-ReLU-Linear).
        allow_untrained: permit a critic directory without a value head, and freezing a fresh head.
        constant: the value of every state (``constant_critic``); None: what the model says.
        scale: factor on the values of the critic that is loaded (``scaled_critic``).
        head_seed: seed of a fresh value head.
    """

    _mutable_fields = HFModelConfig._mutable_fields | {
        "freeze",
        "value_head",
        "allow_untrained",
        "constant",
        "scale",
    }

    freeze: bool = False
    value_head: str = "linear"
    allow_untrained: bool = False
    constant: float | None = None
    scale: float = 1.0
    head_seed: int = 0


@dataclass
class CriticConfig(FSDPCriticConfig):
    """verl's FSDP critic; criticflow's keys go on to the model, verl's own batching to the engine.

    verl 0.9.1 hands the engine of a critic no batching (verl issue 7462): whatever
    ``ppo_micro_batch_size_per_gpu`` says, a micro-batch has 32,768 tokens, and the memory for them.
    """

    freeze: Any = False
    value_head: str = "linear"
    allow_untrained: Any = False
    constant: Any = None
    scale: Any = 1.0
    shuffle_values: Any = False
    shuffle_seed: Any = None
    oracle_continuations: Any = None
    oracle_lines_above: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model.freeze = as_bool("critic.freeze", self.freeze)
        self.model.allow_untrained = as_bool("critic.allow_untrained", self.allow_untrained)
        self.model.value_head = self.value_head
        self.model.constant = None if self.constant is None else float(self.constant)
        self.model.scale = float(self.scale)
        self._batch_the_engine()

    def _batch_the_engine(self) -> None:
        """Let the engine cut batches as the critic's keys say, as verl does for the actor's."""
        size = self.ppo_micro_batch_size_per_gpu
        if self.use_dynamic_bsz or size is None:
            return
        self.engine.use_dynamic_bsz = False
        self.engine.micro_batch_size_per_gpu = size
        self.engine.infer_micro_batch_size_per_gpu = (
            self.ppo_infer_micro_batch_size_per_gpu or self.forward_micro_batch_size_per_gpu or size
        )
