"""Train one run with one seed: verl in a process of its own, its results brought into shape."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from criticflow.checkpoint.rank_files import find_rank_files
from criticflow.checkpoint.retention import last_step, mend_tracker
from criticflow.config import Config, Resources
from criticflow.errors import UserError
from criticflow.files import free_space, read_json, replacing, write_json
from criticflow.logs import progress, terminal_fds
from criticflow.models import hub
from criticflow.models.weights import model_weights
from criticflow.retrieval.bm25 import MANIFEST
from criticflow.runtime.processes import run_owned
from criticflow.runtime.run_lock import run_lock
from criticflow.runtime.slurm import end_time
from criticflow.training import deciding, identity, provenance
from criticflow.training.footprint import Part, remedies
from criticflow.training.log import Progress, attempts, metrics_table, next_attempt, read_rows
from criticflow.training.memory_use import MemoryUse
from criticflow.training.overrides import verl_overrides
from criticflow.training.preflight import check_batch, check_training, checkpoint_bytes
from criticflow.training.rollout_watch import RolloutWatch
from criticflow.training.watchdog import Watchdog, own_error, repeat_traceback
from criticflow.verl_plugin import FORK
from criticflow.verl_plugin.heartbeat import DIRECTORY as HEARTBEATS
from criticflow.verl_plugin.stopping import STOP

logger = logging.getLogger(__name__)

LOG = "train.log"
"""The trainer's output, beside its checkpoints. Snakemake deletes the log of a job that it is about
to start, also where an earlier job for the same run is still at work; this file it leaves alone."""


def train_run(
    config: Config,
    run: str,
    seed: int,
    model_dir: str,
    critic_dir: str | None,
    data_dir: Path,
    run_dir: Path,
    checkpoint_dir: Path,
    manifest: Path,
    sources: Iterable[Path],
    corpus_dir: Path | None = None,
) -> None:
    """Train, or go on where an earlier attempt stopped, and write the run's results.

    Where the training is done, and its identity the same, the results are written again as they
    were and nothing else happens.

    Args:
        config: the study's configuration.
        run, seed: which run, and its seed.
        model_dir: base model: directory or hub name.
        critic_dir: trained critic; None: the run's ``critic.path``, else the base model.
        data_dir: train.parquet and val.parquet.
        run_dir: where ``config.yaml``, ``metrics.parquet`` and ``provenance.json`` go.
        checkpoint_dir: verl's checkpoints; kept for a retry of the same run, moved aside for
            another. The trainer's output is appended to :data:`LOG` there, over all attempts.
        manifest: where the problems come from, for the record.
        sources: files of this package that can change the weights.
        corpus_dir: of a task with search.

    Raises:
        UserError: training cannot start here, or it failed (its own message is in the log).
    """
    settings = config.runs[run]
    model = config.models[settings.model]
    origins = {"model": (model_dir, model.revision)}
    if critic := critic_dir or settings.critic.path:
        origins["critic"] = (critic, settings.critic.revision)
    revisions = {role: hub.commit(*where) for role, where in origins.items()}
    revisions = {role: commit for role, commit in revisions.items() if commit}
    inputs = {role: [Path(path)] for role, (path, _) in origins.items() if role not in revisions}
    inputs["data"] = [data_dir / "train.parquet", data_dir / "val.parquet"]
    if corpus_dir is not None:
        inputs["corpus"] = [corpus_dir / MANIFEST]
    used = {
        "run": run,
        "seed": seed,
        "settings": settings.model_dump(mode="json", by_alias=True),
        "model": model.model_dump(mode="json"),
        "task": config.tasks[settings.task].model_dump(mode="json"),
    }
    execution = deciding.execution(config, run)
    accept = f"{identity.ACCEPT} {run} --seed {seed}"
    with run_lock(checkpoint_dir) as lock:
        mend_tracker(checkpoint_dir)
        steps, done = settings.train.steps, last_step(checkpoint_dir)
        made_from = identity.build(deciding.deciding(config, run), seed, inputs, revisions, sources)
        identity.claim(
            checkpoint_dir,
            made_from,
            provenance.versions(),
            saved=done,
            steps=steps,
            accept=accept,
        )
        done = last_step(checkpoint_dir)
        if done < steps:
            model_dir = hub.local_copy(model_dir, revisions.get("model"))
            critic = critic and hub.local_copy(critic, revisions.get("critic"))
            check_batch(data_dir / "train.parquet", settings.train.batch_size)
            task = config.tasks[settings.task]
            if settings.train.logger:
                (checkpoint_dir / TRACKERS).mkdir(parents=True, exist_ok=True)
            parts = check_training(
                settings, task, model, config.resources, model_dir, critic, checkpoint_dir
            )
            overrides = verl_overrides(
                settings,
                model,
                task,
                config.resources,
                name=f"{run}/seed{seed}",
                seed=seed,
                model_dir=model_dir,
                critic_dir=critic,
                data_dir=data_dir,
                checkpoint_dir=checkpoint_dir.resolve(),
                largest_tensor=model_weights(model_dir).largest,
                corpus_dir=corpus_dir,
            )
            overrides.append(f"hydra.run.dir={checkpoint_dir / 'hydra'}")
            overrides.append(f"trainer.checkpoint_bytes={checkpoint_bytes(model_dir, critic)}")
            if done:
                _fit_ranks(checkpoint_dir, deciding.ranks(config, run))
            log = checkpoint_dir / LOG
            progress(f"starting verl from step {done} of {steps}; all it says: {log}")
            argv = [sys.executable, "-m", "criticflow.train", *overrides]
            used["problems"] = {key: read_json(manifest)[key] for key in ("source", "test_source")}
            provenance.begin_attempt(checkpoint_dir, used, made_from, execution, done)
            log.touch()
            said = log.stat().st_size  # by earlier attempts
            memory, result = MemoryUse(), "failed"
            try:
                code = _train(argv, config.resources, checkpoint_dir, steps, log, lock, memory)
                stopped = ending(checkpoint_dir, steps, code) if code else None
                result = "stopped" if stopped else "finished" if code == 0 else result
            except UserError as error:
                if (how := out_of_memory(memory, log, said, parts)) is None:
                    raise
                raise UserError(f"training of {run}, seed {seed}, {how}") from error
            finally:
                provenance.end_attempt(checkpoint_dir, result)
            if code:
                how = stopped or out_of_memory(memory, log, said, parts)
                how = how or full_disk(checkpoint_dir, checkpoint_bytes(model_dir, critic))
                if error := own_error(log, said):
                    how = how or f"failed: {error} (log: {log})"
                how = how or f"ended with exit code {code}: see {log}"
                raise UserError(f"training of {run}, seed {seed}, {how}")
        _write_results(checkpoint_dir, run_dir, steps)


def _fit_ranks(checkpoint_dir: Path, ranks: int) -> None:
    newest = checkpoint_dir / f"global_step_{last_step(checkpoint_dir)}"
    if all(len(find_rank_files(kind)[0]) == ranks for kind in newest.iterdir() if kind.is_dir()):
        return
    from criticflow.checkpoint.ranks import fit_ranks  # imports torch, which stays in memory

    if before := fit_ranks(checkpoint_dir, ranks):
        progress(f"the checkpoint was made by {before} ranks, and is now one of {ranks}")


def _write_results(checkpoint_dir: Path, run_dir: Path, steps: int) -> None:
    """Everything but the models, from what the training left beside its checkpoints."""
    run_dir.mkdir(parents=True, exist_ok=True)
    table = metrics_table(checkpoint_dir / "metrics", steps)
    with replacing(run_dir / "metrics.parquet") as partial:
        table.to_parquet(partial, index=False)
    record = provenance.read(checkpoint_dir)
    verl_config = OmegaConf.load(checkpoint_dir / "hydra" / ".hydra" / "config.yaml")
    with replacing(run_dir / "config.yaml") as partial:
        resolved = record["settings"] | {
            "execution": record["attempts"][-1]["execution"],
            "verl": OmegaConf.to_container(verl_config, resolve=True),
        }
        partial.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
    write_json(run_dir / provenance.NAME, record)


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
    watchdog = Watchdog(report.newest, 60 * resources.stall_minutes, lambda: report.done)
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


def out_of_memory(memory: MemoryUse, log: Path, start: int, parts: list[Part]) -> str | None:
    """How a training ended for want of memory; None: it ended for something else.

    Args:
        memory: what was watched while it ran.
        log, start: the trainer's output, and the byte with which this attempt begins.
        parts: its memory as expected, for what makes it smaller; none where nothing was.
    """
    if not memory.ran_out(log, start):
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
    free = free_space(checkpoint_dir)
    if free >= needed:
        return None
    return (
        f"failed, and its disk is full: a checkpoint takes {needed / 1e6:.0f} MB, {free / 1e6:.0f} "
        f"MB are free for {checkpoint_dir}: make room, and a retry, or the same command, goes on "
        f"from step {last_step(checkpoint_dir)}"
    )


TRACKERS = "trackers"
"""Folder beside the checkpoints."""


def trackers(folder: Path) -> dict[str, str]:
    """Where verl's trackers keep what they write, if nobody has said: with the checkpoints."""
    return {
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
        "SWANLAB_LOG_DIR": str(folder / "swanlab"),
    }


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
    env = trackers(metrics.resolve().parent.with_name(TRACKERS)) | env  # what a person sets wins
    env.pop("RAY_ADDRESS", None)  # a job has a Ray of its own
    env.pop("VLLM_CPU_KVCACHE_SPACE", None)  # wins over resources.kv_cache_gb
    if (end := end_time()) is not None:
        env["SLURM_JOB_END_TIME"] = str(end)  # for the trainer (``verl_plugin.stopping``)
    if resources.device == "cpu":
        env |= {
            "VERL_PLATFORM": "cpu",
            # With the engine in the server's own process vLLM starts one process less a rank.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            FORK: "1",
            # A process with one thread can be forked (``runtime.template``).
            "OPENBLAS_NUM_THREADS": "1",
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
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
