"""``criticflow plan``: runs, contrasts and costs of a study, without running any of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from snake import PROJECT, TWO_RUNS, finish, grid_of_critics

from criticflow.commands import plan
from criticflow.errors import UserError
from criticflow.planning.costs import Took
from criticflow.planning.study import read_study

STUDY = {
    "runs": TWO_RUNS["runs"] | {"warm-frozen-m50": None},
    "seeds": [0, 1],
    "grid": {"study": grid_of_critics({"m0.5": {"reward_mask": {"ratio": 0.5}}})},
    "contrasts": [
        {"name": "worth", "a": "warm-frozen/m0.5", "b": "constant/m0.5", "kind": "primary"}
    ],
}


def written(directory: Path) -> Path:
    path = directory / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return path


def benchmark(directory: Path, job: str, seconds: str) -> None:
    path = directory / f"results/benchmarks/{job}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t-\n", encoding="utf-8")


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    plan.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_a_new_study_costs_what_such_jobs_took(tmp_path, capsys):
    for seed, seconds in enumerate(("60.5", "70.5", "80.5")):
        benchmark(tmp_path / "before", f"train_run/cold/seed{seed}", seconds)
    benchmark(tmp_path / "before", "evaluate_run/cold/seed0", "10")
    text = said(
        capsys,
        *("--directory", tmp_path / "new", "--costs-from", tmp_path / "before"),
        *("--configfile", written(tmp_path)),
    )
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["constant/m0.5"][1:] == ["constant", "0", "2", "0", "80", "0:01:10"]
    assert rows["train_run"] == ["train_run", "4", "0", "4", "0:01:10", "0:04:42"]
    assert rows["train_run_warm"][1:] == ["2", "0", "2", "0:01:10", "0:02:21"]
    assert rows["evaluate_run"][1:] == ["6", "0", "6", "0:00:10", "0:01:00"]
    assert rows["summarise"][1:] == ["1", "0", "1", "?", "?"]
    assert "0:08:03, one after the other; no earlier job says" in " ".join(text.split())


def test_contrasts_are_shown_with_the_settings_that_differ(tmp_path, capsys):
    text = said(capsys, "--directory", tmp_path, "--configfile", written(tmp_path))
    assert "worth, primary: warm-frozen/m0.5 minus constant/m0.5 by greedy.pass@1, 2" in text
    assert "differs in critic source" in text
    assert "critic.from: cold, none" in text
    assert "critic.constant: none, 0.0" in text


def test_what_is_done_is_not_to_do(tmp_path, capsys):
    settings = tmp_path / "study.yaml"
    study = STUDY | {"contrasts": []}  # its evaluations are empty files
    settings.write_text(yaml.safe_dump(study), encoding="utf-8")
    finish(tmp_path, overlay=study)
    text = said(capsys, "--directory", tmp_path, "--configfile", settings)
    assert "Nothing is to be done." in text
    trained = {line.split()[0]: line.split()[-3] for line in text.splitlines() if "/m0.5" in line}
    assert trained["constant/m0.5"] == "2"
    settings.write_text(yaml.safe_dump(study | {"seeds": [0, 1, 2]}), encoding="utf-8")
    text = said(capsys, "--directory", tmp_path, "--configfile", settings)
    assert re.search(r"train_run +6 +4 +2 ", text)
    assert re.search(r"train_run_warm +3 +2 +1 ", text)


def test_what_cannot_be_measured_or_planned_is_said(tmp_path):
    benchmark(tmp_path, "train_run/cold/seed0", "NA")
    assert Took(tmp_path).training("cold") is None
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.yaml"):
        plan.main(["--configfile", str(tmp_path / "nowhere.yaml")])


def test_a_difference_that_can_be_detected_follows_from_seeds_problems_and_samples(tmp_path):
    study = STUDY | {"smallest_effect": 0.1, "evaluate": {"n": 4}}
    found = []
    for change in (
        {},
        {"seeds": [0, 1, 2, 3, 4]},
        {"seeds": [0, 1, 2, 3, 4], "tasks": {"countdown-mini": {"split": {"test": 2048}}}},
        {
            "seeds": [0, 1, 2, 3, 4],
            "contrasts": [STUDY["contrasts"][0] | {"metric": "pass@1"}],  # four samples a problem
        },
    ):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study | change), encoding="utf-8")
        text = plan.contrasts_text(read_study([path]), tmp_path / "new")
        found.append(float(re.search(r"detects (\d\.\d+) at 80 %", text)[1]))
        assert ("more than the smallest of interest, 0.1" in text) == (found[-1] > 0.1)
    two, five, more_problems, sampled = found
    assert two > 0.1 > five > more_problems
    assert five > sampled


def test_one_seed_detects_nothing(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | {"seeds": [0]}), encoding="utf-8")
    text = plan.contrasts_text(read_study([path]), tmp_path)
    assert "detects nothing: two seeds at least" in text


def test_variances_of_finished_seeds_replace_the_assumed_ones(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | {"seeds": [0, 1, 2, 3]}), encoding="utf-8")
    draw = np.random.default_rng(0)
    for run, better in (("warm-frozen/m0.5", 0.2), ("constant/m0.5", 0.0)):
        for seed in (0, 1, 2):
            folder = tmp_path / f"results/eval/runs/{run}/seed{seed}"
            folder.mkdir(parents=True)
            right = draw.random(200) < 0.4 + better
            samples = {"prompt_index": range(200), "sample_index": 0, "mode": "greedy"}
            samples |= {"key": [str(n) for n in range(200)], "score": right.astype(float)}
            pd.DataFrame(samples | {"correct": right}).to_parquet(folder / "samples.parquet")
    text = plan.contrasts_text(read_study([path]), tmp_path)
    found = re.search(r"detects (\d\.\d+) at 80 % power on 200 problems \(variances of 3", text)
    # Seeds do not differ but for the draws: about (1.96 + 0.84) sqrt(0.48 / 800), t's tails apart.
    assert 0.06 < float(found[1]) < 0.15


def test_the_memory_of_trainings_on_gpus_is_printed_and_judged(tmp_path, capsys):
    experiment = PROJECT / "config/experiments/qwen2.5-3b-gsm8k-grpo.yaml"
    text = said(capsys, "--directory", tmp_path, "--configfile", experiment)
    assert "Memory of grpo, GiB: 8 GPUs of 80" in text
    (loading,) = re.findall(r"loading a model +([\d.]+)", text)
    assert float(loading) == pytest.approx(8 * 4 * 3.0857e9 / 2**30, abs=0.1)
    small = tmp_path / "small.yaml"
    small.write_text("resources: {gpu_memory_gb: 24}\n", encoding="utf-8")
    arguments = ["--directory", str(tmp_path), "--configfile", str(experiment), str(small)]
    with pytest.raises(UserError, match=r"runs\.grpo: training would take 34 GiB of a GPU with 24"):
        plan.main(arguments)
    assert "Memory of grpo" in capsys.readouterr().out  # what there is to lower, part by part
