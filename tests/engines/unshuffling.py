"""A trainer that exchanges values between trajectories, and gives each its own."""

from __future__ import annotations

from collections.abc import Sequence

import criticflow.verl_plugin.plugin  # noqa: F401  (first: the platform, which verl needs)
from criticflow.verl_plugin import patches

if not patches.in_rollout_process():
    import numpy as np
    from verl.trainer.ppo.v1.trainer_base import register_trainer

    from criticflow.verl_plugin.trainer import CriticflowTrainer

    @register_trainer("unshuffling")
    class UnshufflingTrainer(CriticflowTrainer):
        def value_lenders(self, keys: Sequence[str], own: np.ndarray) -> np.ndarray:
            return np.tile(np.arange(len(keys))[:, None], own.shape[1])
