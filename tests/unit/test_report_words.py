"""What a report says in words and colours: only what its statistics allow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from criticflow.config import Config, load_config
from criticflow.config.merging import merge
from criticflow.report.answer import answer
from criticflow.report.figures.curves import LEARNING, over_seeds
from criticflow.report.health import lost_trajectories
from criticflow.report.palette import COLORS, DASHES, styles
from criticflow.stages.savings import own_critic, write_savings
from criticflow.stats import contrasts
from criticflow.verl_plugin.critic_metrics import critic_metrics

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def study() -> Config:
    parts = ("config.yaml", "studies/critic-value.yaml")
    raw, over = (yaml.safe_load((CONFIG / part).read_text(encoding="utf-8")) for part in parts)
    return load_config(merge(raw, over))


def rows(effect: float, seeds: int, kind: str = "primary", a: str = "warm-frozen/m0.5") -> list:
    """The contrast of two arms whose runs differ by ``effect`` on every problem."""
    draw = np.random.default_rng(0)
    scores = {
        arm: pd.DataFrame(
            [
                {"seed": seed, "problem": problem, "greedy.pass@1": 0.4 + shift + noise}
                for seed in range(seeds)
                for problem, noise in enumerate(draw.normal(0, 0.05, 30))
            ]
        )
        for arm, shift in ((a, effect), ("constant/m0.5", 0.0))
    }
    wanted = contrasts.Contrast("x", a, "constant/m0.5", "critic source", kind, "greedy.pass@1")
    return contrasts.rows([wanted], scores, 0.05)


@pytest.mark.parametrize(
    ("effect", "seeds", "words"),
    [
        (0.2, 5, "It helped: +0."),
        (-0.2, 5, "It did harm: -0."),
        (0.0, 5, "Undecided: "),
        (0.2, 2, "No claim: with 2 seeds"),
        (0.2, 1, "No claim: with one seed"),
    ],
)
def test_the_answer_claims_what_the_interval_allows(study, effect, seeds, words):
    found = answer(study, rows(effect, seeds), [])
    assert found.question == "What was the saved critic worth?"
    assert found.sentence.startswith(words)
    assert any("holds for the base model tiny on countdown-mini" in text for text in found.details)
    more = " ".join(found.details)
    undecided = "A new study of" in more or "The difference is small: " in more
    assert undecided is words.startswith("Undecided")
    assert ("A claim needs at least 3 seeds" in more) is words.startswith("No claim")


def test_a_contrast_that_has_no_saved_critic_answers_another_question(study):
    learning = rows(0.2, 5, a="cold/m0.5")
    assert answer(study, learning, []).question != "What was the saved critic worth?"
    bundle = rows(0.2, 5, "bundle")
    assert answer(study, bundle, []).sentence.startswith("No answer about the critic alone")
    assert "declares no contrasts" in answer(study, [], []).sentence


def test_arms_that_share_a_critic_share_a_colour_and_no_two_look_alike(study):
    found = styles({name: run.factors for name, run in study.runs.items()})
    assert len(set(found.values())) == len(found) == len(study.runs)
    assert found["cold/m0"].color == found["cold/m0.9"].color != found["constant/m0"].color
    assert found["cold/m0.5"].dash == found["constant/m0.5"].dash
    most = len(COLORS) * len(DASHES)
    assert len(set(styles({str(arm): {} for arm in range(most)}).values())) == most
    assert len(styles({str(arm): {} for arm in range(3 * most)})) == 3 * most


def test_a_curve_is_the_mean_over_seeds_with_their_range():
    def table(*values: float) -> pd.DataFrame:
        return pd.DataFrame({"score": values}, index=pd.Index(range(1, len(values) + 1)))

    found = over_seeds({"arm": {0: table(1, 2, 3), 1: table(3, 4)}, "other": {}}, "score")
    assert found["mean"].tolist() == [2, 3, 3] and found["seeds"].tolist() == [2, 2, 1]
    assert found["low"].tolist() == [1, 2, 3] and found["high"].tolist() == [3, 4, 3]
    long = over_seeds({"arm": {0: table(*range(10_000))}}, "score")
    assert 150 <= len(long) <= 300


def test_the_curve_of_explained_variance_is_that_of_true_returns():
    (panel,) = [panel for panel in LEARNING if panel.name == "true-explained-variance"]
    step = critic_metrics(  # verl's own is against rewards that may be masked
        values=np.array([[0.1], [0.9]]), scores=np.array([[0.0], [1.0]]),
        masked_rewards=np.zeros((2, 1)), mask=np.ones((2, 1)), gamma=1.0,
    )  # fmt: skip
    assert step[panel.column] == pytest.approx(1 - 0.01 / 0.25)


def test_what_a_run_lost_to_errors_in_its_rollouts_is_a_warning():
    lost = pd.DataFrame({"criticflow/lost_trajectories": [0, 16, 0, 4]}, index=range(1, 5))
    none = pd.DataFrame({"criticflow/lost_trajectories": [0, np.nan]}, index=[1, 2])
    (found,) = lost_trajectories({"cold": {0: lost, 1: none}})
    assert found.text.startswith(
        "cold, seed 0: 20 trajectories were lost to errors in rollouts, in 2 of 4 steps"
    )


def test_savings_are_against_the_arm_that_differs_in_its_critic_alone(study, tmp_path):
    assert own_critic(study, "warm-frozen/m0.5") == "cold/m0.5"
    assert own_critic(study, "warm-learning/m0") == "cold/m0"
    metrics, critics = {}, {}
    for arm, seconds in (("cold/m0", 3.0), ("warm-frozen/m0", 2.0)):
        for seed in range(3):
            steps = study.runs[arm].train.steps
            folder = tmp_path / arm / f"seed{seed}"
            folder.mkdir(parents=True)
            table = {
                "step": range(1, steps + 1),
                "timing_s/step": seconds + 0.1 * seed * (seconds > 2),
                "perf/total_num_tokens": 100,
            }
            pd.DataFrame(table).to_parquet(folder / "metrics.parquet")
            save_file({"a": np.zeros((10, 5), np.float32)}, folder / "model.safetensors")
            metrics.setdefault(arm, {})[seed] = folder / "metrics.parquet"
            critics.setdefault(arm, {})[seed] = folder
    runs = {arm: study.runs[arm] for arm in metrics}
    config = study.model_copy(update={"runs": runs})
    (row,) = write_savings(config, metrics, {}, critics, tmp_path / "savings.json")
    assert (row["arm"], row["against"], row["charged"]) == ("warm-frozen/m0", "cold/m0", "cold/m0")
    ledger = {entry["unit"]: entry for entry in row["ledger"]}
    assert ledger["steps"]["saving"]["value"] == 0 and ledger["steps"]["charge"] == 40
    assert ledger["steps"]["pays_after"]["value"] is None
    assert ledger["seconds"]["saving"]["value"] == pytest.approx(40 * (3.1 - 2))
    assert ledger["seconds"]["saving"]["low"] < ledger["seconds"]["saving"]["value"]
    assert ledger["optimizer_bytes"]["saving"]["value"] == 8 * 50
    assert ledger["optimizer_bytes"]["charge"] == 0
