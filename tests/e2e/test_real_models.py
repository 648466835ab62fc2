"""A model of a real size through the whole workflow, within the memory of a laptop."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from real_models import PROJECT, Shape, build, command, smollm2_135m

from criticflow.runtime import memory
from criticflow.training.memory_use import MemoryUse

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

GIB = 2**30
LIMIT = 16
"""GiB that all processes together may take at any time."""
TIMEOUT = 3600


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, str, MemoryUse]:
    """A finished study of a model with SmolLM2-135M's shape, its terminal and its memory."""
    if memory.available() < LIMIT * GIB:
        pytest.skip(f"needs {LIMIT} GiB, {memory.available() / GIB:.1f} are free")
    workdir = tmp_path_factory.mktemp("real")
    shape = Shape(smollm2_135m())
    build(shape.config, workdir / "model")
    use = MemoryUse()
    terminal = workdir / "terminal"
    with open(terminal, "wb") as output:
        argv = command(workdir, workdir / "model", shape)
        job = subprocess.Popen(argv, cwd=PROJECT, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + TIMEOUT
        while job.poll() is None:
            assert time.monotonic() < deadline, terminal.read_text(errors="replace")[-4000:]
            use()
            time.sleep(1)
    shown = terminal.read_text(errors="replace")
    assert job.returncode == 0, shown[-8000:]
    return workdir, shown, use


def test_it_stays_within_a_laptops_memory_and_within_what_was_expected(study):
    _, terminal, use = study
    used, told = use.described(), [line for line in terminal.splitlines() if "at most (" in line]
    print(used, *told, sep="\n")
    expected = float(told[0].split("takes about ")[1].split(" GiB")[0])
    assert float(used.split(" GiB")[0]) < LIMIT
    # For the largest of the two trainings; neither wildly more nor wildly less.
    assert 0.75 * expected < float(used.split(" GiB")[0]) < 1.1 * expected


@pytest.mark.parametrize(("run", "steps"), [("cold", 2), ("warm-frozen-m50", 1)])
def test_both_runs_trained_on_long_prompts_and_were_converted(study, run, steps):
    folder = study[0] / "results/runs" / run / "seed0"
    metrics = pd.read_parquet(folder / "metrics.parquet")
    assert list(metrics["step"]) == list(range(1, steps + 1))
    assert (metrics["prompt_length/mean"] > 380).all()
    assert (metrics["response_length/mean"] > 120).all()
    actor = json.loads((folder / "actor/config.json").read_text())
    assert actor["architectures"] == ["LlamaForCausalLM"] and actor["tie_word_embeddings"]
    critic = json.loads((folder / "critic/config.json").read_text())
    assert critic["architectures"] == ["LlamaForTokenClassification"]


def test_the_warm_run_started_from_the_trained_critic(study):
    runs = study[0] / "results/runs"
    critics = [runs / run / "seed0/critic/model.safetensors" for run in ("cold", "warm-frozen-m50")]
    assert critics[0].read_bytes() == critics[1].read_bytes()


def test_all_models_were_evaluated(study):
    rows = json.loads((study[0] / "results/summary.json").read_text())
    assert [row["name"] for row in rows] == ["real", "cold", "warm-frozen-m50"]
