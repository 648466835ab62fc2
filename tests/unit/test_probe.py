"""The probe's figures, verdict, filter and gate on samples with known outcomes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from criticflow import config
from criticflow.errors import UserError
from criticflow.report.plots import plot_probe
from criticflow.stages import probe


def samples(outcomes: list[list[int]], nats: float = 0.5, **columns) -> pd.DataFrame:
    """Scored samples: ``outcomes[prompt][sample]`` is 1 for correct."""
    rows = [
        {
            "prompt_index": prompt,
            "sample_index": sample,
            "prompt": f"prompt {prompt}",
            "response": f"response {sample}",
            "tokens": [1, 2],
            "n_tokens": 2,
            "logprobs": [-nats, -nats],
            "truncated": False,
            "key": f"k{prompt}",
            "score": 1.0 if right else 0.2,
            "correct": bool(right),
            "format_ok": True,
        }
        for prompt, row in enumerate(outcomes)
        for sample, right in enumerate(row)
    ]
    return pd.DataFrame(rows).assign(**columns)


HALF = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_figures_of_known_outcomes():
    found = probe.signal_figures(samples(HALF), config.Probe(n=4))
    value = {name: figure["value"] for name, figure in found.items()}
    assert value["accuracy"] == 0.5
    assert value["mean_reward"] == pytest.approx(0.6)
    assert value["accuracy_variance"] == pytest.approx(3 / 32)
    assert value["reward_variance"] == pytest.approx(0.64 * 3 / 32)
    assert (value["all_wrong"], value["mixed"], value["all_right"]) == (0.25, 0.5, 0.25)
    assert value["pass@1"] == 0.5 and value["pass@4"] == 0.75
    assert value["entropy"] == pytest.approx(0.5)
    assert value["response_length"] == 2.0
    assert value["truncation_rate"] == 0.0 and value["format_rate"] == 1.0
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in found.values())


def judged(outcomes, settings=None, **columns):
    settings = settings or config.Probe(n=4)
    return probe.verdict(probe.signal_figures(samples(outcomes, **columns), settings), settings)


def test_a_good_signal_needs_no_advice():
    found = judged([[1, 0, 0, 0], [1, 1, 0, 0]] * 4)
    assert found["ok"] and found["advice"] == []
    assert all(criterion["ok"] for criterion in found["criteria"].values())


@pytest.mark.parametrize(
    ("outcomes", "columns", "criterion", "advice"),
    [
        ([[0, 0, 0, 0]] * 8, {}, "accuracy", "fine-tune the model first"),
        ([[1, 1, 1, 1]] * 8, {}, "accuracy", "harder data"),
        ([[1, 1, 1, 1], [1, 1, 1, 0]] * 4, {}, "accuracy", "consider harder data"),
        ([[0] * 4, [1] * 4] * 4, {}, "reward_variance", "probe.filter: mixed"),
        (HALF, {"nats": 0.05}, "entropy", "raise the temperature"),
        (HALF, {"nats": 1.5}, "entropy", "lower the temperature"),
        (HALF, {"truncated": True}, None, "raise max_response_length"),
        (HALF, {"format_ok": False}, None, "fix the prompt"),
    ],
)
def test_verdict_and_advice(outcomes, columns, criterion, advice):
    found = judged(outcomes, **columns)
    assert any(advice in line for line in found["advice"])
    if criterion:
        assert not found["ok"] and not found["criteria"][criterion]["ok"]


def test_the_gate_ignores_warns_or_stops(tmp_path, capsys):
    bad = probe.signal_figures(samples([[0, 0, 0, 0]] * 8), config.Probe(n=4))
    summary = {"figures": bad, "verdict": probe.verdict(bad, config.Probe(n=4))}
    outputs = [tmp_path / name for name in ("summary.json", "samples.parquet", "probe.png")]
    for file in outputs:
        file.write_text(file.name)
    probe._report(summary, "off", tmp_path)
    assert "warning" not in capsys.readouterr().out
    probe._report(summary, "warn", tmp_path)
    assert "warning: probe: accuracy 0.000" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted(outputs)
    with pytest.raises(UserError, match=r"fine-tune the model first.*gate: fail.*/failed$"):
        probe._report(summary, "fail", tmp_path)
    for file in outputs:
        file.unlink()  # as Snakemake does when a rule fails
        assert (tmp_path / "failed" / file.name).read_text() == file.name


def training_set(path, count=5):
    frame = pd.DataFrame(
        {
            "prompt": [[{"role": "user", "content": str(n)}] for n in range(count)],
            "extra_info": [{"key": f"k{n}", "index": n} for n in range(count)],
        }
    )
    frame.to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("rule", "kept", "hard", "easy"),
    [
        ("mixed", ["k1", "k2"], 1, 1),
        ([0.25, 0.75], ["k1", "k2"], 1, 1),
        ([0.5, 1.0], ["k2", "k3"], 2, 0),
    ],
)
def test_filter_keeps_what_the_rule_says_and_counts_the_rest(tmp_path, rule, kept, hard, easy):
    train = training_set(tmp_path / "train.parquet")
    frame, counts = probe.filtered_training_set(train, samples(HALF), rule)
    assert [extra["key"] for extra in frame["extra_info"]] == kept
    assert counts == {
        "rule": rule,
        "rows": 5,
        "not_probed": 1,
        "too_hard": hard,
        "too_easy": easy,
        "kept": len(kept),
    }
    assert list(frame.columns) == list(pd.read_parquet(train).columns)


def test_filter_that_keeps_nothing_is_an_error(tmp_path):
    train = training_set(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"keeps no row of .*train\.parquet"):
        probe.filtered_training_set(train, samples([[0] * 4] * 5), "mixed")


def test_examples_show_best_worst_and_most_divided():
    found = probe.examples(samples(HALF))
    assert found["best"][0]["key"] == "k3" and found["best"][0]["pass_rate"] == 1.0
    assert found["worst"][0]["key"] == "k0"
    assert {found["divided"][0]["key"], found["divided"][1]["key"]} == {"k1", "k2"}
    assert len(found["best"][0]["responses"]) == 4


def test_plot_has_the_same_bytes_every_time(tmp_path):
    generator = np.random.default_rng(0)
    rates = generator.integers(0, 17, 64) / 16
    for name in ("a", "b"):
        lengths = np.arange(100.0) + 1
        plot_probe(rates, rates * (1 - rates), lengths, 16, "a title", tmp_path / f"{name}.png")
    first, second = (tmp_path / f"{name}.png" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
