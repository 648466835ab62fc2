"""Imports the libraries that verl's processes on the CPU import, Ray and verl themselves excepted.

Ray reads environment variables while it is imported, its job's number among them, so a process must
import it after it has become a worker.
"""

from __future__ import annotations

import accelerate  # noqa: F401
import datasets  # noqa: F401
import fastapi  # noqa: F401
import hydra  # noqa: F401
import openai.types.responses  # noqa: F401
import peft  # noqa: F401
import scipy.stats  # noqa: F401
import tensordict  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import transformers  # noqa: F401
import vllm.v1.executor.uniproc_executor
import vllm.v1.worker.cpu_worker  # noqa: F401
