"""Real vLLM on a tiny model: what it samples, and what it says about it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import read_json
from criticflow.models.directory import check_model_directory
from criticflow.models.sampling import Engine, request_seeds
from criticflow.stages import compare
from criticflow.stages.samples import read_problems
from criticflow.stages.truth_files import read_further, read_truth
from criticflow.stats import advantage_audit, outcomes, truth_table, value_ranking
from criticflow.tasks import get_task

TRUE = ["v_mc", "v_se"]
pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    pytest.importorskip("vllm")
    path = tmp_path_factory.mktemp("sampled")
    script = Path(__file__).with_name("sample_for_tests.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return path


def read(out: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(out / f"{name}.parquet")


def log_distributions(out: Path, frame: pd.DataFrame, temperature: float = 1.0):
    """Per row: log-probabilities over the vocabulary at each response token, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(out / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    for prompt, tokens in zip(frame["prompt"], frame["tokens"], strict=True):
        before = tokenizer.encode(prompt, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *tokens]])).logits[0, len(before) - 1 : -1]
        yield torch.log_softmax(logits / temperature, -1).numpy()


@pytest.mark.parametrize(("name", "temperature"), [("few", 1.0), ("warm", 1.5), ("greedy", 1.0)])
def test_logprobs_are_those_of_the_distribution_drawn_from(out, name, temperature):
    frame = read(out, name).head(32)
    for row, full in zip(
        frame.itertuples(), log_distributions(out, frame, temperature), strict=True
    ):
        expected = full[np.arange(len(row.tokens)), row.tokens]
        np.testing.assert_allclose(row.logprobs, expected, atol=2e-3)
        if name == "greedy":
            assert (full.argmax(-1) == row.tokens).all()


def test_entropy_agrees_with_the_full_distributions(out):
    frame = read(out, "all")
    estimate = outcomes.entropy(list(frame["logprobs"]), list(frame["prompt_index"]))
    full = np.concatenate(list(log_distributions(out, frame)))
    exact = float(-(np.exp(full) * full).sum(-1).mean())
    assert estimate.tokens == len(full)
    assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.05


def test_samples_belong_to_the_prompt_not_to_its_place(out):
    whole = read(out, "all")
    turned = read(out, "reversed")
    last = whole["prompt_index"].max()
    turned = turned.assign(prompt_index=last - turned["prompt_index"])
    both = whole.merge(turned, on=["prompt_index", "sample_index"], suffixes=("", "_turned"))
    assert len(both) == len(whole)
    assert (both["prompt"] == both["prompt_turned"]).all()
    assert (both["response"] == both["response_turned"]).mean() > 0.99
    few = read(out, "few")
    assert (few["response"] == whole["response"].head(len(few))).mean() > 0.95
    assert (whole["response"] != read(out, "other_seed")["response"]).mean() > 0.3


def test_samples_of_one_prompt_are_different_draws(out):
    repeated = read(out, "repeated")
    first, second = (repeated[repeated["prompt_index"] == index] for index in (0, 1))
    assert list(first["response"]) != list(second["response"])
    assert read(out, "all").groupby("prompt_index")["response"].nunique().mean() > 1.5


def test_rows_are_complete(out):
    frame = read(out, "all")
    assert list(frame["prompt_index"]) == list(np.repeat(np.arange(64), 8))
    assert list(frame["sample_index"]) == list(range(8)) * 64
    assert (frame["tokens"].map(len) == frame["n_tokens"]).all()
    assert (frame["logprobs"].map(len) == frame["n_tokens"]).all()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    encoded = tokenizer(list(frame["prompt"]), add_special_tokens=False)["input_ids"]
    assert [list(ids) for ids in frame["prompt_tokens"]] == encoded
    assert frame["response"].str.startswith("<answer>").mean() > 0.9
    assert not frame["response"].str.contains("<|", regex=False).any()
    short = read(out, "short")
    assert short["truncated"].all() and (short["n_tokens"] == 2).all()
    assert frame.loc[~frame["truncated"], "tokens"].map(lambda ids: ids[-1] == 1).all()
    assert "exceed the engine's 64" in (out / "too_long.txt").read_text()


def test_continuations_belong_to_their_state_and_end_as_responses_do(out):
    found = read_json(out / "continued.json")
    pairs = list(zip(found["onward"], found["turned"], strict=True))
    same = [a == b for one, other in pairs for a, b in zip(one, other, strict=True)]
    assert np.mean(same) > 0.98
    assert all(len(samples) == 8 for samples in found["onward"])
    assert np.mean([len({tuple(ids) for ids in samples}) for samples in found["onward"]]) > 1.5
    end = AutoTokenizer.from_pretrained(out / "model").eos_token_id
    for most, samples in zip(found["most"], found["onward"], strict=True):
        for ids in samples:
            assert 1 <= len(ids) <= most
            assert (ids[-1] == end) or len(ids) == most
            assert end not in ids[:-1]


