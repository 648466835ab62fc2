"""Train one run with one seed: verl in processes of its own, then the run's results."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from criticflow.checkpoint.rank_files import find_rank_files
from criticflow.checkpoint.retention import last_step, mend_tracker
from criticflow.config import Config, Model, Resources, Run, Task
from criticflow.errors import UserError
from criticflow.files import read_json, replacing, write_json
from criticflow.logs import progress
from criticflow.models.weights import model_weights
from criticflow.retrieval.corpus import MANIFEST
from criticflow.runtime.run_lock import run_lock
from criticflow.training import deciding, endings, identity, provenance
from criticflow.training.attempt import run_verl
from criticflow.training.environment import TRACKERS
from criticflow.training.footprint import Part
from criticflow.training.log import metrics_table
from criticflow.training.memory_use import MemoryUse
from criticflow.training.origins import Origins
from criticflow.training.overrides import Places, verl_overrides
from criticflow.training.own_retriever import OwnRetriever, own_retriever
from criticflow.training.preflight import check_batch, check_training, checkpoint_bytes

LOG = "train.log"
"""The trainer's output, beside its checkpoints. Snakemake deletes the log of a job that it is about
to start, also where an earlier job for the same run is still at work; this file it leaves alone."""


RETRIEVER_LOG = "retriever.log"
"""Beside it, where a training has a retriever of its own."""


@dataclass(frozen=True)
class Training:
    """One run with one seed, and where everything lies that it needs and makes.

    Attributes:
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
        corpus_dir: of a task with search; None: the task has none.
    """

    config: Config
    run: str
    seed: int
    model_dir: str
    critic_dir: str | None
    data_dir: Path
    run_dir: Path
    checkpoint_dir: Path
    manifest: Path
    sources: Iterable[Path]
    corpus_dir: Path | None = None

    @property
    def settings(self) -> Run:
        return self.config.runs[self.run]

    @property
    def resources(self) -> Resources:
        return self.config.resources_of(self.run)

    @property
    def model(self) -> Model:
        return self.config.models[self.settings.model]

    @property
    def task(self) -> Task:
        return self.config.tasks[self.settings.task]

    @property
    def steps(self) -> int:
        return self.settings.train.steps

    @property
    def saved(self) -> int:
        """The step of the newest checkpoint; 0: there is none."""
        return last_step(self.checkpoint_dir)

    @property
    def log(self) -> Path:
        return self.checkpoint_dir / LOG


@dataclass(frozen=True)
class Plan:
    """What a new attempt is started with.

    Attributes:
        overrides: for ``python -m criticflow.train``.
        memory: as expected, by part; empty on GPUs.
        checkpoint_bytes: size of one checkpoint.
    """

    overrides: list[str]
    memory: list[Part]
    checkpoint_bytes: int


def train_run(training: Training) -> None:
    """Train, or go on where an earlier attempt stopped, and write the run's results.

    Where the training is done, and its identity the same, the results are written again as they
    were and nothing else happens.

    Raises:
        UserError: training cannot start here, or it failed (its own message is in the log).
    """
    origins = find_origins(training)
    with run_lock(training.checkpoint_dir) as lock:
        mend_tracker(training.checkpoint_dir)
        made_from = _claim(training, origins)
        if training.saved < training.steps:
            plan = _prepare(training, origins)
            if not _attempt(training, plan, made_from, lock):
                progress("Ray had not started within its 30 s: this machine is busy; once more")
                _attempt(training, plan, made_from, lock, again=True)
        _write_results(training)


def find_origins(training: Training) -> Origins:
    """The models that a training starts from.

    Raises:
        UserError: a model of the hub is known neither there nor in the local cache.
    """
    where = {"model": (training.model_dir, training.model.revision)}
    if critic := training.critic_dir or training.settings.critic.path:
        where["critic"] = (critic, training.settings.critic.revision)
    return Origins.find(where)


def _claim(training: Training, origins: Origins) -> dict[str, Any]:
    """Make the checkpoint directory belong to this training; the identity that it now has."""
    data = [training.data_dir / "train.parquet", training.data_dir / "val.parquet"]
    inputs = {**origins.directories, "data": data}
    if training.corpus_dir is not None:
        inputs["corpus"] = [training.corpus_dir / MANIFEST]
    made_from = identity.build(
        deciding.deciding(training.config, training.run),
        training.seed,
        inputs,
        origins.revisions,
        training.sources,
    )
    identity.claim(
        training.checkpoint_dir,
        made_from,
        provenance.versions(),
        saved=training.saved,
        steps=training.steps,
        accept=f"{identity.ACCEPT} {training.run} --seed {training.seed}",
    )
    return made_from


def _prepare(training: Training, origins: Origins) -> Plan:
    """Check whether the training can run here, and say to verl what it is.

    Raises:
        UserError: it cannot (:mod:`criticflow.training.preflight`).
    """
    settings, resources = training.settings, training.resources
    folder = training.checkpoint_dir
    model_dir, critic_dir = origins.local("model"), origins.local("critic")
    check_batch(training.data_dir / "train.parquet", settings.train.batch_size)
    if settings.train.logger:
        (folder / TRACKERS).mkdir(parents=True, exist_ok=True)
    memory = check_training(
        settings, training.task, training.model, resources, model_dir, critic_dir, folder
    )
    overrides = verl_overrides(
        settings,
        training.model,
        training.task,
        resources,
        name=f"{training.run}/seed{training.seed}",
        seed=training.seed,
        places=Places(
            model_dir, critic_dir, training.data_dir, folder.resolve(), training.corpus_dir
        ),
        largest_tensor=model_weights(model_dir).largest,
    )
    size = checkpoint_bytes(model_dir, critic_dir)
    overrides += [f"hydra.run.dir={folder / 'hydra'}", f"trainer.checkpoint_bytes={size}"]
    if training.saved:
        _fit_ranks(folder, deciding.ranks(training.config, training.run))
    return Plan(overrides, memory, size)


def _fit_ranks(checkpoint_dir: Path, ranks: int) -> None:
    """Bring the newest checkpoint into the shape that this number of ranks can load."""
    newest = checkpoint_dir / f"global_step_{last_step(checkpoint_dir)}"
    if all(len(find_rank_files(kind)[0]) == ranks for kind in newest.iterdir() if kind.is_dir()):
        return
    from criticflow.checkpoint.ranks import fit_ranks  # imports torch, which stays in memory

    if before := fit_ranks(checkpoint_dir, ranks):
        progress(f"the checkpoint was made by {before} ranks, and is now one of {ranks}")


def _attempt(
    training: Training, plan: Plan, made_from: dict[str, Any], lock: int, again: bool = False
) -> bool:
    """Run verl once, and record how that began and ended.

    Returns:
        Whether it made all its steps. If not, Ray had no time to start, and ``again`` is not set.

    Raises:
        UserError: it did not make all its steps.
    """
    folder, log, saved = training.checkpoint_dir, training.log, training.saved
    progress(f"starting verl from step {saved} of {training.steps}; all it says: {log}")
    execution = deciding.execution(training.config, training.run)
    provenance.begin_attempt(folder, _used(training), made_from, execution, saved)
    log.touch()
    start = log.stat().st_size  # what follows was said by this attempt
    memory, result = MemoryUse(), "failed"
    try:
        with _retriever(training) as retriever:
            code = run_verl(
                plan.overrides,
                training.resources,
                log,
                training.steps,
                lock,
                memory,
                retriever,
            )
        stopped = endings.stopped_early(folder, training.steps, code) if code else None
        result = "stopped" if stopped else "failed" if code else "finished"
    except UserError as error:
        if (how := endings.out_of_memory(memory, log, start, plan.memory)) is None:
            raise
        raise _ended(training, how) from error
    finally:
        provenance.end_attempt(folder, result)
    if code and not stopped and not again and endings.ray_had_no_time(log, start):
        return False
    if code:
        how = stopped or endings.out_of_memory(memory, log, start, plan.memory)
        how = how or endings.full_disk(folder, plan.checkpoint_bytes)
        if error := endings.own_error(log, start):
            how = how or f"failed: {error} (log: {log})"
        raise _ended(training, how or f"ended with exit code {code}: see {log}")
    return True


def _retriever(training: Training) -> AbstractContextManager[OwnRetriever | None]:
    """The training's own retriever, if its task wants one."""
    search, corpus = training.task.search, training.corpus_dir
    if search is None or search.service is None or corpus is None:
        return nullcontext()
    return own_retriever(corpus, training.log.with_name(RETRIEVER_LOG))


