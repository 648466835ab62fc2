"""The scoring program, and the function that verl calls."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

from criticflow.errors import UserError
from criticflow.verl_plugin import reward


def run(task: str, text: str | bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "criticflow.score", "--task", task],
        input=text.encode() if isinstance(text, str) else text,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("task", "response", "ground_truth"),
    [
        ("countdown", "<answer>8+2</answer>", {"numbers": [8, 2], "target": 10}),
        ("gsm8k", "#### 10", "10"),
        ("math", "\\boxed{10}", "10"),
    ],
)
def test_lines_come_back_with_their_scores(task, response, ground_truth):
    rows = [
        {"id": 7, "response": response, "ground_truth": ground_truth},
        {"response": "?", "ground_truth": ground_truth, "note": "\u00e9\ud83d"},
    ]
    done = run(task, "\n".join(map(json.dumps, rows)) + "\n\n")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        rows[0] | {"score": 1.0, "correct": True, "format_ok": True},
        rows[1] | {"score": 0.0, "correct": False, "format_ok": False},
    ]


GOOD = '{"response": "#### 1", "ground_truth": "1"}\n'


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"response": "1"}', "no key 'ground_truth'; there is response"),
        ('{"response": null, "ground_truth": "1"}', "response must be text"),
        ('{"response": "1", "ground_truth": "one"}', "ground truth of gsm8k"),
    ],
)
def test_a_bad_line_is_named(bad, says):
    done = run("gsm8k", GOOD.encode() * 2 + (bad if isinstance(bad, bytes) else bad.encode()))
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: line 3: ")
    assert says in line


def test_an_unknown_task_is_an_error():
    done = run("chess", GOOD)
    assert done.returncode == 2
    assert b"error: no task kind 'chess'" in done.stderr


def test_the_reward_is_the_tasks_score():
    truth = json.dumps({"numbers": [8, 2], "target": 10})
    found = reward.compute_score("countdown", "<answer>8*2</answer>", truth, {"index": 0}, more=1)
    assert found == {"score": 0.2, "correct": 0.0, "format_ok": 1.0}
    assert all(isinstance(value, float) for value in found.values())
    with pytest.raises(UserError, match="no task kind 'openai/gsm8k'"):
        reward.compute_score("openai/gsm8k", "", "1")


def test_verl_loads_the_reward_function_by_path():
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn

    where = {"path": inspect.getsourcefile(reward), "name": "compute_score"}
    compute_score = get_custom_reward_fn(
        OmegaConf.create({"reward": {"custom_reward_function": where}})
    )
    found = compute_score(
        data_source="gsm8k", solution_str="#### 5", ground_truth="5", extra_info={"num_turns": None}
    )
    assert found == {"score": 1.0, "correct": 1.0, "format_ok": 1.0}
