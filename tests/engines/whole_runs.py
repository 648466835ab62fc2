"""Whole training runs of a few steps on a tiny, untrained model: verl, vLLM, Ray and FSDP2."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from criticflow.config import Build, Config, load_config
from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.models.value_head import load_value_model
from criticflow.runtime.processes import run_owned
from criticflow.stages.base_model import initial_model
from criticflow.stages.data import prepare
from criticflow.training.environment import environment
from criticflow.training.overrides import Places, verl_overrides

HERE = Path(__file__).parent
OURS = (  # what stock verl does not know
    "algorithm.reward_mask",
    "algorithm.random_reward",
    "algorithm.critic_lam",
    "algorithm.length_adaptive_alpha",
    "algorithm.value_gate",
    "critic.freeze",
    "critic.value_head",
    "critic.allow_untrained",
    "critic.constant",
    "critic.scale",
    "critic.shuffle_values",
    "critic.oracle",
    "critic.model.head_seed",
    "trainer.keep_steps",
    "trainer.keep_checkpoints",
    "trainer.lost_trajectories",
)

STUDY: dict[str, Any] = {
    "models": {"base": {"path": "base", "attn_implementation": "sdpa"}},
    "tasks": {
        "problems": {
            "kind": "countdown",
            "prompt": "{numbers} = {target}",
            "source": {"generate": {"numbers": [2], "problems": 64}},
            "split": {"val": 4, "test": 4},
            "max_prompt_length": 32,
            "max_response_length": 24,
        }
    },
    "runs": {
        "plain": {
            "model": "base",
            "task": "problems",
            "train": {
                "steps": 2,
                "batch_size": 8,
                "mini_batch_size": 8,
                "micro_batch_size": 4,
                "actor_lr": 1.0e-3,
                "critic_lr": 1.0e-2,
                "save_every": 1,
                "keep_checkpoints": 2,
            },
        },
        "group": {
            "like": "plain",
            "algorithm": "grpo",
            "reward_mask": {"ratio": 0.5, "type": "fixed_ratio"},
            "train": {"rollout_n": 4},
        },
        "masked": {
            "like": "plain",
            "reward_mask": {"ratio": 0.5, "rescale": True},
            "train": {"steps": 4},
        },
        "constant": {
            "like": "plain",
            "critic": {"freeze": True, "constant": 0.4},
            "reward_mask": {"ratio": 1.0},
            # With lambda 1 all advantages would be equal, and the actor would stay where it is.
            "train": {"steps": 3, "save_every": 2, "lam": 0.9, "kl_coef": 0.5},
        },
        "oracle": {
            "like": "plain",
            "critic": {"freeze": True, "oracle": {"continuations": 3}, "scale": 0.5},
        },
        "frozen": {"like": "plain", "critic": {"path": "critic", "freeze": True}},
        "shuffled": {"like": "frozen", "critic": {"shuffle": True}},
        "random": {
            "like": "plain",
            "critic": {"freeze": True, "allow_untrained": True},
            "random_reward": 0.5,
        },
    },
}


def materials(folder: Path) -> None:
    """Base model, a critic with a head, and problems, for all runs below ``folder``."""
    build = Build(
        task="problems", hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2,
        num_kv_heads=1,
    )  # fmt: skip
    tokenizer = char_tokenizer(build.max_positions)
    initial_model(build, tokenizer).save_pretrained(folder / "base")
    load_value_model(folder / "base", allow_untrained=True).save_pretrained(folder / "critic")
    for model in ("base", "critic"):
        tokenizer.save_pretrained(folder / model)
    prepare("problems", study().tasks["problems"], folder / "data")


def study() -> Config:
    return load_config(STUDY)


class Run(NamedTuple):
    """What a run left: its checkpoints, what it printed, verl's metrics (one row a step), and
    verl's dump of its responses (``step``, ``uid``, ``output``, ``score``)."""

    checkpoints: Path
    output: str
    metrics: pd.DataFrame
    responses: pd.DataFrame


