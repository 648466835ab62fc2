"""Runs as combinations of factors, and which of them may be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from criticflow.config import Config, load_config
from criticflow.config.contrasts import actor_updates, differs_in, settings_difference
from criticflow.config.merging import merge
from criticflow.config.names import run_and_seed
from criticflow.errors import UserError

DEFAULT = Path(__file__).parents[2] / "config" / "config.yaml"

GRID: dict[str, Any] = {
    "settings": {"model": "tiny", "task": "countdown-mini"},
    "factors": {
        "critic": {
            "constant": {"critic": {"constant": 0.0, "freeze": True}},
            "cold": {"train": {"critic_warmup": 3, "steps": 43}},
            "warm": {"critic": {"from": "cold/m0"}},
            "warm-frozen": {"critic": {"from": "cold/{mask}", "freeze": True}},
        },
        "mask": {"m0": {}, "m0.5": {"reward_mask": {"ratio": 0.5}}},
    },
}


FROM_ITS_MASK = {"critic": {"from": "cold/{mask}"}}


def loaded(study: dict[str, Any] | None = None, /, **over: Any) -> Config:
    """The default configuration with ``GRID`` in place of its runs, ``study`` merged over it."""
    raw = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    plain = {
        "runs": dict.fromkeys(raw["runs"]),
        "grid": dict.fromkeys(raw.get("grid", {})) | {"study": merge(GRID, study or {})},
        "train": {"critic_warmup": 0},
        "contrasts": [],
    }
    return load_config(merge(merge(raw, plain), over))


def refused(study: dict[str, Any] | None = None, /, **over: Any) -> str:
    with pytest.raises(UserError) as error:
        loaded(study, **over)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_combination_is_a_run_that_remembers_its_levels():
    runs = loaded().runs
    critics = ("constant", "cold", "warm", "warm-frozen")
    assert list(runs) == [f"{critic}/{mask}" for critic in critics for mask in ("m0", "m0.5")]
    run = runs["warm-frozen/m0.5"]
    assert run.critic.from_run == "cold/m0.5"
    assert run.critic.freeze
    assert run.reward_mask.ratio == 0.5
    assert run.train.steps == 40
    assert run.factors == {"critic": "warm-frozen", "mask": "m0.5"}
    assert runs["cold/m0"].train.steps == 43


def test_levels_and_seeds_are_no_part_of_what_a_run_is():
    settings = loaded({"override": [{"where": {"mask": "m0"}, "settings": {"seeds": [0, 1]}}]})
    dumped = settings.runs["cold/m0"].model_dump(mode="json", by_alias=True)
    assert not {"factors", "seeds"} & dumped.keys()


def test_an_arm_inherits_like_any_run():
    over = {"runs": {"base": {"model": "tiny", "task": "countdown-mini", "train": {"lam": 0.9}}}}
    config = loaded({"like": "base", "settings": {}}, **over)
    assert {run.train.lam for run in config.runs.values()} == {0.9}
    further = loaded(runs={"longer": {"like": "warm/m0", "critic": {"freeze": True}}})
    assert further.runs["longer"].critic.from_run == "cold/m0"
    assert further.runs["longer"].factors == {}


def test_combinations_are_left_out():
    exclude = [{"critic": ["cold", "warm-frozen"], "mask": "m0.5"}]
    assert list(loaded({"exclude": exclude}).runs) == [
        "constant/m0",
        "constant/m0.5",
        "cold/m0",
        "warm/m0",
        "warm/m0.5",
        "warm-frozen/m0",
    ]


def test_an_overlay_takes_away_a_level_a_grid_and_a_single_arm():
    assert "constant/m0" not in loaded({"factors": {"critic": {"constant": None}}}).runs
    assert "constant/m0" not in loaded(runs={"constant/m0": None}).runs
    alone = {"alone": {"model": "tiny", "task": "countdown-mini"}}
    assert list(loaded(runs=alone, grid={"study": None}).runs) == ["alone"]


def test_settings_of_single_arms_and_their_own_seeds():
    override = [
        {"where": {"mask": "m0.5"}, "settings": {"seeds": [0, 1, 2], "train": {"lam": 0.5}}},
        {"where": {"critic": ["warm"], "mask": "m0.5"}, "settings": {"train": {"lam": 0.8}}},
    ]
    config = loaded({"factors": {"critic": {"warm": FROM_ITS_MASK}}, "override": override})
    assert config.runs["constant/m0.5"].train.lam == 0.5
    assert config.runs["warm/m0.5"].train.lam == 0.8
    assert config.seeds_of("constant/m0.5") == [0, 1, 2] != config.seeds_of("constant/m0")
    assert config.run_seeds()[:4] == [
        ("constant/m0", 0),
        ("constant/m0.5", 0),
        ("constant/m0.5", 1),
        ("constant/m0.5", 2),
    ]


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"factor": {}}, "grid.study.factor: unknown key"),
        ({"factors": {"mask": {0.5: {}}}}, "grid.study.factors.mask"),
        ({"factors": {"mask": {"a/b": {}}}}, "grid.study.factors.mask"),
        ({"factors": {"empty": {}}}, "factors.empty: has no levels"),
        ({"factors": {"mask": {"m0": {"like": "cold"}}}}, "'like' belongs beside 'factors'"),
        (
            {"factors": {"mask": {"m0": {"critic": {"freeze": True}}}}},
            "factors critic and mask both set critic.freeze",
        ),
        ({"exclude": [{"lambda": "l1"}]}, "no factor named 'lambda'; there is critic, mask"),
        ({"exclude": [{"mask": "m1"}]}, "mask has no level 'm1'; there is m0, m0.5"),
        ({"exclude": [{"mask": ["m0", "m0.5"]}]}, "exclude: no run is left"),
        (
            {
                "exclude": [{"mask": "m0"}],
                "override": [{"where": {"mask": "m0"}, "settings": {"seeds": [1]}}],
            },
            "override.where: no run is mask m0",
        ),
        ({"settings": {"mdel": "tiny"}}, "runs.constant/m0.mdel: unknown key"),
        ({"factors": {"mask": {"seed1": {}}}}, "cannot be called like a seed's folder"),
        ({"factors": {"critic": {"w": {"critic": {"from": "{x}"}}}}}, "critic.from"),
        (
            {"override": [{"where": {"critic": "warm"}, "settings": {"seeds": [0, 4]}}]},
            "runs.warm/m0: its critic comes from cold/m0, which has no seed 4",
        ),
        (
            {"override": [{"where": {"critic": "warm"}, "settings": {"seeds": [0, 0]}}]},
            "runs.warm/m0.seeds: a seed stands there twice",
        ),
    ],
)
def test_a_mistake_in_a_grid_is_named(grid, says):
    assert says in refused(grid)


def test_a_run_and_an_arm_cannot_share_a_name_nor_can_two_grids():
    assert "runs.cold/m0: the grid has a run" in refused(runs={"cold/m0": {"model": "tiny"}})
    assert "grid.more: another grid has a run cold/m0" in refused(
        grid={"more": {**GRID, "exclude": [{"critic": ["constant", "warm", "warm-frozen"]}]}}
    )


def test_the_run_of_a_result_is_read_from_its_path():
    for name in ("cold", "cold/m0.5", "runs", "a/b/c"):
        for folder in ("results/runs", "/x/runs/y/results/runs", "results/eval/critics"):
            assert run_and_seed(Path(f"{folder}/{name}/seed-3/metrics.parquet")) == (name, -3)
    with pytest.raises(ValueError, match="not below"):
        run_and_seed(Path("results/eval/base/tiny/summary.json"))


def contrast(a: str, b: str, **more: Any) -> dict[str, Any]:
    return {"name": "it", "a": a, "b": b, **more}


@pytest.mark.parametrize(
    ("a", "b", "factors"),
    [
        ("warm-frozen/m0", "constant/m0", ["critic source"]),
        ("cold/m0", "constant/m0", ["critic source"]),  # the constant implies that it is frozen
        ("warm/m0", "cold/m0", ["critic source"]),  # and warm-up steps come with the cold one
        ("scaled/m0", "warm-frozen/m0", ["critic source"]),
        ("constant/m0.5", "constant/m0", ["mask"]),
        ("frozen/m0", "warm/m0", ["freeze"]),
        ("warm-frozen/m0", "cold/m0", ["critic source", "freeze"]),
        ("warm/m0.5", "cold/m0", ["critic source", "mask"]),
        ("grpo/m0", "constant/m0", ["algorithm"]),
        ("grpo/m0.5", "constant/m0", ["mask", "algorithm"]),
        ("random/m0", "constant/m0", ["random_reward"]),
        ("rate/m0", "constant/m0", ["train.actor_lr"]),
        ("often/m0", "constant/m0", []),
    ],
)
def test_which_factors_differ_is_read_from_the_settings(a, b, factors):
    constant = GRID["factors"]["critic"]["constant"]
    group = {"rollout_n": 4, "batch_size": 32, "mini_batch_size": 16, "lam": 0.9}
    critics = {
        "frozen": {"critic": {"from": "cold/m0", "freeze": True}},
        "scaled": {"critic": {"from": "cold/m0", "freeze": True, "scale": 0.5}},
        "grpo": {"algorithm": "grpo", "train": group},
        "random": {**constant, "random_reward": 0.5},
        "rate": {**constant, "train": {"actor_lr": 1e-4}},
        "often": {**constant, "train": {"save_every": 5}},
    }
    runs = loaded({"factors": {"critic": critics}}).runs
    assert sorted(differs_in(runs[a], runs[b])) == sorted(factors)


def test_the_settings_difference_shows_both_values():
    runs = loaded().runs
    assert settings_difference(runs["warm-frozen/m0.5"], runs["constant/m0.5"]) == {
        "critic.from": ("cold/m0.5", None),
        "critic.constant": (None, 0.0),
    }


def test_updates_of_the_actor_are_counted_without_the_critics_warm_up():
    runs = loaded(
        {
            "factors": {
                "critic": {
                    "twice": {"train": {"verl": {"actor_rollout_ref.actor.ppo_epochs": 2}}},
                    "frozen": {
                        "critic": {"from": "cold/m0", "freeze": True},
                        "train": {"critic_warmup": 3},
                    },
                }
            }
        }
    ).runs
    assert actor_updates(runs["constant/m0"]) == 40 * 128 // 64
    assert actor_updates(runs["cold/m0"]) == (43 - 3) * 128 // 64
    assert actor_updates(runs["twice/m0"]) == 2 * 40 * 128 // 64
    assert actor_updates(runs["frozen/m0"]) == 40 * 128 // 64  # nothing learns in its warm-up


def test_contrasts_that_answer_a_question_are_taken():
    contrasts = [
        contrast("warm-frozen/m0.5", "constant/m0.5", kind="primary"),
        {**contrast("constant/m0.5", "constant/m0", metric="pass@4"), "name": "mask"},
        {**contrast("warm-frozen/m0", "cold/m0", kind="bundle"), "name": "all"},
    ]
    assert [one.name for one in loaded(contrasts=contrasts).contrasts] == ["it", "mask", "all"]


LAMBDA = {"lam0.9": {"critic": {"constant": 0.0, "freeze": True}, "train": {"lam": 0.9}}}


@pytest.mark.parametrize(
    ("contrasts", "says"),
    [
        ([contrast("x", "cold/m0")], "contrasts.it.a: no run named 'x'; there is constant/m0"),
        ([contrast("cold/m0", "cold/m0")], "have the same settings"),
        (
            [contrast("warm-frozen/m0", "cold/m0")],
            "differ in critic source, freeze: that answers no question",
        ),
        ([contrast("random/m0", "constant/m0", kind="primary")], "differ in random_reward"),
        (
            [contrast("warm/m0", "cold/m0", kind="bundle")],
            "differ in critic source alone: that is no bundle",
        ),
        (
            [contrast("short/m0", "constant/m0", kind="bundle")],
            "updated 60 times in short/m0 and 80 times in constant/m0",
        ),
        ([contrast("lam0.9/m0", "cold/m0", kind="bundle")], "lambda is 0.9 in lam0.9/m0 and 1.0"),
        ([contrast("warm/m0", "cold/m0", metric="pass@3")], "pass@3 is not among evaluate.k"),
        ([contrast("warm/m0", "cold/m0", metric="loss")], "contrasts.0.metric"),
        ([contrast("other/m0", "constant/m0", kind="bundle")], "need the same task"),
        ([contrast("later/m0", "constant/m0", kind="bundle")], "have no seed in common"),
        ([contrast("warm/m0", "cold/m0")] * 2, "two contrasts have this name"),
        (
            [
                contrast("warm/m0", "cold/m0"),
                {**contrast("warm/m0.5", "cold/m0.5", kind="primary"), "name": "late"},
            ],
            "contrasts.late: a primary contrast is the first",
        ),
    ],
)
def test_contrasts_that_answer_none_are_refused(contrasts, says):
    constant = GRID["factors"]["critic"]["constant"]
    critics = LAMBDA | {
        "random": {**constant, "random_reward": 0.5},
        "short": {**constant, "train": {"steps": 30}},
        "other": {**constant, "task": "more"},
        "later": {**constant, "seeds": [7], "random_reward": 0.5},
    }
    tasks = {"more": {"kind": "gsm8k", "source": {"hub": "owner/name"}}}
    assert says in refused({"factors": {"critic": critics}}, contrasts=contrasts, tasks=tasks)


def test_arms_that_differ_in_lambda_alone_are_compared():
    config = loaded(
        {"factors": {"critic": LAMBDA}}, contrasts=[contrast("lam0.9/m0", "constant/m0")]
    )
    runs = config.runs
    assert differs_in(runs["lam0.9/m0"], runs["constant/m0"]) == ["lambda"]


def test_a_run_of_a_grid_can_be_named_wherever_a_run_is():
    config = loaded(
        truth={"actors": ["tiny", "cold/m0"], "steps": {"cold/m0": [20]}},
        critics={
            "fitted": {"model": "tiny", "task": "countdown-mini", "actor": "constant/m0"},
        },
    )
    assert config.measures_truth("cold/m0") and not config.measures_truth("cold/m0.5")
    assert 20 in config.runs["cold/m0"].train.keep_steps
    assert config.critics["fitted"].actor == "constant/m0"
