"""GPUs and nodes of the jobs of a plan: what Slurm is asked for, and what a cap counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from snake import PROJECT, snakemake

TRAIN = {"batch_size": 64, "mini_batch_size": 64, "micro_batch_size": 1}
STUDY: dict[str, Any] = {
    "resources": {"gpu": 4},
    "train": TRAIN,
    "contrasts": [],
    "runs": {"warm-frozen": {"resources": {"nodes": 2, "gpu": 8}}, "warm-frozen-m50": None},
}
CLUSTER = 16
"""Jobs at a time: with such a number Snakemake is one that submits them."""


def asked(folder: Path, study: dict[str, Any], nodes: int) -> dict[str, tuple[dict, str]]:
    """Resources and sbatch's line of every job, by rule and wildcards."""
    overlay = folder / "study.yaml"
    overlay.write_text(yaml.safe_dump(study), encoding="utf-8")
    script = Path(__file__).with_name("asked_of_slurm.py")
    command = [sys.executable, str(script), str(PROJECT / "workflow/Snakefile"), str(folder)]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    done = subprocess.run(
        [*command, str(overlay), str(nodes)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("asked ")]
    jobs = (json.loads(line.removeprefix("asked ")) for line in lines)
    return {name: (resources, line) for name, resources, line in jobs}


def test_each_run_gets_its_own_nodes_and_gpus_and_a_cap_counts_them_all(tmp_path):
    jobs = asked(tmp_path, STUDY, CLUSTER)
    resources, line = jobs["train_run cold 0"]
    assert "--gpus=4" in line and "--gres" not in line and "--nodes=1" in line
    assert resources["total_gpus"] == 4
    resources, line = jobs["train_run_warm warm-frozen 0"]
    assert "--gres=gpu:8" in line and "--nodes=2" in line
    assert "--gpus=" not in line and "--ntasks" not in line
    assert resources["total_gpus"] == 16
    for name, (resources, line) in jobs.items():
        if "--gpus=" in line:
            assert f"--gpus={resources['total_gpus']} " in f"{line} ", name
            assert resources["cpus_per_gpu"] == 8, name
    engines = [name for name, (resources, _) in jobs.items() if resources.get("total_gpus") == 1]
    assert {name.split()[0] for name in engines} == {
        "probe_signal", "evaluate_base", "evaluate_run", "evaluate_critic", "evaluate_tempered",
        "entropy_curve", "truth_of_base", "truth_of_run", "judge_critic",
    }  # fmt: skip


def test_on_one_machine_every_job_counts_its_gpus_there(tmp_path):
    """Else Snakemake would start more of them than there are GPUs for."""
    for resources, _ in asked(tmp_path, STUDY, 0).values():
        assert "gres" not in resources
        own = resources.get("gpu", 0)
        assert own == resources.get("total_gpus", 0) // resources.get("nodes", 1)


def test_without_gpus_a_job_has_a_task_for_each_node(tmp_path):
    runs = {"warm-frozen": {"resources": {"nodes": 2}}, "warm-frozen-m50": None}
    jobs = asked(tmp_path, {"runs": runs, "train": TRAIN, "contrasts": []}, CLUSTER)
    line = jobs["train_run_warm warm-frozen 0"][1]
    assert "--nodes=2" in line and "--ntasks=2" in line and "gpu" not in line
    line = jobs["train_run cold 0"][1]
    assert "--nodes=1" in line and "--ntasks=1" in line


def test_the_client_of_a_ray_elsewhere_asks_for_no_gpu_of_its_own(tmp_path):
    resources = {"gpu": 8, "nodes": 2, "ray_address": "10.0.0.1:6379"}
    study = STUDY | {"resources": resources, "runs": {"warm-frozen-m50": None}}
    asks, line = asked(tmp_path, study, CLUSTER)["train_run cold 0"]
    assert "--nodes=1" in line and "--gpus" not in line and "--gres" not in line
    assert asks["total_gpus"] == 16


SHAPE = {
    "hidden_size": 8192, "intermediate_size": 28672, "num_layers": 80, "num_heads": 64,
    "num_kv_heads": 8, "head_size": 128, "vocab_size": 128256, "tied_embeddings": False,
}  # fmt: skip
"""70.6 billion parameters: 131 GiB in bfloat16."""
OF_70B: dict[str, Any] = {
    "models": {"large": {"path": "owner/large", "dtype": "bfloat16", "shape": SHAPE}},
    "runs": {
        "constant": None,
        "warm-frozen": None,
        "constant-m50": None,
        "warm-frozen-m50": None,
        "large": {
            "like": "cold",
            "model": "large",
            "resources": {"gpu": 8, "nodes": 8},
            "critic": {"pretrained": "fitted"},
        },
    },
    "critics": {"fitted": {"model": "large", "task": "countdown-mini"}},
    "truth": {"actors": "all", "steps": {"large": [20]}},
    "resources": {"gpu": 4, "gpu_memory_gb": 79.6},
    "train": TRAIN,
    "contrasts": [],
}


@pytest.mark.parametrize(("memory", "gpus"), [(79.6, 2), (39.4, 4)])
def test_a_model_of_70b_is_sampled_and_judged_on_as_many_gpus_as_hold_it(tmp_path, memory, gpus):
    study = OF_70B | {"resources": {"gpu": 4, "gpu_memory_gb": memory}}
    jobs = asked(tmp_path, study, CLUSTER)
    own = {name: job for name, job in jobs.items() if "large" in name or "fitted" in name}
    engines = {
        name: job
        for name, job in own.items()
        if job[0].get("gpu") and not name.startswith(("train_run", "pretrain_critic"))
    }
    assert {name.split()[0] for name in engines} == {
        "probe_signal", "evaluate_base", "evaluate_run", "evaluate_critic", "evaluate_tempered",
        "entropy_curve", "truth_of_base", "truth_of_run", "truth_on_old_states", "judge_critic",
        "sample_returns",
    }  # fmt: skip
    for name, (resources, line) in engines.items():
        assert resources["gpu"] == resources["total_gpus"] == gpus, name
        assert f"--gpus={gpus} " in f"{line} " and "--nodes=1" in line, name
        if name.startswith(("judge_critic", "evaluate_critic")):  # whole before it is divided
            assert resources["mem_mb"] > 131 * 1024
    # What fits on one GPU has one, in the same study.
    for name, (resources, _) in jobs.items():
        if name not in own and not name.startswith("train_run") and resources.get("gpu"):
            assert (resources["gpu"], resources["mem_mb"]) == (1, 32000), name


SLURM = ["--dry-run", "--profile", str(PROJECT / "workflow/profiles/slurm")]


@pytest.mark.parametrize(
    ("cap", "told"),
    [
        ("total_gpus=15", "runs.warm-frozen: its training takes 16 GPUs, and the profile allows"),
        ("gpu=3", "runs.cold: its training takes 4 GPUs, and the profile allows"),
        ("total_gpus=16", None),
    ],
)
def test_what_no_cap_lets_through_is_refused_by_name(tmp_path, cap, told):
    done = snakemake(tmp_path, *SLURM, "--resources", cap, overlay=STUDY)
    assert done.returncode == (1 if told else 0), done.stdout + done.stderr
    assert (told or "") in done.stdout + done.stderr


def test_several_nodes_on_one_machine_are_refused_before_any_job(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    runs = {"warm-frozen": {"resources": {"nodes": 2}}, "warm-frozen-m50": None}
    overlay = {"runs": runs, "train": TRAIN, "contrasts": []}
    done = snakemake(tmp_path, "--cores", "1", "train", overlay=overlay)
    assert done.returncode == 1
    assert "a training takes 2 nodes, and this is one machine" in done.stdout + done.stderr
    assert not (tmp_path / "results/data").exists()