def train(
    folder: Path,
    name: str,
    entry: str = "plain",
    *,
    ranks: int = 2,
    recorded: bool = False,
    stock: bool = False,
    reward: str = "token_share.py",
    module: str | None = None,
    fails: bool = False,
    **verl: Any,
) -> Run:
    """Train, with ``verl`` settings by dotted key on top.

    Args:
        folder: of :func:`materials`.
        name: of the run; a second call with the same name goes on with it.
        entry: which run of :data:`STUDY`.
        ranks: of FSDP.
        recorded: share rollouts with other such runs below the folder: the first one to come to a
            step generates and records them (verl's ``skip.rollout_tq``), the others train on the
            record.
        stock: verl's own trainer, workers, engines and agent loop instead of criticflow's.
        reward: file with the reward function, in this folder.
        module: of this folder, which verl's processes import besides.
        fails: whether it is to end with an error, in place of a last step.
    """
    config = study()
    run = config.runs[entry]
    resources = config.resources.model_copy(update={"cpu_ranks": ranks})
    overrides = verl_overrides(
        run,
        config.models["base"],
        config.tasks["problems"],
        resources,
        name="plain",  # of the record of rollouts as well
        seed=0,
        places=Places(str(folder / "base"), str(folder / "critic"), folder / "data", folder / name),
    )
    common = {
        "reward.custom_reward_function.path": str(HERE / reward),
        "skip.rollout_tq.enable": recorded,
        "skip.rollout_tq.dump_dir": str(folder / "rollouts"),
        "skip.rollout_tq.steps": "[1,2]",
        "hydra.run.dir": str(folder / name / "hydra"),
        "trainer.rollout_data_dir": str(folder / name / "responses"),
    }
    metrics = folder / f"{name}.jsonl"
    env = environment(resources, metrics)
    program = "criticflow.train"
    if module is not None:
        paths = [str(HERE), env.get("PYTHONPATH", "")]
        env |= {"VERL_USE_EXTERNAL_MODULES": module, "PYTHONPATH": os.pathsep.join(paths)}
    if stock:
        program = "verl.trainer.main_ppo"
        overrides = stock_overrides(overrides)
        env |= {
            "VERL_USE_EXTERNAL_PLUGINS": "none",
            "VERL_USE_EXTERNAL_MODULES": "stock_cpu",
            "PYTHONPATH": str(HERE),
        }
    overrides += [f"{key}={value}" for key, value in (common | verl).items()]
    log = folder / f"{name}.log"
    code = run_owned([sys.executable, "-m", program, *overrides], env, log)
    output = log.read_text(errors="replace")
    assert (code == 1) if fails else (code == 0), output[-8000:]
    rows = [line["data"] for line in json_lines(metrics)] if metrics.exists() else []
    dumps = sorted((folder / name / "responses").glob("*.jsonl"))
    responses = [line for dump in dumps for line in json_lines(dump)]
    return Run(folder / name, output, pd.DataFrame(rows), pd.DataFrame(responses))


def stock_overrides(overrides: list[str]) -> list[str]:
    """A run's overrides less what stock verl does not know."""
    known = [
        item
        for item in overrides
        if not item.startswith(OURS) and "criticflow.verl_plugin" not in item
    ]
    return [*known, "reward.num_workers=1"]  # which verl's own agent loop needs


def json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def storages(checkpoint: Path, what: str = "model", ranks: int = 2) -> dict[str, bytes]:
    """The bytes of every tensor that the ranks saved, by file and place in it."""
    found = {}
    for rank in range(ranks):
        file = checkpoint / f"{what}_world_size_{ranks}_rank_{rank}.pt"
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if "/data/" in name:
                    found[f"{rank}:{name.rpartition('/')[2]}"] = archive.read(name)
    return found
