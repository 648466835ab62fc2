"""Pretrain a critic: the fit in processes of its own, its best checkpoint converted."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
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
from criticflow.training import preflight
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


def pretrain(
    critic: PretrainedCritic,
    model: Model,
    model_path: str,
    samples: Path,
    seed: int,
    resources: Resources,
    directory: Path,
    out: Path,
    name: str,
) -> None:
    """Fit, or go on where an earlier attempt stopped, and write the critic to ``out``.

    Args:
        critic: what is fitted, and how.
        model, model_path: what the critic starts from.
        samples: responses with their returns (:mod:`criticflow.stages.returns`).
        seed: of the order of the samples and of the value head.
        directory: checkpoints; those of the same settings and samples are gone on from, others
            removed.
        out: the critic's HuggingFace directory, that of the best look at the held-out responses.
        name: the critic's.

    Raises:
        UserError: the fit cannot start here, or it failed.
    """
    settings = Settings(
        model=model_path,
        samples=str(samples),
        directory=str(directory),
        device=resources.device,
        ranks=resources.ranks,
        batch_size=critic.batch_size,
        micro_batch_size=critic.micro_batch_size,
        passes=critic.passes,
        checks=critic.checks,
        patience=critic.patience,
        learning_rate=critic.learning_rate,
        warmup=critic.warmup,
        weight_decay=critic.weight_decay,
        gamma=critic.gamma,
        seed=seed,
        value_head=critic.value_head,
        dtype=critic.dtype,
        strategy=critic.strategy,
        attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
    )
    check_model_directory(model_path)
    with run_lock(directory) as lock:
        _claim(directory, settings, samples, Path(model_path))
        if not read_state(directory).done:
            _check(resources, model_path, directory)
            write_settings(settings, directory / "settings.json")
            _fit(settings, directory, lock)
        state = read_state(directory)
        progress(
            f"best held-out error {state.best_mse:.4f} at step {state.best_step} of {state.step}"
        )
        convert(checkpoint(directory, state.best_step), out, "critic")
        history = [json.loads(line) for line in (directory / HISTORY).read_text().splitlines()]
        best = next(row for row in history if row["step"] == state.best_step)
        frame = pd.read_parquet(samples, columns=["tokens", "held_out"])
        card = pretrained_card(critic, name, seed, state.best_step, model_path, frame)
        write_card(out, {**card, "best": best})
        for file in directory.glob("global_step_*/critic/optim_*.pt"):
            file.unlink()  # nobody goes on with a fit that has ended


def _claim(directory: Path, settings: Settings, samples: Path, model: Path) -> None:
    """Make the directory belong to this fit; what belongs to another is removed."""
    weights = sorted(model.glob("*.safetensors")) if model.is_dir() else []
    expected = {
        "settings": asdict(settings),
        "samples": sha256(samples),
        "model": {file.name: sha256(file) for file in weights},
    }
    stamp = directory / IDENTITY
    if stamp.is_file() and read_json(stamp) == expected:
        return
    if directory.exists():
        progress(f"{directory} belongs to another fit: starting afresh")
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    write_json(stamp, expected)


def _check(resources: Resources, model_path: str, directory: Path) -> None:
    """Whether memory and disk are enough for the fit of one model."""
    size = model_weights(model_path).parameters
    require_space(directory, 3 * 12 * size)  # the best, the last, and one that is being written
    if resources.device == "cpu":
        state = 4 * STATES * size / GIB
        processes = PROCESS_GIB * (resources.ranks + 1)
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
