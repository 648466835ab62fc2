"""Several studies at once on one machine: each ends as it would have alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_training_faults import SMALL, START, Study, tensors

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEEDS = (0, 1, 2)
TRAIN = SMALL["train"] | {"steps": 4, "save_every": 4}
ONE_RANK = SMALL | {"train": TRAIN, "resources": {"cpu_ranks": 1, "kv_cache_gb": 1}}
MEASURED = r"timing|perf/"
"""Metrics that no two runs have in common."""
OF_THE_ENGINE = r"rollout_corr/|training/rollout_"
"""Metrics from vLLM's own log-probabilities: their last digit depends on which requests came
into one batch, and so on the moment."""


def metrics(study: Study, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those that a run repeats bit for bit, and those that it repeats nearly."""
    table = pd.read_parquet(study.workdir / f"results/runs/cold/seed{seed}/metrics.parquet")
    assert list(table["step"]) == [1, 2, 3, 4]
    table = table.loc[:, ~table.columns.str.contains(MEASURED)]
    nearly = table.columns.str.contains(OF_THE_ENGINE)
    return table.loc[:, ~nearly], table.loc[:, nearly]


def weights(study: Study, seed: int) -> dict[str, list[torch.Tensor]]:
    """Weights and optimizers of actor and critic after the last step."""
    folder = study.workdir / f"results/checkpoints/cold/seed{seed}/global_step_4"
    shards = [path for kind in ("model", "optim") for path in folder.rglob(f"{kind}_*.pt")]
    assert len(shards) == 4
    return {str(path.relative_to(folder)): tensors(path) for path in shards}


def test_three_studies_at_once_end_as_each_does_alone(tmp_path_factory):
    """With a base model in common, and a seed, a directory and a Ray each."""

    def folder(name: str) -> Path:
        # Equally deep: Snakemake knows the package's files by their paths from there.
        return tmp_path_factory.mktemp(name) / "study"

    base = folder("base")
    base.mkdir()
    Study(base, ONE_RANK).finish("results/probe/tiny/countdown-mini/summary.json", 3 * START)

    def copy(seed: int, name: str) -> Study:
        path = shutil.copytree(base, folder(name))
        return Study(path, ONE_RANK | {"seeds": [seed]})

    def target(seed: int) -> str:
        return f"results/runs/cold/seed{seed}/metrics.parquet"

    alone = {seed: copy(seed, "alone") for seed in SEEDS}
    for seed, study in alone.items():
        study.finish(target(seed), 3 * START)
    together = {seed: copy(seed, "together") for seed in SEEDS}
    jobs = {seed: study.start(target(seed)) for seed, study in together.items()}
    for seed, job in jobs.items():
        assert job.wait(timeout=5 * START) == 0, together[seed].terminal()

    for seed in SEEDS:
        a, b = alone[seed], together[seed]
        (exact, near), (exact_alone, near_alone) = metrics(b, seed), metrics(a, seed)
        assert len(exact.columns) > 60
        pd.testing.assert_frame_equal(exact, exact_alone, check_exact=True)
        pd.testing.assert_frame_equal(near, near_alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(weights(b, seed), weights(a, seed), rtol=0, atol=0)
    # They are three different trainings.
    rewards = [tuple(metrics(alone[seed], seed)[0]["critic/score/mean"]) for seed in SEEDS]
    assert len(set(rewards)) == 3
    for study in (*alone.values(), *together.values()):
        assert study.processes() == []
