"""GSM8K: which number counts, how it is written, and the reference answers."""

from __future__ import annotations

import pytest

from criticflow.errors import UserError
from criticflow.tasks import Dropped, get_task
from criticflow.tasks.gsm8k import _from_row
from real_data import needs_real_data, read
from task_example import TaskExample

TASK = get_task("gsm8k")
EXAMPLE = TaskExample({"question": "Q"}, mark="####", ground_truth="10", right="#### 10")


@pytest.mark.parametrize(
    "response",
    [
        "#### 1080",
        "####1080",
        "#### 1,080",
        "#### $1,080.00",
        "#### 1080.",
        "#### 1080%",
        "#### €1080!",
        "#### **1080**",
        "#### \\boxed{1080}",
        "#### $1080$",
        "#### 1080 apples",
        "#### 01080",
        "#### 540 + 540 = 1080",
        "#### 1080 ####",
        "#### 5\nWait.\n#### 1080",
        "\\boxed{5}\n#### 1080",
        "#### 1080\n#### Step 2",
        "#### 1080" + " ok" * 3000,
    ],
)
def test_strict(response):
    score = TASK.score(response, "1080")
    assert (score.score, score.correct, score.format_ok) == (1.0, True, True)
    assert score.parts == {"strict": 1.0, "flexible": 0.0}


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{1080}",
        "\\boxed{\\$1{,}080}",
        "\\boxed{1080 \\text{ m}^2}",
        "\\boxed{\\text{total} = 1080}",
        "\\boxed{\\boxed{1080}}",
        "\\boxed{5} no, \\boxed{1080}",
        "#### 5\nNo: \\boxed{1080}",
        "#### Step 1\nThe answer is 1080.",
        "The answer is $1,080.",
        "In 2 steps: 1080",
        "It is 1080" + " ok" * 3000,
        "540 + 540 = 1080",
        "\\boxed{1080",
        "<think>#### 5</think> 1080",
    ],
)
def test_flexible(response):
    score = TASK.score(response, "1080")
    assert (score.score, score.correct, score.format_ok) == (1.0, True, False)
    assert score.parts == {"strict": 0.0, "flexible": 1.0}


@pytest.mark.parametrize(
    "response",
    [
        "#### -1080",
        "#### 1080.5",
        "#### 1080/2",
        "#### 1080e3",
        "#### 1080^2",
        "#### 1080:00",
        "#### 1,08,0",
        "#### ١٠٨٠",
        "#### \uff11\uff10\uff18\uff10",
        "#### 1080\n#### 5",
        "#### 1080\n\\boxed{5}",
        "<think>#### 1080</think>",
        "2^1080",
        "10-1080",
        "1080" * 100,
        "no number",
        "",
    ],
)
def test_wrong(response):
    assert TASK.score(response, "1080").score == 0.0


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("#### -5", "-5"),
        ("#### \u22125", "-5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("So it is -5.", "-5"),
        ("#### .5", "0.5"),
        ("#### 0.50", "0.5"),
        ("25%", "25"),
        ("#### 1000000", "1,000,000"),
        ("#### 12,34,567", "1234567"),
        ("7", 7),
    ],
)
def test_how_numbers_are_written(response, gold):
    assert TASK.score(response, gold).correct


@pytest.mark.parametrize("gold", ["", "twelve", "1/2", None, "9" * 40])
def test_a_malformed_ground_truth_is_an_error(gold):
    with pytest.raises(UserError, match="ground truth of gsm8k"):
        TASK.score("#### 1", gold)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "Q?", "answer": "A\n#### "}, "empty answer"),
        ({"question": "Q?", "answer": "A\n#### many"}, "malformed"),
        ({"question": "Q?", "answer": "5"}, "malformed"),
        ({"question": " ", "answer": "A\n#### 5"}, "malformed"),
        ({"answer": "A\n#### 5"}, "malformed"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_with_a_reason(row, reason):
    assert _from_row(row) == Dropped(reason, row)


def test_solutions_are_worded_in_our_format():
    problem = _from_row({"question": "Q? ", "answer": "3*4=<<3*4=12>>12\n#### 1,012"})
    assert problem.solution == "<think>\n3*4=12\n</think>\n#### 1012"
    assert problem.ground_truth == "1012"
    assert problem.key == _from_row({"question": " q?", "answer": "#### 1"}).key


@needs_real_data
@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_every_reference_answer_scores_one(split, rows):
    data = read(f"gsm8k/{split}.jsonl")
    gold = [row["answer"].rpartition("####")[2].strip() for row in data]
    scores = [TASK.score(row["answer"], truth) for row, truth in zip(data, gold, strict=True)]
    assert sum(score.score == 1.0 and score.format_ok for score in scores) == rows == len(data)
    problems = [_from_row(row) for row in data]
    assert sum(TASK.score(p.solution, p.ground_truth).score == 1.0 for p in problems) == rows
