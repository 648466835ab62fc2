"""Deletes what a finished run's checkpoint no longer needs once it is converted.

Only an unfinished training reads the optimizers, and a changed configuration trains from the start.
The layout of a checkpoint directory stands in :mod:`criticflow.checkpoint.retention`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from criticflow.checkpoint.retention import last_step
from criticflow.errors import UserError
from criticflow.files import read_json
from criticflow.logs import progress
from criticflow.runtime.run_lock import run_lock
from criticflow.training import identity

Freed = Literal["none", "optimizer", "all"]
"""What is deleted of a converted model: nothing, the optimizer's shards, or the weights' too."""


@contextmanager
def converting(
    directory: Path,
    kind: str,
    freed: Freed,
    step: int | None = None,
    kept: Collection[int] = (),
) -> Iterator[Path]:
    """Yield the folder of a finished run's actor or critic; free space after the block.

    If the block raises, or another training has taken the directory meanwhile, nothing is deleted.

    Args:
        directory: checkpoints of the run.
        kind: ``actor`` or ``critic``.
        freed: what is deleted. After ``all`` the directory belongs to no configuration, so that a
            training starts afresh there; with the last kind's weights it goes as a whole.
        step: which step; None: the last.
        kept: steps that are converted too: ``all`` deletes the weights of each with its own
            conversion.

    Raises:
        UserError: the weights are not there (any more).
    """
    before = _claimed(directory)
    last = last_step(directory)
    folder = directory / f"global_step_{step or last}" / kind
    if not any(folder.glob("model_*.pt")):
        which = "" if step is None else f" of step {step}"
        raise UserError(
            f"{directory} holds no weights of the {kind}{which}: they were never saved, or "
            "resources.free_converted: all has deleted them. To train the run again, delete that "
            "directory and the run's metrics.parquet, and give the same command"
        )
    yield folder

    def unchanged() -> bool:
        # The conversion of the other kind may have taken the fingerprint away.
        return last_step(directory) == last and _claimed(directory) in (None, before)

    if freed == "none" or not unchanged():
        return
    try:
        with run_lock(directory):
            if unchanged():
                others = {*kept, last} - {step or last}
                _free(directory, kind, freed, others)
    except UserError as error:  # the conversion itself has succeeded
        progress(f"nothing freed: {error}")


def _claimed(directory: Path) -> object:
    stamp = directory / identity.NAME
    return read_json(stamp) if stamp.is_file() else None


def _free(directory: Path, kind: str, freed: Freed, others: Collection[int]) -> None:
    """Free all steps' shards of one kind, less the weights of ``others``."""
    _delete(directory.glob(f"global_step_*/{kind}/optim_*.pt"))
    if freed != "all":
        return
    (directory / identity.NAME).unlink(missing_ok=True)  # before any weights, in case of a kill
    waiting = {f"global_step_{step}" for step in others}
    weights = directory.glob(f"global_step_*/{kind}/model_*.pt")
    _delete(path for path in weights if path.parent.parent.name not in waiting)
    if not any(directory.glob("global_step_*/*/model_*.pt")):
        shutil.rmtree(directory)


def _delete(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink()
