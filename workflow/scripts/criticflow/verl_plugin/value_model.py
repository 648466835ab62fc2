"""How a critic's model is loaded: V(s_t) = head(h_t), h_t the last hidden state at token t.

PPO is not changed: verl's engine wraps, trains and saves what is loaded here. What differs from
verl 0.9.1's own loader: the attention implementation is the configured one, where verl always takes
flash-attention; the value head may be an MLP; a trained critic that does not load completely is an
error, where verl would go on with a fresh head; and a fresh head is drawn from its own seed, so
that a run can be repeated.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from criticflow.models.value_head import load_value_model
from criticflow.verl_plugin.constant_critic import make_constant
from criticflow.verl_plugin.frozen_critic import check_trained, is_critic
from criticflow.verl_plugin.model_config import ValueModelConfig
from criticflow.verl_plugin.scaled_critic import scale_values

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


def load_for_engine(
    config: ValueModelConfig,
    local_path: str,
    torch_dtype: torch.dtype,
    model_config: Any,
    trust_remote_code: bool,
) -> PreTrainedModel:
    """Load a critic for a training engine (the signature of verl's ``load_valuehead_model``).

    A base model (``...ForCausalLM``) starts with a fresh head, and the log says so. A directory
    that claims to be a critic must hold one, unless ``critic.allow_untrained`` is set or the value
    is to be a constant anyway.

    Raises:
        UserError: tensors are missing or left over, or an untrained critic would be frozen.
    """
    trained = is_critic(config.hf_config)
    may_be_untrained = config.allow_untrained or config.constant is not None
    if config.freeze and not may_be_untrained:
        check_trained(local_path, trust_remote_code=trust_remote_code)
    model = load_value_model(
        Path(local_path),
        head=config.value_head,
        allow_untrained=may_be_untrained or not trained,
        dtype=torch_dtype,
        attn_implementation=model_config._attn_implementation,
        trust_remote_code=trust_remote_code,
        config=model_config,
        seed=config.head_seed,
    )
    if config.constant is not None:
        make_constant(model, config.constant)
        logger.info("critic: constant, %s in every state", config.constant)
    elif not trained:
        logger.info("critic: fresh %s value head on %s", config.value_head, config.path)
    if config.scale != 1:
        scale_values(model, config.scale)
        logger.info("critic: values times %s", config.scale)
    return model
