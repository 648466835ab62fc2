"""Imports the libraries that all of verl's processes on the CPU import, Ray and verl excepted.

Ray starts threads while it is imported and reads environment variables, so a process must import it
after it has become a worker.
"""

from __future__ import annotations

import accelerate  # noqa: F401
import datasets  # noqa: F401
import hydra  # noqa: F401
import peft  # noqa: F401
import tensordict  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import transformers  # noqa: F401
