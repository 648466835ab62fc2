"""Pretrain a critic: the fit (``verl_plugin.critic_fit``) in processes of its own, then the critic
of its best step as a HuggingFace directory."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from criticflow.checkpoint.convert import convert
from criticflow.config import Model, PretrainedCritic, Resources
from criticflow.errors import UserError
from criticflow.files import read_json, require_space, sha256, write_json
from criticflow.logs import progress, terminal_fds
from criticflow.models.directory import check_model_directory
from criticflow.models.weights import model_weights
from criticflow.runtime.processes import run_owned
from criticflow.runtime.run_lock import run_lock
from criticflow.training import identity, preflight
from criticflow.training.critic_card import pretrained_card, write_card
from criticflow.training.footprint import GIB, STATES, Part
from criticflow.verl_plugin import PLUGIN
from criticflow.verl_plugin.critic_fit import (
    HISTORY,
    Settings,
    checkpoint,
    read_state,
    write_settings,
)

PROCESS_GIB = 0.7
"""Memory of a process that has imported torch and verl."""
LOG = "fit.log"
"""What the fit prints, in the same place."""
IDENTITY = "made_from.json"
"""In the directory of checkpoints: settings and samples that they belong to."""


@dataclass(frozen=True)
class Pretraining:
    """One critic with one seed, and where everything lies that its fit needs and makes.

    Attributes:
        critic: what is fitted, and how.
        name: the critic's.
        seed: of the order of the samples and of the value head.
        model, model_path: what the critic starts from.
        samples: responses with their returns (:mod:`criticflow.stages.returns`).
        directory: checkpoints; those of the same settings and samples are gone on from, others
            moved aside.
        out: the HuggingFace directory of the critic with the smallest held-out error.
    """

    critic: PretrainedCritic
    name: str
    seed: int
    model: Model
    model_path: str
    samples: Path
    resources: Resources
    directory: Path
    out: Path


def pretrain(job: Pretraining) -> None:
    """Fit, or go on where an earlier attempt stopped, and write the critic with its card.

    Raises:
        UserError: the fit cannot start here, or it failed.
    """
    settings, directory = fit_settings(job), job.directory
    check_model_directory(job.model_path)
    with run_lock(directory) as lock:
        _claim(directory, settings, job.samples, Path(job.model_path))
        if not read_state(directory).done:
            _check(job.resources, job.model_path, directory)
            write_settings(settings, directory / "settings.json")
            _fit(settings, directory, lock)
        state = read_state(directory)
        progress(
            f"best held-out error {state.best_mse:.4f} at step {state.best_step} of {state.step}"
        )
        convert(checkpoint(directory, state.best_step), job.out, "critic")
        _write_card(job, state.best_step)
        for file in directory.glob("global_step_*/critic/optim_*.pt"):
            file.unlink()  # nobody goes on with a fit that has ended


def fit_settings(job: Pretraining) -> Settings:
    """What the processes of the fit are told."""
    critic, model = job.critic, job.model
    return Settings(
        model=job.model_path,
        samples=str(job.samples),
        directory=str(job.directory),
        device=job.resources.device,
        ranks=job.resources.ranks_per_node,
        batch_size=critic.batch_size,
        micro_batch_size=critic.micro_batch_size,
        passes=critic.passes,
        checks=critic.checks,
        patience=critic.patience,
        learning_rate=critic.learning_rate,
        warmup=critic.warmup,
        weight_decay=critic.weight_decay,
        gamma=critic.gamma,
        seed=job.seed,
        value_head=critic.value_head,
        dtype=critic.dtype,
        strategy=critic.strategy,
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
    )


def _write_card(job: Pretraining, step: int) -> None:
    """Write the critic's card, with the figures of the step that was converted."""
    history = [json.loads(line) for line in (job.directory / HISTORY).read_text().splitlines()]
    best = next(row for row in history if row["step"] == step)
    frame = pd.read_parquet(job.samples, columns=["tokens", "held_out"])
    card = pretrained_card(job.critic, job.name, job.seed, step, job.model_path, frame)
    write_card(job.out, {**card, "best": best})


def _claim(directory: Path, settings: Settings, samples: Path, model: Path) -> None:
    """Make the directory belong to this fit; what belongs to another is moved aside."""
    weights = sorted(model.glob("*.safetensors")) if model.is_dir() else []
    expected = {
        "settings": asdict(settings),
        "samples": sha256(samples),
        "model": {file.name: sha256(file) for file in weights},
    }
    stamp = directory / IDENTITY
    found = read_json(stamp) if stamp.is_file() else None
    if found == expected:
        return
    identity.start_afresh(directory, "fit", found, expected)
    write_json(stamp, expected)


def _check(resources: Resources, model_path: str, directory: Path) -> None:
    """Whether memory and disk are enough for the fit of one model."""
    size = model_weights(model_path).parameters
    require_space(directory, 3 * 12 * size)  # the best, the last, and one that is being written
    if resources.device == "cpu":
        state = 4 * STATES * size / GIB
        processes = PROCESS_GIB * (resources.ranks_per_node + 1)
        preflight.check_memory(
            [
                Part("processes", processes, "resources.cpu_ranks"),
                Part("critic", state, "the critic's size"),
            ]
        )


def _fit(settings: Settings, directory: Path, lock: int) -> None:
    shown, log = read_state(directory).step, directory / LOG
    progress(f"fitting the critic from step {shown}; all it says: {log}")

    def watch() -> None:
        nonlocal shown
        history = directory / HISTORY
        if not history.is_file():
            return
        for line in history.read_text(encoding="utf-8").splitlines():
            row = json.loads(line) if line.endswith("}") else {"step": 0}
            if row["step"] > shown:
                shown = row["step"]
                progress(
                    f"step {shown}/{row['steps']}: held-out error {row['held_out_mse']:.4f}, "
                    f"explained variance {row['held_out_explained_variance']:.3f}"
                )

    code = run_owned(
        [
            sys.executable,
            "-m",
            "criticflow.verl_plugin.critic_fit",
            str(directory / "settings.json"),
        ],
        environment(settings),
        log,
        watch=watch,
        pass_fds=[*terminal_fds(), lock],
    )
    watch()
    if code or not read_state(directory).done:
        raise UserError(
            f"fitting the critic ended with exit code {code}: see {log}; a retry goes on from step "
            f"{read_state(directory).step}"
        )


def environment(settings: Settings) -> dict[str, str]:
    """Environment variables of the fit's processes."""
    env = os.environ | {
        "VERL_USE_EXTERNAL_MODULES": PLUGIN,
        "PYTHONWARNINGS": "ignore",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if settings.device == "cpu":
        env |= {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    return env
