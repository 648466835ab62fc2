"""MATH: math-verify in threads, within its limits, and the reference answers."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from criticflow.errors import UserError
from criticflow.tasks import Dropped, _math_pool, get_task
from criticflow.tasks._math_worker import LIMIT_S
from criticflow.tasks.math import _from_row
from real_data import needs_real_data, read
from task_example import TaskExample

TASK = get_task("math")
EXAMPLE = TaskExample({"problem": "P"}, mark="\\boxed{}", ground_truth="10", right="\\boxed{10}")


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("5", "\\boxed{4} no, \\boxed{5}"),
        ("5", "\\boxed{\\boxed{5}}"),
        ("5", "<think>\\boxed{4}</think>\\boxed{5}"),
        ("5", "\\boxed 5."),
        ("5", "\\fbox{5}"),
        ("5", "\\boxed{5." + "}" + " ok" * 1000),
        ("\\{1, 2\\}", "\\boxed{\\{2, 1\\}}"),
        ("\\frac{1}{2}", "\\boxed{0.5}"),
        ("3\\sqrt{13}", "\\boxed{\\sqrt{117}}"),
        ("17", "\\boxed{17\\%}"),
        ("17\\%", "\\boxed{17}"),
        ("60,120", "\\boxed{60^\\circ, 120^{\\circ}}"),
        ("\\text{Evelyn}", "\\boxed{Evelyn}"),
    ],
)
def test_right_and_boxed(gold, response):
    score = TASK.score(response, gold)
    assert (score.score, score.correct, score.format_ok) == (1.0, True, True)
    assert score.parts == {"strict": 1.0, "flexible": 0.0}


@pytest.mark.parametrize(
    ("gold", "response"), [("5", "The answer is 5."), ("\\pi", "It is $\\pi$.")]
)
def test_right_without_a_box(gold, response):
    score = TASK.score(response, gold)
    assert (score.score, score.format_ok) == (1.0, False)
    assert score.parts == {"strict": 0.0, "flexible": 1.0}


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("5", "\\boxed{5} or \\boxed{4}"),
        ("5", "<think>\\boxed{5}</think>Unknown."),
        ("5", "\\boxed{}"),
        ("5", "\\boxed{%}"),
        ("12", "\\boxed{1 2}"),
        ("5", ""),
        ("5", "\\boxed{٥}"),
        ("(0,1)", "\\boxed{[0,1]}"),
        ("(1,2)", "\\boxed{(2,1)}"),
        ("5", "\\boxed{" + "5" * 2000 + "}"),
        ("5", "\\boxed{__import__('os').getpid()}"),
    ],
)
def test_wrong(gold, response):
    assert TASK.score(response, gold).score == 0.0


@pytest.mark.seconds
@pytest.mark.parametrize("answer", ["10^{10^{10}}", "1000000!"])
def test_the_time_limit_is_hard_and_the_next_answer_is_scored(answer):
    start = time.monotonic()
    assert not TASK.score(f"\\boxed{{{answer}}}", "x+1").correct
    assert time.monotonic() - start < LIMIT_S + 10  # a process may have to start
    assert TASK.score("\\boxed{1+x}", "x+1").correct


def test_threads_and_event_loops_may_score():
    wanted = [(f"\\boxed{{{n}+x}}", f"x+{n % 7}", n < 7) for n in range(14)]

    def right(item: tuple[str, str, bool]) -> bool:
        return TASK.score(item[0], item[1]).correct == item[2]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(right, wanted))

    async def loop() -> list[bool]:
        return await asyncio.gather(*(asyncio.to_thread(right, item) for item in wanted))

    assert all(asyncio.run(loop()))


def test_a_worker_that_died_while_idle_costs_no_answer():
    assert TASK.score("\\boxed{1+x}", "x+1").correct
    worker = _math_pool._idle.queue[-1]
    worker.kill()
    worker.wait()
    assert TASK.score("\\boxed{1+x}", "x+1").correct


def test_a_forked_process_has_workers_of_its_own():
    assert TASK.score("\\boxed{1+x}", "x+1").correct
    child = os.fork()
    if child == 0:
        os._exit(0 if TASK.score("\\boxed{2+x}", "x+2").correct else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert TASK.score("\\boxed{1+x}", "x+1").correct


@pytest.mark.parametrize("gold", ["", " ", None, 5])
def test_a_malformed_ground_truth_is_an_error(gold):
    with pytest.raises(UserError, match="ground truth of math"):
        TASK.score("\\boxed{5}", gold)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"problem": "P", "solution": "\\boxed{}"}, "empty answer"),
        ({"problem": "P", "solution": "\\boxed{5}", "answer": ""}, "empty answer"),
        ({"problem": "P", "solution": "five"}, "empty answer"),
        ({"problem": "P", "solution": "\\boxed{5}", "level": "Level ?"}, "unknown level"),
        ({"problem": "", "solution": "\\boxed{5}"}, "malformed"),
        ({"problem": "P"}, "malformed"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_with_a_reason(row, reason):
    assert _from_row(row) == Dropped(reason, row)


def test_the_reference_is_the_solutions_box():
    matrix = "\\begin{pmatrix} 4 \\\\ -3 \\end{pmatrix}"
    mangled = "\\begin{pmatrix}4\\-3\\end{pmatrix}"
    problem = _from_row({"problem": "P", "solution": f"\\boxed{{{matrix}}}.", "answer": mangled})
    assert problem.ground_truth == matrix
    assert TASK.score(problem.solution, matrix).correct


@needs_real_data
def test_every_reference_answer_scores_one():
    rows = read("math/math500.jsonl")
    assert sum(TASK.score(row["solution"], row["answer"]).score == 1.0 for row in rows) == 500
    problems = [_from_row(row) for row in rows]
    assert sum(TASK.score(p.solution, p.ground_truth).score == 1.0 for p in problems) == 500


@needs_real_data
def test_math_verify_alone_finds_the_reference_answers_equal_to_themselves():
    answers = [row["answer"] for row in read("math/math500.jsonl")][::5]
    assert all(_math_pool.equal(f"\\boxed{{{a}}}", f"\\boxed{{{a}}}") for a in answers)
