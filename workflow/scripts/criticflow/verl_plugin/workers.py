"""The critic's worker: verl's, able to prove what it loaded."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import TrainingWorker

from criticflow.errors import UserError

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

_SHAPE_KEYS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "value_head")


class CriticWorker(TrainingWorker):
    """One rank of the critic."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def weights_checksum(self) -> str:
        """SHA-256 over names and bytes of this rank's share of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.engine.module.state_dict().items()):
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            digest.update(name.encode())
            digest.update(local.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_weights_only(self, local_path: str) -> list[str]:
        """Load model weights, no optimizer, scheduler or random state, from a checkpoint.

        Returns:
            Names of the tensors that were loaded.

        Raises:
            UserError: the checkpoint is of another architecture or size.
        """
        self._check_architecture(Path(local_path))
        manager = self.engine.checkpoint_manager
        contents = manager.checkpoint_load_contents
        manager.checkpoint_load_contents = ["model"]
        try:
            self.engine.load_checkpoint(local_path, None, False)
        finally:
            manager.checkpoint_load_contents = contents
        return sorted(self.engine.module.state_dict())

    def _check_architecture(self, folder: Path) -> None:
        config_file = folder / "huggingface" / "config.json"
        if not config_file.is_file():
            raise UserError(
                f"{folder} holds no huggingface/config.json: the checkpoint is incomplete"
            )
        stored = json.loads(config_file.read_text())
        ours = self.engine.module.config.to_dict()
        for key in _SHAPE_KEYS:
            default = "linear" if key == "value_head" else None
            there, here = stored.get(key, default), ours.get(key, default)
            if there != here:
                raise UserError(
                    f"the critic in {folder} has {key}={there}, this run's critic {key}={here}: "
                    "set critic.model.path to the model that critic was trained from"
                )
