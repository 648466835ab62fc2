"""The critic's worker: verl's, which can also load weights alone and show what it loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import TrainingWorker

from criticflow.checkpoint.rank_files import rank_file_name


class CriticWorker(TrainingWorker):
    """One rank of the critic."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def weights_checksum(self) -> str:
        """SHA-256 over names and bytes of this rank's share of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.engine.module.named_parameters()):
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            digest.update(name.encode())
            values = local.detach().cpu().contiguous().flatten()
            digest.update(values.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_weights_only(self, local_path: str) -> list[str]:
        """Load model weights, no optimizer, scheduler or random state, from a checkpoint.

        torch refuses a checkpoint in which a tensor is missing, left over or of another shape.

        Returns:
            Names of the tensors in this rank's file, all of which were loaded.
        """
        manager = self.engine.checkpoint_manager
        contents = manager.checkpoint_load_contents
        manager.checkpoint_load_contents = ["model"]
        try:
            self.engine.load_checkpoint(local_path, None, False)
        finally:
            manager.checkpoint_load_contents = contents
        shard = rank_file_name(manager.world_size, manager.rank)
        return shard_names(Path(local_path) / shard)


def shard_names(file: Path) -> list[str]:
    """Names of the tensors in a shard, sorted; none of them is read, nor taken to the device that
    it was saved from."""
    return sorted(torch.load(file, weights_only=False, mmap=True, map_location="meta"))
