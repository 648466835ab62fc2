"""Train on a Ray cluster that runs already, as a training job does.

    python client_training.py FOLDER NAME SEED HOST:PORT

In FOLDER is what whole runs need; checkpoints go to FOLDER/NAME.
"""

from __future__ import annotations

import sys
from pathlib import Path

from whole_runs import HERE, study

from criticflow.config import Resources
from criticflow.training.attempt import run_verl
from criticflow.training.memory_use import MemoryUse
from criticflow.training.overrides import Places, verl_overrides

if __name__ == "__main__":
    folder, name, seed, address = Path(sys.argv[1]), *sys.argv[2:]
    named, resources = study(), Resources(cpu_ranks=1, ray_address=address)
    checkpoints = folder / name
    checkpoints.mkdir()
    overrides = verl_overrides(
        named.runs["plain"],
        named.models["base"],
        named.tasks["problems"],
        resources,
        name="plain",
        seed=int(seed),
        places=Places(str(folder / "base"), str(folder / "critic"), folder / "data", checkpoints),
    )
    overrides.append(f"reward.custom_reward_function.path={HERE / 'token_share.py'}")
    overrides.append(f"hydra.run.dir={checkpoints / 'hydra'}")
    log = checkpoints / "train.log"
    log.touch()
    with open(log, "rb") as lock:
        sys.exit(run_verl(overrides, resources, log, 2, lock.fileno(), MemoryUse()))
