"""Train one run with one seed: verl in a process of its own, its results brought into shape."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from criticflow.checkpoint.retention import last_step, mend_tracker
from criticflow.config import Config, Resources
from criticflow.errors import UserError
from criticflow.files import replacing, write_json
from criticflow.logs import progress, terminal_fds
from criticflow.models.weights import model_weights
from criticflow.runtime.processes import run_owned
from criticflow.runtime.run_lock import run_lock
from criticflow.runtime.slurm import end_time
from criticflow.training import identity
from criticflow.training.footprint import Part, remedies
from criticflow.training.log import Progress, attempts, metrics_table, next_attempt, read_rows
from criticflow.training.memory_use import MemoryUse
from criticflow.training.overrides import verl_overrides
from criticflow.training.preflight import check_training, checkpoint_bytes
from criticflow.training.provenance import collect
from criticflow.training.rollout_watch import RolloutWatch
from criticflow.training.watchdog import Watchdog, repeat_traceback
from criticflow.verl_plugin.heartbeat import DIRECTORY as HEARTBEATS
from criticflow.verl_plugin.stopping import STOP

logger = logging.getLogger(__name__)


def train_run(
    config: Config,
    run: str,
    seed: int,
    model_dir: str,
    critic_dir: str | None,
    data_dir: Path,
    run_dir: Path,
    checkpoint_dir: Path,
    log: Path,
) -> None:
    """Train, or go on where an earlier attempt stopped, and write the run's results.

    Args:
        config: the study's configuration.
        run, seed: which arm, and its seed.
        model_dir: base model: directory or hub name.
        critic_dir: trained critic; None: the run's ``critic.path``, else the base model.
        data_dir: train.parquet and val.parquet.
        run_dir: where ``config.yaml``, ``metrics.parquet`` and ``provenance.json`` go.
        checkpoint_dir: verl's checkpoints; kept for a retry of the same run, emptied for another.
        log: the trainer's output is appended here.

    Raises:
        UserError: training cannot start here, or it failed (its own message is in the log).
    """
    started = time.time()
    settings = config.runs[run]
    critic = critic_dir or settings.critic.path
    inputs = [data_dir / "train.parquet", data_dir / "val.parquet"]
    inputs += [Path(path) for path in (model_dir, critic) if path and Path(path).exists()]
    used = {
        "run": run,
        "seed": seed,
        "settings": settings.model_dump(mode="json", by_alias=True),
        "model": config.models[settings.model].model_dump(mode="json"),
        "task": config.tasks[settings.task].model_dump(mode="json"),
        "resources": config.resources.model_dump(mode="json", exclude={"free_converted"}),
    }
    with run_lock(checkpoint_dir) as lock:
        # How long one waits, and what one keeps, has no part in what comes out.
        aside = {"stall_minutes", "rollout_stall_minutes", "save_minutes", "free_converted"}
        lasting = config.resources.model_dump(mode="json", exclude=aside)
        claimed = identity.fingerprint({**used, "resources": lasting}, inputs)
        identity.claim(checkpoint_dir, claimed)
        mend_tracker(checkpoint_dir)

        on_cpu = config.resources.device == "cpu"
        steps, metrics = settings.train.steps, checkpoint_dir / "metrics"
        if last_step(checkpoint_dir) < steps:
            trained, task = config.models[settings.model], config.tasks[settings.task]
            parts = check_training(
                settings, task, trained, config.resources, model_dir, critic, checkpoint_dir
            )
            overrides = verl_overrides(
                settings,
                config.models[settings.model],
                config.tasks[settings.task],
                config.resources,
                name=f"{run}/seed{seed}",
                seed=seed,
                model_dir=model_dir,
                critic_dir=critic,
                data_dir=data_dir,
                checkpoint_dir=checkpoint_dir.resolve(),
                largest_tensor=model_weights(model_dir).largest if on_cpu else 0,
            )
            overrides.append(f"hydra.run.dir={checkpoint_dir / 'hydra'}")
            done = last_step(checkpoint_dir)
            progress(f"starting verl from step {done} of {steps}")
            argv = [sys.executable, "-m", "criticflow.train", *overrides]
            memory = MemoryUse()
            try:
                code = _train(argv, config.resources, checkpoint_dir, steps, log, lock, memory)
            except UserError as error:
                if (how := out_of_memory(memory, log, parts)) is None:
                    raise
                raise UserError(f"training of {run}, seed {seed}, {how}") from error
            if code:
                how = ending(checkpoint_dir, steps, code)
                how = how or out_of_memory(memory, log, parts)
                how = how or full_disk(checkpoint_dir, checkpoint_bytes(model_dir, critic))
                how = how or f"ended with exit code {code}: see {log}"
                raise UserError(f"training of {run}, seed {seed}, {how}")

        run_dir.mkdir(parents=True, exist_ok=True)
        table = metrics_table(metrics, steps)
        with replacing(run_dir / "metrics.parquet") as aside:
            table.to_parquet(aside, index=False)
        verl_config = OmegaConf.load(checkpoint_dir / "hydra" / ".hydra" / "config.yaml")
        with replacing(run_dir / "config.yaml") as aside:
            resolved = {**used, "verl": OmegaConf.to_container(verl_config, resolve=True)}
            aside.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
        seeds = {"run": seed, "reward_mask": seed, "value_head": seed, "data_order": seed}
        files = [file for path in inputs for file in identity.files_of(path)]
        write_json(run_dir / "provenance.json", collect(used, files, seeds, started))


def _train(
    argv: list[str],
    resources: Resources,
    checkpoint_dir: Path,
    steps: int,
    log: Path,
    lock: int,
    memory: MemoryUse,
) -> int:
    """Run verl under its watchdog; its exit code."""
    attempt = next_attempt(checkpoint_dir / "metrics")
    report = Progress(attempt, steps, progress)
    watchdog = Watchdog(report.newest, 60 * resources.stall_minutes)
    heartbeats = heartbeat_directory(attempt)
    rollouts = RolloutWatch(heartbeats, 60 * resources.rollout_stall_minutes)
    stop = checkpoint_dir / STOP
    stop.unlink(missing_ok=True)

    def watch() -> None:
        report()
        memory()
        watchdog()
        rollouts()

    def ask_to_stop() -> None:
        stop.touch()
        progress("asked to stop: saving after this step; a second signal stops at once")

    try:
        code = run_owned(
            argv,
            environment(resources, attempt),
            log,
            watch=watch,
            ask_to_stop=ask_to_stop,
            grace=60 * resources.save_minutes,
            pass_fds=[*terminal_fds(), lock],
        )
    except UserError as error:
        repeat_traceback(log, str(error))
        raise UserError(f"{error}: see the end of {log}") from None
    shutil.rmtree(heartbeats, ignore_errors=True)
    progress(f"memory of the training at its peak: {memory.described()}")
    if 0 < code < 128 and ending(checkpoint_dir, steps, code) is None:
        repeat_traceback(log, f"exit code {code}")
    return code


def ending(checkpoint_dir: Path, steps: int, code: int) -> str | None:
    """How a training ended that was to stop before its last step; None: it failed by itself.

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


