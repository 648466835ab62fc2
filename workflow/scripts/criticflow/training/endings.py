"""How an attempt at a training ended, for the message that a person reads."""

from __future__ import annotations

from pathlib import Path

from criticflow.checkpoint.retention import last_step
from criticflow.files import free_space
from criticflow.training.footprint import Part, remedies
from criticflow.training.log import attempts, read_rows
from criticflow.training.memory_use import MemoryUse
from criticflow.verl_plugin.stopping import STOP


def stopped_early(checkpoint_dir: Path, steps: int, code: int) -> str | None:
    """How a training ended that was asked to stop before its last step; None: it failed.

    Args:
        steps: how many it was to make.
        code: exit code of the newest attempt, not 0.
    """
    stop, saved = checkpoint_dir / STOP, last_step(checkpoint_dir)
    if saved >= steps or not stop.exists():
        return None
    going_on = f"a retry, or the same command, goes on from step {saved} of {steps}"
    newest = attempts(checkpoint_dir / "metrics")[-1:]
    made = max((row["step"] for path in newest for row in read_rows(path)), default=0)
    if (reason := stop.read_text(encoding="utf-8")) and made == saved:
        return f"saved and stopped, {reason}: {going_on}"
    if code > 128:
        return f"was asked to stop, and ended by signal before it had saved: {going_on}"
    return None


def out_of_memory(memory: MemoryUse, log: Path, start: int, parts: list[Part]) -> str | None:
    """How a training ended that ran out of memory; None: it ended for another reason.

    Args:
        memory: what was watched while it ran.
        log, start: the trainer's output, and the byte with which this attempt begins.
        parts: its memory as expected, to say what makes it smaller; empty where nothing was
            expected.
    """
    if not memory.ran_out(log, start):
        return None
    lower = f"lower {remedies(parts)}, or " if parts else ""
    return (
        f"ran out of memory: at its peak it used {memory.described()}; {lower}end other "
        f"programs (see {log})"
    )


def full_disk(checkpoint_dir: Path, needed: int) -> str | None:
    """How a training ended if a checkpoint of ``needed`` bytes no longer fits; None: it fits."""
    free = free_space(checkpoint_dir)
    if free >= needed:
        return None
    return (
        f"failed, and its disk is full: a checkpoint takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} "
        f"MB are free for {checkpoint_dir}: make room, and a retry, or the same command, goes on "
        f"from step {last_step(checkpoint_dir)}"
    )


def ray_had_no_time(log: Path, start: int) -> bool:
    """Whether Ray said, after byte ``start`` of the log, that it could not start in time.

    It gives itself 30 s (2.60.0, ``ray._private.node``), which no setting changes and a busy
    machine may exceed.
    """
    return any("The current node timed out during startup" in line for line in _said(log, start))


def own_error(log: Path, start: int) -> str | None:
    """What a training said of its end in a line of its own, after byte ``start`` of the log."""
    lines = _said(log, start)
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else None


def _said(log: Path, start: int) -> list[str]:
    with open(log, "rb") as stream:
        stream.seek(start)
        return stream.read().decode("utf-8", errors="replace").splitlines()
