"""Imports what verl's workers and engines on the CPU import besides (see ``preload``)."""

from __future__ import annotations

import fastapi  # noqa: F401
import openai.types.responses  # noqa: F401
import scipy.stats  # noqa: F401
import vllm.v1.executor.uniproc_executor
import vllm.v1.worker.cpu_worker  # noqa: F401
