"""Which checkpoints of a training are complete, and which are kept.

verl's layout, a file per rank::

    latest_checkpointed_iteration.txt                            written when all of N is there
    global_step_N/data.pt                                        last but that
    global_step_N/{actor,critic}/model_world_size_W_rank_R.pt    weights
                                 optim_world_size_W_rank_R.pt    Adam's moments, twice as large
                                 ...                             small
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from criticflow.files import replacing

TRACKER = "latest_checkpointed_iteration.txt"
_FOLDER = re.compile(r"global_step_(\d+)")


def last_step(directory: Path) -> int:
    """The step of the last complete checkpoint; 0 if there is none."""
    tracker = directory / TRACKER
    return int(tracker.read_text()) if tracker.is_file() else 0


def mend_tracker(directory: Path) -> None:
    """Write verl's file of the last step again if the machine stopped while verl wrote it."""
    tracker = directory / TRACKER
    if not tracker.is_file() or tracker.read_text().strip().isdigit():
        return
    complete = _complete(directory)
    if complete:
        with replacing(tracker) as partial:
            partial.write_text(str(max(complete)), encoding="utf-8")
    else:
        tracker.unlink()


def keep_last(directory: Path, number: int, also: Collection[int] = ()) -> None:
    """Delete all checkpoints before the last ``number`` complete ones; half-written ones as well.

    Complete ones of the steps in ``also`` stay.

    verl does that by itself, but an older actor goes before the newer critic is written, so that a
    kill in between leaves neither; and it forgets what an earlier attempt has saved.
    """
    last, complete = last_step(directory), _complete(directory)
    kept = sorted(step for step in complete if step <= last)[-number:]
    kept += [step for step in complete if step in also]
    for step, folder in _folders(directory).items():
        if step < last and step not in kept:
            shutil.rmtree(folder)


def _complete(directory: Path) -> list[int]:
    return [step for step, folder in _folders(directory).items() if (folder / "data.pt").is_file()]


def _folders(directory: Path) -> dict[int, Path]:
    """Checkpoints by step; what a person put beside them (``global_step_20_copy``) is none."""
    named = ((_FOLDER.fullmatch(path.name), path) for path in directory.glob("global_step_*"))
    return {int(name[1]): path for name, path in named if name}