def _ended(training: Training, how: str) -> UserError:
    return UserError(f"training of {training.run}, seed {training.seed}, {how}")


def _used(training: Training) -> dict[str, Any]:
    """The part of the configuration that the training uses, in full, for the record."""
    manifest = read_json(training.manifest)
    return {
        "run": training.run,
        "seed": training.seed,
        "settings": training.settings.model_dump(mode="json", by_alias=True),
        "model": training.model.model_dump(mode="json"),
        "task": training.task.model_dump(mode="json"),
        "problems": {key: manifest[key] for key in ("source", "test_source")},
    }


def _write_results(training: Training) -> None:
    """Everything but the models, from what the training left beside its checkpoints."""
    folder, run_dir = training.checkpoint_dir, training.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    table = metrics_table(folder / "metrics", training.steps)
    with replacing(run_dir / "metrics.parquet") as partial:
        table.to_parquet(partial, index=False)
    record = provenance.read(folder)
    verl_config = OmegaConf.load(folder / "hydra" / ".hydra" / "config.yaml")
    with replacing(run_dir / "config.yaml") as partial:
        resolved = record["settings"] | {
            "execution": record["attempts"][-1]["execution"],
            "verl": OmegaConf.to_container(verl_config, resolve=True),
        }
        partial.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
    write_json(run_dir / provenance.NAME, record)