def test_the_truth_of_prompts_is_what_independent_responses_get(out):
    states = pd.read_parquet(out / "truth/states.parquet")
    assert list(states["position"].unique()) == [0.0, 0.5, 1.0]
    assert (states["n"] == 16).all()
    prompts = states[states["position"] == 0]
    sampled = read(out, "base/samples")
    sampled = sampled[(sampled["mode"] == "sampled") & (sampled["prompt_index"] < 48)]
    rates = sampled.groupby("prompt_index")["score"].agg(["mean", "var", "count"])
    error = np.sqrt((prompts["v_se"] ** 2).sum() + (rates["var"] / rates["count"]).sum()) / 48
    assert abs(prompts["v_mc"].mean() - rates["mean"].mean()) < 4 * error
    # Near the end nearly all is decided: the last token ends the response or does not.
    last = states[states["position"] == 1]
    assert last["v_se"].mean() < 0.2 * prompts["v_se"].mean()
    assert last["v_mc"].std() > prompts["v_mc"].std()


def test_prefix_and_continuation_are_scored_as_one_response(out):
    """A state near its end gets what its own whole response got, which no continuation sees."""
    states = pd.read_parquet(out / "truth/states.parquet")
    scores = pd.read_parquet(out / "truth/continuations.parquet")
    assert set(scores.columns) == {"state", "score", "correct", "length"}
    last = states[states["position"] == 1]
    problems = read_problems(out / "data/test.parquet")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    short = scores[scores["length"] == 1].groupby("state")["score"].first()
    checked = 0
    for row in last[last["state"].isin(short.index)].itertuples():
        text = tokenizer.decode(list(row.prefix_tokens)).split("<|assistant|>")[1]
        problem = problems.loc[row.prompt_index]
        expected = get_task("countdown").score(text, problem["ground_truth"]).score
        checked += 1
        assert short[row.state] == expected
    assert checked > 40


def test_an_actor_gets_its_own_truth_again_from_states_that_it_is_given(out):
    """Continuations of a state depend on its tokens, the seed and the actor alone."""
    states, scores, summary = read_truth(out / "truth")
    again = read_truth(out / "truth/on_same")
    pd.testing.assert_frame_equal(again[0], states)
    pd.testing.assert_frame_equal(again[1], scores)
    assert again[2]["states_of"]["actor"] == "tiny" and again[2]["states"] == summary["states"]
    other = read_truth(out / "truth/on_warmer")
    pd.testing.assert_frame_equal(other[0].drop(columns=TRUE), states.drop(columns=TRUE))
    assert other[0]["v_mc"].mean() < states["v_mc"].mean() - 0.02


def test_next_pieces_are_what_the_actor_would_write_and_worth_their_state(out):
    """The value of a state is the mean over all next tokens, here over those that were drawn."""
    states = pd.read_parquet(out / "truth/states.parquet").set_index("state")
    pieces, scores = read_further(out / "truth", "piece")
    assert (pieces["length"] == 1).all()
    parents = states.loc[pieces["parent"]]
    for piece, before in zip(pieces["prefix_tokens"], parents["prefix_tokens"], strict=True):
        assert list(piece[:-1]) == list(before)
    names = pieces["prefix_tokens"].map(tuple)
    assert names.is_unique and pieces.groupby("parent").size().between(1, 4).all()
    assert (pieces.groupby("parent").size() > 1).sum() > 20
    # An end of message is no piece: nothing follows it.
    end = AutoTokenizer.from_pretrained(out / "model").eos_token_id
    assert end not in {ids[-1] for ids in pieces["prefix_tokens"]}
    assert (scores.groupby("state").size() == 16).all()
    assert set(scores["state"]) == set(pieces["state"])
    longest = pieces["prefix_tokens"].map(len).to_numpy() + scores.groupby("state")["length"].max()
    assert longest.max() <= 32 + 24
    # One that was drawn alone of four is nearly sure: its worth is its parent's.
    alone = pieces[pieces.groupby("parent")["state"].transform("size") == 1]
    worth = truth_table.estimates(scores)["v_mc"].reindex(alone["state"]).to_numpy()
    before = states.loc[alone["parent"], "v_mc"].to_numpy()
    assert len(alone) > 10 and abs(worth.mean() - before.mean()) < 0.1
    assert np.corrcoef(worth, before)[0, 1] > 0.7
    ranked = value_ranking.ranking(*value_ranking.of_monte_carlo((pieces, scores), 4, 1.0, (1, 4)))
    assert ranked["regret"]["value"] < ranked["regret_chance"]["value"]
    assert ranked["top1"]["value"] > ranked["top1_chance"]["value"]


