"""One attempt at a training: verl in processes of its own, watched until they have ended."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.logs import progress, terminal_fds
from criticflow.retrieval.protocol import TOKEN
from criticflow.runtime.processes import run_owned
from criticflow.training.cluster import OwnRay, ray_for
from criticflow.training.endings import stopped_early
from criticflow.training.environment import environment, heartbeat_directory
from criticflow.training.log import Progress, next_attempt
from criticflow.training.memory_use import MemoryUse
from criticflow.training.own_retriever import OwnRetriever
from criticflow.training.rollout_watch import RolloutWatch
from criticflow.training.watchdog import Watchdog, repeat_traceback
from criticflow.verl_plugin.stopping import STOP


def run_verl(
    overrides: list[str],
    resources: Resources,
    log: Path,
    steps: int,
    lock: int,
    memory: MemoryUse,
    retriever: OwnRetriever | None = None,
) -> int:
    """Run verl until it ends; its exit code.

    Args:
        overrides: for ``python -m criticflow.train``.
        log: where its output is appended; in the directory of its checkpoints.
        steps: how many it is to make, over all attempts.
        lock: file descriptor of the lock on the directory, which verl's processes hold as well.
        memory: watches what they use.
        retriever: of this training's own.

    Raises:
        UserError: it could no longer go on, and was ended.
    """
    checkpoint_dir = log.parent
    metrics = next_attempt(checkpoint_dir / "metrics")
    report = Progress(metrics, steps, progress)
    watchdog = Watchdog(report.newest, 60 * resources.stall_minutes)
    heartbeats = heartbeat_directory(metrics)
    rollouts = RolloutWatch(heartbeats, 60 * resources.rollout_stall_minutes)
    env = environment(resources, metrics)
    if retriever is not None:
        overrides = [*overrides, f"++search.service.url={retriever.url}"]
        env[TOKEN] = retriever.token
    stop = checkpoint_dir / STOP
    stop.unlink(missing_ok=True)

    def watch(cluster: OwnRay) -> None:
        report()
        if retriever is not None:
            retriever.check()
        memory()
        watchdog()
        rollouts()
        cluster()

    def ask_to_stop() -> None:
        stop.touch()
        progress("asked to stop: saving after this step; a second signal stops at once")

    try:
        with ray_for(resources, env, checkpoint_dir) as cluster:
            code = run_owned(
                [sys.executable, "-m", "criticflow.train", *overrides, *cluster.overrides],
                {**env, **cluster.environment},
                log,
                watch=lambda: watch(cluster),
                ask_to_stop=ask_to_stop,
                grace=60 * resources.save_minutes,
                pass_fds=[*terminal_fds(), lock],
            )
            if 0 < code < 128 and stopped_early(checkpoint_dir, steps, code) is None:
                cluster.explain()
    except UserError as error:
        repeat_traceback(log, str(error))
        raise UserError(f"{error}: see the end of {log}") from None
    shutil.rmtree(heartbeats, ignore_errors=True)
    if resources.own_node:  # of several nodes nobody sees all processes
        progress(f"memory of the training at its peak: {memory.described()}")
    if 0 < code < 128 and stopped_early(checkpoint_dir, steps, code) is None:
        repeat_traceback(log, f"exit code {code}")
    return code
