"""The shipped studies: each is planned whole, and says rightly how large it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from snake import PROJECT, planned

from criticflow.planning.study import read_study

STUDIES = sorted((PROJECT / "config" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_planned_with_all_its_trainings(path: Path, tmp_path: Path):
    study = read_study([path])
    jobs = planned(tmp_path, overlay=yaml.safe_load(path.read_text(encoding="utf-8")))
    assert jobs["train_run"] + jobs["train_run_warm"] == len(study.run_seeds())
    assert jobs["evaluate_run"] == len(study.run_seeds())
    assert jobs["probe_signal"] == 1  # one base model, one task: shared by all runs


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_words_of_a_study_fit_its_settings(path: Path):
    study, text = read_study([path]), path.read_text(encoding="utf-8")
    said = re.search(r"^#.*?(\w+) trainings", text, re.MULTILINE)
    assert said, "how many trainings?"
    assert int(said[1]) == len(study.run_seeds())
    if runs := re.search(r"^# (\d+) runs", text, re.MULTILINE):
        assert int(runs[1]) == len(study.runs)


def test_the_studies_questions_have_the_seeds_that_they_promise():
    for path in STUDIES:
        study = read_study([path])
        if not study.contrasts or path.stem == "search":  # a question of its own
            continue
        primary = study.contrasts[0]
        assert primary.kind == "primary"
        assert (primary.a, primary.b) == ("warm-frozen/m0.5", "constant/m0.5")
        assert primary.metric == "greedy.pass@1"
        assert study.smallest_effect
    study = read_study([PROJECT / "config/studies/critic-value.yaml"])
    seeds = [set(study.seeds_of(c.a)) & set(study.seeds_of(c.b)) for c in study.contrasts]
    assert len(seeds[0]) == 10
    assert min(map(len, seeds)) >= 3


def test_rates_are_searched_on_seeds_that_the_study_does_not_use():
    rates = read_study([PROJECT / "config/studies/learning-rates.yaml"])
    study = read_study([PROJECT / "config/studies/critic-value.yaml"])
    assert not {seed for _, seed in rates.run_seeds()} & {seed for _, seed in study.run_seeds()}
    critics = {run.factors["critic"] for run in study.runs.values() if run.factors}
    # Trained as the warm frozen one and the oracle are.
    critics -= {"other-seed-frozen", "shuffled-frozen", "warm-frozen-scaled", "oracle-scaled"}
    assert {run.factors["critic"] for run in rates.runs.values()} == critics
