"""Freezing: a critic that gives values and never learns.

    A_t = sum_l (gamma lambda)^l delta_{t+l},  delta_t = r_t + gamma V(s_{t+1}) - V(s_t)

V is the critic as it was loaded; GAE (Schulman et al. 2016), the clipped policy loss and the
actor's update are verl's and unchanged. What changes: the parameters require no gradient, no
optimizer and no scheduler exist (which saves their memory), the critic's update is skipped (which
saves its time), and a checkpoint neither holds nor needs optimizer state.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig
from verl.trainer.config import CheckpointConfig

from criticflow.errors import UserError

OPTIMIZER = "optimizer"


def is_critic(model: PretrainedConfig) -> bool:
    """Whether a model directory claims to hold a value model (by its architecture)."""
    return any("ForTokenClassification" in name for name in model.architectures or [])


def check_trained(path: str, *, trust_remote_code: bool = False) -> None:
    """Whether a critic that is to be frozen claims to have been trained.

    Args:
        path: ``critic.model.path``; an address is left to the workers, for which verl fetches it.

    Raises:
        UserError: it is another kind of model, or cannot be read.
    """
    if "://" in path:
        return
    try:
        model = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"critic.model.path={path} cannot be read: {reason}") from error
    if not is_critic(model):
        kind = ", ".join(model.architectures or ["model of unknown kind"])
        raise UserError(
            f"critic.model.path={path} is a {kind}: its value head was never trained, and "
            "critic.freeze would keep it so. Give a trained critic, or set "
            "critic.allow_untrained=true for a control run"
        )


def without_optimizer(checkpoint: CheckpointConfig) -> CheckpointConfig:
    """The same checkpoint contents less the optimizer, which a frozen critic does not have."""
    for contents in ("save_contents", "load_contents"):
        kept = [part for part in getattr(checkpoint, contents) if part != OPTIMIZER]
        object.__setattr__(checkpoint, contents, kept)
    return checkpoint


class FreezableEngine:
    """Mixed into a verl FSDP engine: honours ``freeze`` of the model configuration."""

    frozen: bool

    def __init__(
        self,
        model_config: Any,
        engine_config: Any,
        optimizer_config: Any,
        checkpoint_config: CheckpointConfig,
    ) -> None:
        self.frozen = bool(model_config.get("freeze", False))
        if self.frozen:
            checkpoint_config = without_optimizer(checkpoint_config)
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)
        if self.frozen:
            self._is_offload_optimizer = False  # verl moves it without asking whether there is one

    def _build_module(self) -> Any:
        module = super()._build_module()
        if self.frozen:
            module.requires_grad_(False)
        return module

    def _build_optimizer(self, module: Any) -> Any:
        return None if self.frozen else super()._build_optimizer(module)

    def _build_lr_scheduler(self, optimizer: Any) -> Any:
        return None if self.frozen else super()._build_lr_scheduler(optimizer)
