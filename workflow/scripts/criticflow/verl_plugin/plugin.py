"""What verl imports in each of its processes (entry point ``verl.plugins``).

verl goes on silently when an entry point fails. ``criticflow.train`` therefore names this module in
``VERL_USE_EXTERNAL_MODULES`` as well; if such a module cannot be imported, the process stops.
"""

from __future__ import annotations

from criticflow.verl_plugin import (
    patches,
    platform_cpu,  # noqa: F401  (importing it registers the platform, which all other imports need)
)
from criticflow.verl_plugin.versions import check_versions

check_versions()
patches.apply_to_verl()
patches.apply_to_vllm()

if not patches.in_rollout_process():
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    from criticflow.verl_plugin import engines  # noqa: F401  (registers; slow to import)

    # By name, since verl's own is imported where it is needed alone.
    _ROLLOUT_REGISTRY["vllm", "async"] = "criticflow.verl_plugin.weight_sender.OwnServerAdapter"
