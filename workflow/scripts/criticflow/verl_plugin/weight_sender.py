"""The sender of new rollout weights: verl's, on a socket that is the job's own.

The receivers in vLLM's processes get theirs by ``patches.receive_from_own_job``.
"""

from __future__ import annotations

import os
from typing import Any

from verl.workers.rollout.vllm_rollout import ServerAdapter

from criticflow.verl_plugin.job_directory import JOB, private_handle, socket_directory


class OwnServerAdapter(ServerAdapter):
    """verl finds it in its registry of rollouts (``plugin``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own = JOB in os.environ
        if self.own:
            self.zmq_handle = private_handle(self.zmq_handle)

    async def update_weights(self, *args: Any, **kwargs: Any) -> None:
        if not self.own:
            return await super().update_weights(*args, **kwargs)
        with socket_directory(self.zmq_handle):
            await super().update_weights(*args, **kwargs)
