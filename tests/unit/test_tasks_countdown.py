"""Countdown: generator, solver, score."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from itertools import permutations, product

import pytest

from criticflow.config import Generate, Source
from criticflow.errors import UserError
from criticflow.tasks import Dropped, get_task
from criticflow.tasks._arithmetic import MAX_LENGTH, numbers, parse, value
from criticflow.tasks._countdown_problems import generate, solve
from criticflow.tasks.countdown import _from_row, without_last_number
from real_data import needs_real_data, read
from task_example import TaskExample

TASK = get_task("countdown")
EXAMPLE = TaskExample(
    fields={"numbers": "8 2", "target": 10},
    mark="<answer>",
    ground_truth={"numbers": [8, 2], "target": 10},
    right="<answer>8 + 2</answer>",
)
TRUTH = {"numbers": [3, 5, 2], "target": 16}


def score(answer: str, truth: object = TRUTH) -> float:
    return TASK.score(f"<answer>{answer}</answer>", truth).score


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<answer>(3+5)*2</answer>", 1.0),
        ("<answer> ( 3 + 5 ) * 2 = 16 </answer>", 1.0),
        ("<answer>\n(3 + 5)\n* 2\n</answer>", 1.0),
        ("<answer>-(-3 - 5) * 2</answer>", 1.0),
        ("<answer>1+1</answer> or <answer>(3+5)*2</answer>", 1.0),
        ("<answer>(3+5)*2</answer> or <answer>3+5+2</answer>", 0.2),
        ("<answer>(3+5)*2</answer> or <answer>what?</answer>", 0.0),
        ("<answer>(3+5)*2</answer> and <answer>3+", 1.0),
        ("<answer><answer>(3+5)*2</answer></answer>", 1.0),
        ("<think><answer>(3+5)*2</answer></think>", 0.0),
        ("<think><answer>1</answer></think><answer>(3+5)*2</answer>", 1.0),
        ("<think><answer>(3+5)*2</answer>", 1.0),
        ("</think><answer>(3+5)*2</answer>", 1.0),
        ("(3+5)*2", 0.0),
        ("", 0.0),
    ],
)
def test_which_answer_counts(response, expected):
    assert TASK.score(response, TRUTH).score == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("3 + 5 + 2", 0.2),
        ("3 * 5", 0.1),
        ("8 * 2", 0.1),
        ("(3+5)*2*1", 0.1),
        ("(3+5)*2 + 3 - 3", 0.1),
        ("35 - 2", 0.1),
        ("5/(3-3)", 0.1),
        ("16", 0.1),
        ("(3+5)*2 = 17", 0.0),
        ("16 = (3+5)*2", 0.0),
        ("(3+5)*2 = 16 = 16", 0.0),
        ("3**5", 0.0),
        ("5//3", 0.0),
        ("(3+5)2", 0.0),
        ("+3+5*2", 0.0),
        ("3.0+5*2", 0.0),
        ("(3+5)×2", 0.0),
        ("(\uff13+5)*2", 0.0),
        ("(٣+5)*2", 0.0),
        ("(3+5)*02", 0.0),
        ("(3+5)*2_0", 0.0),
        ("(3+5)*2j", 0.0),
        ("(3,5,2)", 0.0),
        ("x*2", 0.0),
        ("()", 0.0),
        ("9**9**9", 0.0),
        ("9" * MAX_LENGTH, 0.1),
        ("9" * (MAX_LENGTH + 1), 0.0),
        ("(" * 90 + "3" + ")" * 90, 0.1),
        ("-" * 100 + "3", 0.0),
    ],
)
def test_partial_credit(answer, expected):
    assert score(answer) == expected


def test_division_is_exact():
    assert score("8 / (3 - 8/3)", {"numbers": [3, 3, 8, 8], "target": 24}) == 1.0
    assert score("5/(3-3)*2", {"numbers": [3, 3, 5, 2], "target": 1}) == 0.2
    big = 10**15
    assert score(f"({big}+1)/{big}", {"numbers": [1, big, big], "target": 1}) == 0.2


def test_parts_add_up_to_the_score():
    for answer in ("(3+5)*2", "3+5+2", "3", "?"):
        result = TASK.score(f"<answer>{answer}</answer>", TRUTH)
        assert list(result.parts) == ["format", "numbers", "value"]
        assert sum(result.parts.values()) == result.score
        assert result.format_ok == (answer != "?")
        assert result.correct == (answer == "(3+5)*2")


def test_ground_truth_may_be_json_text():
    assert score("(3+5)*2", json.dumps(TRUTH)) == 1.0


@pytest.mark.parametrize(
    "truth", ["", "16", "{}", None, {"numbers": [1]}, {"numbers": 1, "target": 1}]
)
def test_a_malformed_ground_truth_is_an_error(truth):
    with pytest.raises(UserError, match="ground truth of countdown"):
        score("1", truth)


def test_generated_problems_are_distinct_solved_and_within_limits():
    settings = Generate(problems=500)
    problems = list(TASK.problems(Source(generate=settings), "all"))
    assert len({problem.key for problem in problems}) == 500
    for problem in problems:
        given, target = problem.ground_truth["numbers"], problem.ground_truth["target"]
        assert len(given) in (2, 3)
        assert all(1 <= number <= 9 for number in given)
        assert 1 <= target <= 99
        assert solve(given, target) is not None
        assert len(problem.solution) <= 16 + len("<answer></answer>")
        assert TASK.score(problem.solution, problem.ground_truth).score == 1.0
        assert problem.fields == {"numbers": " ".join(map(str, given)), "target": target}


def test_the_generator_depends_on_its_seed_alone():
    def made(seed: int) -> list[object]:
        return list(generate(Generate(problems=50, seed=seed)))

    assert made(0) == made(0)
    assert made(0) != made(1)


def test_asking_for_more_problems_than_there_are_says_how_many_there_are():
    # Two numbers from 1 to 3: six pairs, whose positive integer results are counted by hand.
    results = {
        (a, b): {v for v in (a + b, a - b, b - a, a * b, a / b, b / a) if v > 0 and v == int(v)}
        for a in range(1, 4)
        for b in range(a, 4)
    }
    there_are = sum(map(len, results.values()))
    settings = Generate(numbers=[2], high=3, problems=there_are)
    assert len(list(generate(settings))) == there_are
    with pytest.raises(UserError, match=f"only about {there_are} "):
        list(generate(settings.model_copy(update={"problems": there_are + 1})))


def test_an_empty_range_is_an_error():
    with pytest.raises(UserError, match="low 9 is above high 1"):
        next(generate(Generate(low=9, high=1)))


def _values(given: tuple[int, ...]) -> set[Fraction]:
    """Every value of three numbers, the long way round."""
    texts = (
        shape.format(a=a, b=b, c=c, p=p, q=q)
        for a, b, c in set(permutations(given))
        for p, q in product("+-*/", repeat=2)
        for shape in ("({a}{p}{b}){q}{c}", "{a}{p}({b}{q}{c})")
    )
    return {value(parse(text)) for text in texts} - {None}


@pytest.mark.parametrize("given", [(1, 2, 3), (3, 3, 8), (4, 6, 9), (7, 7, 7), (0, 5, 5)])
def test_the_solver_is_complete_and_sound(given):
    reachable = _values(given)
    for target in range(1, 120):
        found = solve(given, target)
        assert (found is not None) == (target in reachable)
        if found is not None:
            tree = parse(found)
            assert value(tree) == target
            assert numbers(tree) == sorted(given)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"nums": [1, 1], "target": 5}, "unsolvable"),
        ({"nums": [1, 1]}, "malformed"),
        ({"nums": [], "target": 5}, "malformed"),
        ({"nums": [1, None], "target": 5}, "malformed"),
        ({"nums": [1.5, 2], "target": 3}, "malformed"),
        ({"nums": "one two", "target": 3}, "malformed"),
        ({"nums": [1] * 9, "target": 9}, "malformed"),
    ],
)
def test_rows_that_cannot_be_used_are_dropped_with_a_reason(row, reason):
    assert _from_row(row) == Dropped(reason, row)


def test_a_wrong_hint_is_replaced_by_the_solver():
    problem = _from_row({"nums": [8, 2], "target": 10, "hint": ["the final equation is 8 - 2"]})
    assert TASK.score(problem.solution, problem.ground_truth).correct


@needs_real_data
def test_every_reference_solution_scores_one():
    problems = [_from_row(row) for s in ("train", "test") for row in read(f"countdown/{s}.jsonl")]
    right = [TASK.score(p.solution, p.ground_truth).score == 1.0 for p in problems]
    assert (sum(right), len(right)) == (11264, 11264)
    assert all(p.solution.startswith("<think>") for p in problems)  # the source's, not the solver's


@pytest.mark.parametrize(
    ("expression", "shorter"),
    [
        ("12+7-4", "12+7"),
        ("(2+3)*4", "(2+3)"),
        ("9-(2+3)", "9"),
        ("1 + 2 - 3 - 4", "1 + 2 - 3"),
        ("12+7", None),
        ("nothing", None),
    ],
)
def test_a_careless_solution_is_well_formed_and_leaves_numbers_out(expression, shorter):
    solution = f"<think>so</think><answer>{expression}</answer>"
    careless = without_last_number(solution)
    if shorter is None:
        assert careless is None
        return
    assert careless == f"<think>so</think><answer>{shorter}</answer>"
    numbers = [int(number) for number in re.findall(r"\d+", expression)]
    score = TASK.score(careless, {"numbers": numbers, "target": 1})
    assert score.format_ok and not score.correct
    assert score.parts["numbers"] == 0
    assert without_last_number(expression) is None  # no answer that it could shorten


def test_two_numbers_are_left_alone_unless_asked_for():
    solution = "<answer>12+7</answer>"
    assert without_last_number(solution) is None
    assert without_last_number(solution, 2) == "<answer>12</answer>"
    assert without_last_number("<answer>12</answer>", 2) is None