def test_audited_responses_have_a_truth_before_every_token(out):
    tokens, scores = read_further(out / "truth", "token")
    responses = pd.read_parquet(out / "truth/responses.parquet").head(12)
    assert len(tokens) == responses["tokens"].map(len).sum()
    for row, (_, own) in zip(responses.itertuples(), tokens.groupby("trajectory"), strict=True):
        assert list(own["token"]) == list(range(len(row.tokens)))
        for state in own.itertuples():
            assert list(state.prefix_tokens) == [*row.prompt_tokens, *row.tokens[: state.token]]
        assert (own["score"] == row.score).all()
    assert (scores.groupby("state").size() == 16).all()
    # True advantages sum to what the response got beyond what its prompt promises.
    (_, floor) = advantage_audit.of_values((tokens, scores), None, 1.0)
    means = truth_table.estimates(scores)["v_mc"].reindex(tokens["state"])
    gained = advantage_audit.advantages(tokens, means.to_numpy(), 0.0)
    first = means.to_numpy()[tokens["token"] == 0]
    sums = pd.Series(gained).groupby(tokens["trajectory"]).sum()
    np.testing.assert_allclose(sums, responses["score"].to_numpy() - first, atol=1e-9)
    assert floor["true_variance"]["value"] > 0 and floor["problems"] == 12


def test_prompts_that_are_too_long_are_left_out_and_counted(out):
    found = read_json(out / "fitting.json")
    prompts = read(out, "greedy")
    fits = prompts["prompt_tokens"].map(len) <= found["longest"]
    assert found["prompts"] == list(prompts["prompt"][fits])
    assert found["left_out"] == (~fits).sum() > 0
    assert (
        "test.parquet: every prompt is longer than 1 tokens" in (out / "none_fits.txt").read_text()
    )


def test_probe_writes_figures_that_fit_its_samples(out):
    summary = read_json(out / "probe/summary.json")
    samples = pd.read_parquet(out / "probe/samples.parquet")
    assert summary["n_prompts"] == 32 and len(samples) == 32 * 4
    rows = len(pd.read_parquet(out / "data/train.parquet"))
    assert summary["training_prompts"] == rows and summary["prompts_too_long"] == 0
    figures = summary["figures"]
    assert figures["accuracy"]["value"] == pytest.approx(samples["correct"].mean())
    assert figures["pass@1"] == figures["accuracy"]
    assert (out / "probe/probe.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_model_twice_differs_by_nothing(out, tmp_path):
    settings = config.Evaluate(n=4, resamples=200)
    rows = compare.summarise([out / "base", out / "same"], tmp_path / "summary.json", settings)
    assert rows == read_json(tmp_path / "summary.json")
    assert rows[0]["difference"] is None
    assert rows[1]["difference"]["pass@1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert rows[1]["difference"]["greedy"]["mcnemar"]["p_value"] == 1.0
    assert rows[0]["pass@1"] == rows[1]["pass@1"] > 0
    assert rows[0]["n_prompts"] == 64


def test_by_hand_the_first_problems_get_the_same_responses(out):
    summary = read_json(out / "by_hand/summary.json")
    assert summary["n_prompts"] == 5
    first = pd.read_parquet(out / "by_hand/samples.parquet")
    whole = pd.read_parquet(out / "base/samples.parquet").query("prompt_index < 5")
    order = ["mode", "prompt_index", "sample_index"]
    same = [frame.sort_values(order)["response"].tolist() for frame in (first, whole)]
    assert same[0] == same[1]


def test_seeds_depend_on_text_seed_and_repetition():
    assert request_seeds(["a", "b"], 0) == request_seeds(["b", "a"], 0)[::-1]
    assert len({*request_seeds(["a", "a", "b"], 0), *request_seeds(["a"], 1)}) == 4
    assert all(0 <= seed < 2**62 for seed in request_seeds(["a"] * 100, 0))


def broken(model: Path, how: str) -> Path:
    if how == "missing":
        shutil.rmtree(model)
    elif how == "no config":
        (model / "config.json").unlink()
    elif how == "torn config":
        (model / "config.json").write_text("{")
    elif how == "torn weights":
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        (model / "model.safetensors").unlink()
    elif how == "no tokenizer":
        for path in model.glob("token*"):
            path.unlink()
    return model


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ("missing", "model"),
        ("no config", "config.json"),
        ("torn config", "config.json"),
        ("torn weights", "model.safetensors"),
        ("no weights", "safetensors"),
        ("no tokenizer", "tokenizer"),
    ],
)
def test_a_broken_model_is_named_before_an_engine_starts(out, tmp_path, how, names):
    model = tmp_path / "model"
    shutil.copytree(out / "model", model)
    broken(model, how)
    with pytest.raises(UserError, match=names) as error:
        Engine(model, config.Model(path=str(model)), 64, config.Resources())
    assert str(tmp_path) in str(error.value)


def test_a_model_too_short_for_the_task_is_refused(out):
    with pytest.raises(UserError, match="128 positions"):
        Engine(out / "model", config.Model(path="x"), 129, config.Resources())


def test_hub_names_are_left_to_the_hub():
    assert check_model_directory("Qwen/Qwen3-0.6B") is None