def out_of_memory(memory: MemoryUse, log: Path, parts: list[Part]) -> str | None:
    """How a training ended for want of memory; None: it ended for something else.

    Args:
        memory: what was watched while it ran.
        log: the trainer's output.
        parts: its memory as expected, for what makes it smaller; none where nothing was.
    """
    if not memory.ran_out(log):
        return None
    lower = f"lower {remedies(parts)}, or " if parts else ""
    return (
        f"ended for want of memory: at its peak it used {memory.described()}; {lower}end other "
        f"programs (see {log})"
    )


def heartbeat_directory(metrics: Path) -> Path:
    """Where the rollout engines of an attempt show that they yield tokens.

    Args:
        metrics: the attempt's metrics.
    """
    return metrics.resolve().with_suffix(".rollouts")


def full_disk(checkpoint_dir: Path, needed: int) -> str | None:
    """How a training ended if no checkpoint of ``needed`` bytes fits any more; None: it does."""
    free = shutil.disk_usage(checkpoint_dir).free
    if free >= needed:
        return None
    return (
        f"failed, and its disk is full: a checkpoint takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} "
        f"MB are free for {checkpoint_dir}: make room, and a retry, or the same command, goes on "
        f"from step {last_step(checkpoint_dir)}"
    )


def environment(resources: Resources, metrics: Path) -> dict[str, str]:
    """Environment variables of a training process.

    Args:
        resources: which device.
        metrics: where verl's file logger writes.
    """
    env = os.environ | {
        "VERL_FILE_LOGGER_PATH": str(metrics.resolve()),
        HEARTBEATS: str(heartbeat_directory(metrics)),
        "PYTHONWARNINGS": "ignore",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
        # Ray would give its workers, which do all the work, a priority far below everything else.
        "RAY_worker_niceness": "0",
        # No cluster beyond this machine: Ray, and with it verl and vLLM, talks and listens on
        # loopback alone. (It does so by itself on the systems that the variable is named after.)
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HYDRA_FULL_ERROR": "1",
    }
    env.pop("RAY_ADDRESS", None)  # a job has a Ray of its own
    env.pop("VLLM_CPU_KVCACHE_SPACE", None)  # wins over resources.kv_cache_gb
    if (end := end_time()) is not None:
        env["SLURM_JOB_END_TIME"] = str(end)  # for the trainer (``verl_plugin.stopping``)
    if resources.device == "cpu":
        env |= {
            "VERL_PLATFORM": "cpu",
            # With the engine in the server's own process vLLM starts one process less a rank.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": "1",
            # Where a library asks for more threads all the same, they would wait for their turn
            # in a loop while the other ranks want the core.
            "OMP_THREAD_LIMIT": "1",
            # vLLM's attention shares the keys of a long sequence out among the threads that it has
            # been promised, and waits for ever for those that the limit withholds.
            "VLLM_CPU_ATTN_SPLIT_KV": "0",
            # Tensors are allocated and freed by several threads. Left to itself, GNU's allocator
            # keeps freed ones in a heap for each, up to twice what is in use.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
            "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
            # The queue between verl's processes asks for eight threads each.
            "TQ_NUM_THREADS": "1",
            "TQ_CLIENT_ZMQ_IO_THREADS": "1",
            # vLLM compiles one small function, which costs the first batch more than it saves.
            "TORCHDYNAMO_DISABLE": "1",
        }
    return env
