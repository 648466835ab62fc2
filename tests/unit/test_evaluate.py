"""Evaluation figures, differences to the base, and warnings, on samples with known outcomes."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import write_json
from criticflow.report import tables
from criticflow.stages import compare, evaluate
from criticflow.stats.compare import OF_DIALOGUES, comparison

SETTINGS = config.Evaluate(n=4, resamples=500)


def samples(outcomes: list[list[int]], keys=None, nats=0.5, **columns) -> pd.DataFrame:
    """Sampled and greedy rows; a prompt's greedy answer is its first sample."""
    keys = keys or [f"k{prompt}" for prompt in range(len(outcomes))]
    rows = [
        {
            "prompt_index": prompt,
            "sample_index": sample,
            "mode": mode,
            "tokens": [1, 2],
            "n_tokens": 2,
            "logprobs": [-nats, -nats],
            "truncated": False,
            "key": keys[prompt],
            "score": 1.0 if right else 0.2,
            "correct": bool(right),
            "format_ok": True,
        }
        for prompt, row in enumerate(outcomes)
        for mode, picked in (("sampled", row), ("greedy", row[:1]))
        for sample, right in enumerate(picked)
    ]
    return pd.DataFrame(rows).assign(**columns)


def write(directory, frame, name="base", kind="base", seed=None):
    directory.mkdir()
    frame.to_parquet(directory / "samples.parquet")
    who = {"name": name, "kind": kind, "seed": seed, "model": "tiny", "task": "mini"}
    write_json(directory / "summary.json", who | evaluate.model_figures(frame, SETTINGS))
    return directory


WEAK = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]] * 10
STRONG = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]] * 10


def test_figures_of_known_outcomes():
    found = evaluate.model_figures(samples(WEAK), SETTINGS)
    assert found["pass@1"] == pytest.approx(6 / 16)
    assert found["pass@4"] == pytest.approx(3 / 4)
    assert found["mean_score"] == pytest.approx(0.2 + 0.8 * 6 / 16)
    assert found["avg_entropy"] == pytest.approx(0.5)
    assert found["greedy"]["pass@1"] == 0.5
    assert found["response_length"] == 2.0 and found["truncation_rate"] == 0.0
    low, high = found["intervals"]["pass@1"]
    assert low < found["pass@1"] < high


def test_differences_are_taken_per_problem_whatever_the_order(tmp_path):
    base = write(tmp_path / "base", samples(WEAK))
    turned = samples(STRONG[::-1], keys=[f"k{n}" for n in range(40)][::-1])
    run = write(tmp_path / "run", turned, "cold", "run", 0)
    rows = compare.summarise([run, base], tmp_path / "summary.json", SETTINGS)
    found = rows[0]["difference"]
    assert found["pass@1"]["value"] == pytest.approx(3 / 16)
    assert 0 < found["pass@1"]["low"] < found["pass@1"]["high"]
    # Every problem gains 0, 1/4 or 1/4 more: the pairs vary much less than the problems do.
    assert found["pass@1"]["high"] - found["pass@1"]["low"] < 0.09
    assert found["greedy"]["mcnemar"]["only_first"] == 0
    assert found["greedy"]["mcnemar"]["only_second"] == 20
    assert found["greedy"]["mcnemar"]["p_value"] == pytest.approx(2 * 0.5**20)
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == rows
    assert [row["name"] for row in rows] == ["cold", "base"]


def test_a_run_without_its_base_or_on_other_problems_is_refused(tmp_path):
    run = write(tmp_path / "run", samples(STRONG), "cold", "run", 0)
    with pytest.raises(UserError, match="its base tiny was not evaluated on mini"):
        compare.summarise([run], tmp_path / "summary.json", SETTINGS)
    other = samples(WEAK, keys=[f"other{n}" for n in range(40)])
    base = write(tmp_path / "base", other)
    with pytest.raises(UserError, match="not evaluated on the same problems"):
        compare.summarise([base, run], tmp_path / "summary.json", SETTINGS)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("columns", "warning"),
    [
        ({"nats": 0.001}, "mode collapse"),
        ({"format_ok": False}, "format rate fell from 1.000 to 0.000"),
        ({"n_tokens": 0.9}, "length fell from 2.0 to 0.9"),
    ],
)
def test_unhealthy_models_are_warned_about(tmp_path, columns, warning, capsys):
    base = write(tmp_path / "base", samples(WEAK))
    run = write(tmp_path / "run", samples(STRONG, **columns), "cold", "run", 0)
    rows = compare.summarise([base, run], tmp_path / "summary.json", SETTINGS)
    assert rows[0]["warnings"] == []
    assert len(rows[1]["warnings"]) == 1 and warning in rows[1]["warnings"][0]
    assert f"warning: cold: {rows[1]['warnings'][0]}" in capsys.readouterr().out


def test_comparison_shows_absolute_and_relative_change_as_json_and_markdown(tmp_path):
    base = write(tmp_path / "base", samples(WEAK))
    run = write(tmp_path / "run", samples(STRONG), "cold", "run", 0)
    rows = compare.summarise([base, run], tmp_path / "summary.json", SETTINGS)
    assert rows[0]["comparison"] is None
    found = rows[1]["comparison"]["pass@1"]
    assert found == pytest.approx(
        {"base": 0.375, "trained": 0.5625, "absolute": 0.1875, "relative": 0.5}
    )
    table = (tmp_path / "summary.md").read_text()
    assert "| mini | tiny -> cold, seed 0 |" in table
    assert "| pass@1 | 0.3750 -> 0.5625 | +0.1875 | +50.0% |" in table.splitlines()
    zero = {**rows[0], "avg_entropy": 0.0}
    without = rows[1] | {"comparison": comparison(zero, rows[1])}
    assert without["comparison"]["avg_entropy"]["relative"] is None
    assert "| avg_entropy | 0.0000 -> 0.5000 | +0.5000 | n/a |" in compare.comparison_table(without)


def test_dialogues_have_figures_of_their_own_and_differences(tmp_path):
    def dialogues(outcomes, searches, found):
        columns = {"turns": searches + 1, "searches": searches, "tokens_read": 30 * searches}
        return samples(outcomes, f1=0.5, gold_retrieved=found, **columns)

    base = write(tmp_path / "base", dialogues(WEAK, 1, 0.25))
    run = write(tmp_path / "run", dialogues(STRONG, 2, 0.75), "ppo", "run", 0)
    rows = compare.summarise([base, run], tmp_path / "summary.json", SETTINGS)
    assert [row["searches"] for row in rows] == [1.0, 2.0]
    assert rows[1]["tokens_read"] == 60 and rows[1]["intervals"]["gold_retrieved"] == [0.75, 0.75]
    assert rows[1]["difference"]["gold_retrieved"]["value"] == pytest.approx(0.5)
    table = tables.models(rows)
    assert "gold documents found" in table.head
    assert (
        "gold documents found"
        not in tables.models(
            [{key: value for key, value in row.items() if key not in OF_DIALOGUES} for row in rows]
        ).head
    )
