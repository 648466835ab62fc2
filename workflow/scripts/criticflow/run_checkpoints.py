"""The raw checkpoints of one run: which is the last, which stay, what a finished run is rid of.

verl's layout, a file per rank::

    latest_checkpointed_iteration.txt                            written when all of N is there
    global_step_N/data.pt                                        last but that
    global_step_N/{actor,critic}/model_world_size_W_rank_R.pt    weights
                                 optim_world_size_W_rank_R.pt    Adam's moments, twice as large
                                 ...                             small

Only an unfinished training reads the optimizers, and a changed configuration trains afresh.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from criticflow import fingerprint
from criticflow.errors import UserError
from criticflow.files import read_json, replacing
from criticflow.logs import progress
from criticflow.run_lock import run_lock

TRACKER = "latest_checkpointed_iteration.txt"

Freed = Literal["none", "optimizer", "all"]
"""What of a converted model goes: nothing, the optimizer's shards, or the weights' shards too."""


def last_step(directory: Path) -> int:
    """The step of the last complete checkpoint; 0 if there is none."""
    tracker = directory / TRACKER
    return int(tracker.read_text()) if tracker.is_file() else 0


def mend_tracker(directory: Path) -> None:
    """Where a machine went down while verl wrote which step is the last, write it again."""
    tracker = directory / TRACKER
    if not tracker.is_file() or tracker.read_text().strip().isdigit():
        return
    complete = _complete(directory)
    if complete:
        with replacing(tracker) as aside:
            aside.write_text(str(max(complete)), encoding="utf-8")
    else:
        tracker.unlink()


def keep_last(directory: Path, number: int) -> None:
    """Delete all checkpoints before the last ``number`` complete ones; half-written ones as well.

    verl does that by itself, but an older actor goes before the newer critic is written, so that a
    kill in between leaves neither; and it forgets what an earlier attempt has saved.
    """
    last, complete = last_step(directory), _complete(directory)
    kept = sorted(step for step in complete if step <= last)[-number:]
    for step, folder in _folders(directory).items():
        if step < last and step not in kept:
            shutil.rmtree(folder)


def _complete(directory: Path) -> list[int]:
    return [step for step, folder in _folders(directory).items() if (folder / "data.pt").is_file()]


def _folders(directory: Path) -> dict[int, Path]:
    prefix = "global_step_"
    return {int(path.name[len(prefix) :]): path for path in directory.glob(f"{prefix}*[0-9]")}


@contextmanager
def converting(directory: Path, kind: str, freed: Freed) -> Iterator[Path]:
    """Yield the folder of a finished run's actor or critic; free space after the block.

    If the block raises, or another training has taken the directory meanwhile, nothing is deleted.

    Args:
        directory: checkpoints of the run.
        kind: ``actor`` or ``critic``.
        freed: what is deleted. After ``all`` the directory belongs to no configuration, so that a
            training starts afresh there; with the last kind's weights it goes as a whole.

    Raises:
        UserError: the weights are not there (any more).
    """
    before = _claimed(directory)
    step = last_step(directory)
    folder = directory / f"global_step_{step}" / kind
    if not any(folder.glob("model_*.pt")):
        raise UserError(
            f"{directory} holds no weights of the {kind}: they were never saved, or "
            "resources.free_converted: all has deleted them. To train the run again, delete that "
            "directory and the run's metrics.parquet, and give the same command"
        )
    yield folder

    def unchanged() -> bool:
        # The conversion of the other kind may have taken the fingerprint away.
        return last_step(directory) == step and _claimed(directory) in (None, before)

    if freed == "none" or not unchanged():
        return
    try:
        with run_lock(directory):
            if unchanged():
                _free(directory, kind, freed)
    except UserError as error:  # the conversion is good all the same
        progress(f"nothing freed: {error}")


def _claimed(directory: Path) -> object:
    stamp = directory / fingerprint.NAME
    return read_json(stamp) if stamp.is_file() else None


def _free(directory: Path, kind: str, freed: Freed) -> None:
    _delete(directory, f"global_step_*/{kind}/optim_*.pt")
    if freed != "all":
        return
    (directory / fingerprint.NAME).unlink(missing_ok=True)  # before any weights, in case of a kill
    _delete(directory, f"global_step_*/{kind}/model_*.pt")
    if not any(directory.glob("global_step_*/*/model_*.pt")):
        shutil.rmtree(directory)


def _delete(directory: Path, pattern: str) -> None:
    for path in directory.glob(pattern):
        path.unlink()
