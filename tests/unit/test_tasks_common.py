"""Finding a task, wording a prompt, and what responses of any shape do to every scorer."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from criticflow import config, tasks
from criticflow.errors import UserError
from criticflow.tasks import Problem, chat, get_task
from task_example import TaskExample

KINDS = sorted(path.stem for path in Path(tasks.__file__).parent.glob("[a-z]*.py"))


def example(kind: str) -> TaskExample:
    """The example that the kind's own tests have."""
    return importlib.import_module(f"test_tasks_{kind}").EXAMPLE


COUNTDOWN = example("countdown")
PROBLEM = Problem("2 8 = 10", COUNTDOWN.fields, COUNTDOWN.ground_truth)


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_response_of_every_kind_is_right(kind):
    score = get_task(kind).score(example(kind).right, example(kind).ground_truth)
    assert (score.score, score.correct) == (1.0, True)


def task(**settings: object) -> config.Task:
    source = config.Source(generate=config.Generate())
    return config.Task(kind="countdown", source=source, **settings)


# A dialogue with a search engine ends with its first answer, wherever that stands.
@pytest.mark.parametrize("kind", sorted({*KINDS} - {"search"}))
def test_an_answer_counts_outside_of_the_reasoning_alone(kind):
    right = example(kind).right
    for response, correct in (
        (f"<think>Hm.</think> {right}", True),
        (f"<think>{right}</think> It is hard to say.", False),
    ):
        score = get_task(kind).score(response, example(kind).ground_truth)
        assert score.correct is correct, response


@pytest.mark.parametrize("kind", ["chess", "_rows", "base", "a.b", ""])
def test_an_unknown_kind_is_named(kind):
    with pytest.raises(UserError, match="no task kind"):
        get_task(kind)


def test_a_prompt_can_be_overridden_and_preceded_by_a_system_message():
    messages = chat(task(prompt="{numbers} = {target}", system="Be brief."), PROBLEM)
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "8 2 = 10"},
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_default_prompts_ask_for_reasoning_and_an_answer_format(kind):
    prompt = get_task(kind).prompt.format(**example(kind).fields)
    assert "<think>" in prompt
    assert example(kind).mark in prompt


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("{number}", "unknown field {number}; the task has {numbers}, {target}"),
        ("{numbers.__class__}", "unknown field"),
        ("\\boxed{}", "unknown field {}"),
        ("{numbers", "write {{ and }} for braces"),
        ("Hello", "names no field"),
    ],
)
def test_a_wrong_prompt_template_says_what_is_wrong(prompt, says):
    with pytest.raises(UserError) as caught:
        chat(task(prompt=prompt), PROBLEM)
    assert says in str(caught.value)


BITS = [
    *("#", "####\n", "#### ", "9", "1,", "-$", "=1", "{", "}", "(", "1+", "**", " "),
    *("\\boxed{", "\\boxed{1}", "\\text{", "<answer>", "</answer>", "<think>", "</think>"),
    *("\u0664", "\ud800", "\x00"),
]


@pytest.mark.parametrize("bit", BITS, ids=ascii)
@pytest.mark.parametrize("kind", ["countdown", "gsm8k"])
def test_huge_responses_get_a_score_quickly(kind, bit):
    huge = bit * (1_000_000 // len(bit))
    for response in (huge, f"<answer>{huge}</answer>", f"#### {huge}", f"\\boxed{{{huge}}}"):
        seconds = []
        for _ in range(3):  # the best of three: garbage collection may fall into one
            start = time.process_time()
            score = get_task(kind).score(response, example(kind).ground_truth)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.05
        assert 0 <= score.score < 1
        assert not score.correct


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('touch {path}')",
        "open('{path}', 'w')",
        "(lambda: 10)()",
        "10 if open('{path}', 'w') else 10",
        "8+2;import os",
    ],
)
def test_code_is_not_executed(kind, answer, tmp_path):
    path = tmp_path / "executed"
    code = answer.replace("{path}", str(path))
    for response in (code, f"<answer>{code}</answer>", f"#### {code}", f"\\boxed{{{code}}}"):
        get_task(kind).score(response, example(kind).ground_truth)
    assert not path.exists()


def test_nothing_here_imports_torch():
    code = (
        "import sys, criticflow.stages.data, criticflow.verl_plugin.reward\n"
        "import criticflow.score, criticflow.tasks as t\n"
        f"[t.get_task(k) for k in {KINDS}]\n"
        "assert not {'torch', 'vllm', 'verl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
