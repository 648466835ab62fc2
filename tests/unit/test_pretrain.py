"""Offline pretraining of critics: what is sampled, in which order it is learned, when it ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from checkpoint_writers import tiny_actor
from criticflow import config
from criticflow.config import load_config
from criticflow.errors import UserError
from criticflow.stages import data, returns
from criticflow.stages.samples import read_problems
from criticflow.training import pretrain
from criticflow.verl_plugin.critic_fit import (
    Settings,
    State,
    after_check,
    as_batch,
    rows_of_step,
    steps_of,
)
from test_config import raw

SETTINGS = Settings(
    model="m",
    samples="s",
    directory="d",
    device="cpu",
    ranks=2,
    batch_size=8,
    micro_batch_size=2,
    passes=3,
    checks=2,
    patience=2,
    learning_rate=1e-3,
    warmup=0.1,
    weight_decay=0.0,
    gamma=0.5,
    seed=0,
    value_head="linear",
    dtype="float32",
    strategy="fsdp2",
    attn_implementation=None,
    trust_remote_code=False,
)
CRITIC = config.PretrainedCritic(model="tiny", task="mini", samples=2)


def test_every_sample_is_learned_from_once_in_a_pass_in_another_order():
    passes = [
        [rows_of_step(24, 3 * number + step, SETTINGS) for step in range(3)] for number in (0, 1)
    ]
    for steps in passes:
        assert sorted(np.concatenate(steps)) == list(range(24))
    assert list(np.concatenate(passes[0])) != list(np.concatenate(passes[1]))
    again = rows_of_step(24, 1, SETTINGS)
    assert list(again) == list(passes[0][1])
    assert list(rows_of_step(24, 1, replace(SETTINGS, seed=1))) != list(again)


def test_checkpoints_of_another_fit_are_moved_aside_and_those_of_this_one_gone_on_from(
    tmp_path, capsys
):
    samples, directory = tmp_path / "samples.parquet", tmp_path / "checkpoints"
    samples.write_bytes(b"samples")
    pretrain._claim(directory, SETTINGS, samples, tmp_path / "model")
    (directory / "state.json").write_text("{}")
    pretrain._claim(directory, SETTINGS, samples, tmp_path / "model")
    assert (directory / "state.json").exists()
    samples.write_bytes(b"others")
    pretrain._claim(directory, SETTINGS, samples, tmp_path / "model")
    assert not (directory / "state.json").exists()
    (directory / "state.json").write_text("[]")
    pretrain._claim(directory, replace(SETTINGS, passes=4), samples, tmp_path / "model")
    assert not (directory / "state.json").exists()
    asides = sorted(tmp_path.glob("checkpoints.replaced-*"))
    assert sorted((one / "state.json").read_text() for one in asides) == ["[]", "{}"]
    first, second = capsys.readouterr().out.splitlines()
    assert "another fit is in it (samples differs): moved to" in first
    assert "another fit is in it (settings passes: 3 -> 4): moved to" in second
    assert "rm -r" in second and "accept" not in second


def test_what_a_fit_needs_is_asked_for_before_it_starts(tmp_path):
    model = tmp_path / "model"
    tiny_actor().save_pretrained(model)
    (model / "tokenizer.json").write_text("{}", encoding="utf-8")
    pretrain._check(config.Resources(), str(model), tmp_path / "new")
    with pytest.raises(UserError, match="of memory"):
        pretrain._check(config.Resources(cpu_ranks=10_000), str(model), tmp_path / "new")


def test_fewer_samples_than_a_batch_fill_it():
    assert len(rows_of_step(3, 5, SETTINGS)) == 8
    assert set(rows_of_step(3, 5, SETTINGS)) == {0, 1, 2}


def test_checks_are_spread_over_the_passes_and_one_is_last():
    assert steps_of(24, SETTINGS) == (9, [2, 3, 4, 6, 8, 9])
    assert steps_of(3, SETTINGS) == (3, [1, 2, 3])


def test_the_best_look_is_kept_and_patience_ends_the_fit():
    state = State()
    for step, mse in ((1, 0.5), (2, 0.3), (3, 0.4)):
        state = after_check(state, step, mse, last=False, patience=2)
    assert state == State(step=3, best_step=2, best_mse=0.3, worse=1)
    assert after_check(state, 4, 0.2, False, 2) == State(4, 4, 0.2, 0, False)
    assert after_check(state, 4, 0.3, False, 2) == State(4, 2, 0.3, 2, True)
    assert after_check(state, 4, 0.2, True, 2).done


def test_returns_are_discounted_by_the_tokens_that_remain():
    frame = pd.DataFrame(
        {"prompt_tokens": [[5, 6], [7]], "tokens": [[1, 2, 3], [4]], "score": [1.0, 0.2]}
    )
    batch = as_batch(frame, SETTINGS)
    found = batch["returns"].to_padded_tensor(0.0)
    np.testing.assert_allclose(found.numpy(), [[0.25, 0.5, 1.0], [0.2, 0, 0]], rtol=1e-6)
    assert batch["input_ids"].to_padded_tensor(0).tolist() == [[5, 6, 1, 2, 3], [7, 4, 0, 0, 0]]
    assert batch["response_mask"].to_padded_tensor(0).tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    task = config.Task(
        kind="countdown",
        source=config.Source(generate=config.Generate(numbers=[2], problems=120)),
        split=config.Split(val=20, test=30),
        prompt="{numbers} = {target}",
    )
    data.prepare("mini", task, folder)
    return folder


def test_only_training_problems_are_sampled_and_none_is_on_both_sides(splits):
    problems = read_problems(splits / "train.parquet")
    chosen = returns.choose(problems, CRITIC, seed=0)
    others = {
        key
        for split in ("val", "test")
        for key in read_problems(splits / f"{split}.parquet")["key"]
    }
    assert set(chosen["key"]) == set(problems["key"])
    assert not set(chosen["key"]) & others
    assert chosen["held_out"].sum() == round(0.1 * len(problems))
    assert returns.choose(problems, CRITIC, seed=0).equals(chosen)
    assert not returns.choose(problems, CRITIC, seed=1)["held_out"].equals(chosen["held_out"])
    few = returns.choose(problems, CRITIC.model_copy(update={"problems": 10}), seed=0)
    assert len(few) == 10 and few["held_out"].sum() == 1


def test_a_fit_without_held_out_problems_is_refused(splits):
    problems = read_problems(splits / "train.parquet")
    with pytest.raises(UserError, match="0 would be held out"):
        returns.choose(problems, CRITIC.model_copy(update={"problems": 4}), seed=0)


def test_the_probes_samples_are_taken_where_there_are_enough(tmp_path):
    rows = [
        (index, sample, f"k{index}", [1], [sample], 0.5, False)
        for index, count in ((0, 3), (1, 1), (2, 2))
        for sample in range(count)
    ]
    columns = ["prompt_index", "sample_index", *returns.COLUMNS]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "samples.parquet")
    found = returns.probed(tmp_path / "samples.parquet", 2, {"k0", "k1"})
    assert list(found["key"]) == ["k0", "k0"]
    assert [list(tokens) for tokens in found["tokens"]] == [[0], [1]]
    assert returns.probed(None, 2, {"k0"}).empty


def study(**over):
    critics = {"pretrained": {"model": "tiny", "task": "countdown-mini"}}
    return load_config(raw(critics=critics, **over))


def test_a_run_starts_from_a_pretrained_critic_by_name():
    found = study(runs={"warm": {"like": "cold", "critic": {"from": "pretrained"}}})
    critic = found.runs["warm"].critic
    assert critic.pretrained == "pretrained" and critic.from_run is None
    # What is written for a job reads back as the same.
    assert config.Config.model_validate(found.model_dump(mode="json", by_alias=True)) == found


def test_another_step_and_seed_of_a_critic():
    runs = {"warm": {"like": "cold", "critic": {"from": {"run": "cold", "step": 20, "seed": 1}}}}
    found = study(runs=runs, seeds=[0, 1])
    critic = found.runs["warm"].critic
    assert (critic.from_run, critic.from_step, critic.from_seed) == ("cold", 20, 1)
    assert found.runs["cold"].train.keep_steps == [20]  # which stays in its checkpoints
    assert found.runs["warm-frozen-m50"].train.keep_steps == []
    compared = study(truth={"steps": {"warm-frozen-m50": [20, 40]}})
    assert compared.runs["warm-frozen-m50"].train.keep_steps == [20, 40]


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"runs": {"pretrained": {"like": "cold"}}}, "there is a run of this name"),
        ({"runs": {"warm": {"like": "cold", "critic": {"from": "other"}}}}, "no run named 'other'"),
        ({"truth": {"steps": {"cold": [30]}}}, "step 30 is asked for"),
        ({"truth": {"steps": {"other": [20]}}}, "truth.steps: no run named 'other'"),
        ({"critics": {"pretrained": {"task": "nothing"}}}, "no task named 'nothing'"),
        ({"critics": {"pretrained": {"batch_size": 48}}}, "not divisible by 2 ranks"),
        (
            {
                "critics": {"pretrained": {"actor": "warm"}},
                "runs": {"warm": {"like": "cold", "critic": {"from": "pretrained"}}},
            },
            "critic.from is a cycle: warm -> warm",
        ),
        (
            {"runs": {"warm": {"like": "cold", "critic": {"from": {"run": "cold", "step": 21}}}}},
            "step 21 is asked for",
        ),
        (
            {"runs": {"warm": {"like": "cold", "critic": {"from": {"run": "cold", "seed": 7}}}}},
            "comes from cold, which has no seed 7",
        ),
        (
            {"runs": {"warm": {"like": "cold", "critic": {"from": {"step": 20}}}}},
            "give the name of a run",
        ),
    ],
)
def test_a_mistake_about_a_critics_origin_is_named(over, says):
    critics = {"pretrained": {"model": "tiny", "task": "countdown-mini"}}
    given = raw(critics=critics)
    with pytest.raises(UserError, match=says):
        load_config(config.load.merge(given, over))
