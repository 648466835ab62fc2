"""A trainer that hands a critic its own values back, by the way that an oracle's take."""

from __future__ import annotations

from typing import Any

import criticflow.verl_plugin.plugin  # noqa: F401  (first: the platform, which verl needs)
from criticflow.verl_plugin import patches

if not patches.in_rollout_process():
    import torch
    import transfer_queue as tq
    from verl.trainer.ppo.v1.trainer_base import register_trainer

    from criticflow.verl_plugin.trainer import CriticflowTrainer

    @register_trainer("injecting")
    class InjectingTrainer(CriticflowTrainer):
        def _compute_values(self, batch: Any, metrics: dict) -> Any:
            batch = super()._compute_values(batch, metrics)
            where = {"keys": batch.keys, "partition_id": batch.partition_id}
            given = tq.kv_batch_get(**where, select_fields=["values"])["values"].unbind()
            values = {key: row.numpy() for key, row in zip(batch.keys, given, strict=True)}
            gone = torch.nested.as_nested_tensor(
                [torch.full_like(row, torch.nan) for row in given], layout=torch.jagged
            )
            self._publish_nested(batch, gone)
            self.give_values(batch, values)
            metrics["injected"] = float(len(values))
            return batch

        @staticmethod
        def _publish_nested(batch: Any, values: torch.Tensor) -> None:
            from tensordict import TensorDict

            fields = TensorDict({"values": values}, batch_size=len(batch))
            tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
