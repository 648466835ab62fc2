"""Trainings on a Ray cluster elsewhere: what this machine must have for them, and what not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from snake import finish, snakemake
from toy_model import write_toy_model

from criticflow.runtime.gpus import installed_gpus
from criticflow.training.ray_node import free_port

pytestmark = pytest.mark.skipif(bool(installed_gpus()), reason="for machines without a GPU")
TRAINED = "results/runs/cold/seed0/metrics.parquet"


def study(address: str) -> dict[str, Any]:
    return {
        "runs": {name: None for name in ("constant", "warm-frozen")}
        | {"constant-m50": None, "warm-frozen-m50": None},
        "contrasts": [],
        "resources": {"gpu": 2, "nodes": 2, "ray_address": address},
        "train": {"batch_size": 16, "mini_batch_size": 16, "micro_batch_size": 1},
    }


def prepared(workdir: Path, overlay: dict[str, Any]) -> Path:
    """A study of which all is made but the training of ``cold``."""
    finish(workdir, overlay=overlay)
    write_toy_model(workdir / "results/models/tiny")
    for split in ("train", "val"):
        frame = pd.DataFrame({"prompt": ["p"] * 64})
        frame.to_parquet(workdir / f"results/data/countdown-mini/{split}.parquet")
    manifest = workdir / "results/data/countdown-mini/manifest.json"
    manifest.write_text(json.dumps({"source": {}, "test_source": None}))
    touched = snakemake(workdir, "--touch", "--forceall", "--cores", "1", overlay=overlay)
    assert touched.returncode == 0, touched.stderr
    shutil.rmtree(workdir / "results/runs/cold")
    return workdir


def test_a_client_starts_without_gpus_here_and_its_engines_do_not(tmp_path):
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    overlay = study(address)
    workdir = prepared(tmp_path, overlay)
    # The training begins: no GPU, node or memory of this machine is asked for, but nobody is there.
    done = snakemake(workdir, TRAINED, "--cores", "2", overlay=overlay)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"resources.ray_address: {address} is not reached from" in said, said
    assert (workdir / "results/checkpoints/cold/seed0/fingerprint.json").is_file()
    # The same with GPUs of its own is refused before it starts.
    own = overlay | {"resources": {"gpu": 2}}
    done = snakemake(workdir, TRAINED, "--cores", "2", overlay=own)
    assert "a training job takes 2 GPUs, and there are 0 on this machine" in done.stderr
    # So is what samples here: by name, and before any job.
    shutil.rmtree(workdir / "results/probe")
    done = snakemake(workdir, "probe", "--cores", "2", overlay=overlay)
    assert done.returncode == 1
    told = "trainings alone run on the cluster of resources.ray_address, probe_signal takes 1 GPU"
    assert told in done.stderr, done.stderr
    assert not (workdir / "results/probe").exists()
