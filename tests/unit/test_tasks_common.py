"""Finding a task, wording a prompt, and what responses of any shape do to every scorer."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from criticflow import config, tasks
from criticflow.errors import UserError
from criticflow.tasks import Problem, chat, get_task

GROUND_TRUTH = {
    "countdown": {"numbers": [8, 2], "target": 10},
    "gsm8k": "10",
    "math": "10",
    "search": {"answers": ["10"]},
}
MARK = {
    "countdown": "<answer>",
    "gsm8k": "####",
    "math": "\\boxed{}",
    "search": "<answer>",
}
"""What the task's own prompt says about where the answer stands."""
RIGHT = {
    "countdown": "<answer>8 + 2</answer>",
    "gsm8k": "#### 10",
    "math": "\\boxed{10}",
    "search": "<answer>10</answer>",
}
PROBLEM = Problem("2 8 = 10", {"numbers": "8 2", "target": 10}, GROUND_TRUTH["countdown"])


def test_every_kind_of_task_is_tried_here():
    found = Path(tasks.__file__).parent.glob("[a-z]*.py")
    assert {path.stem for path in found} == GROUND_TRUTH.keys() == MARK.keys() == RIGHT.keys()


def task(**settings: object) -> config.Task:
    source = config.Source(generate=config.Generate())
    return config.Task(kind="countdown", source=source, **settings)


# A dialogue with a search engine ends with its first answer, wherever that stands.
@pytest.mark.parametrize("kind", sorted(RIGHT.keys() - {"search"}))
def test_an_answer_counts_outside_of_the_reasoning_alone(kind):
    for response, correct in (
        (RIGHT[kind], True),
        (f"<think>Hm.</think> {RIGHT[kind]}", True),
        (f"<think>{RIGHT[kind]}</think> It is hard to say.", False),
    ):
        assert get_task(kind).score(response, GROUND_TRUTH[kind]).correct is correct, response


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


@pytest.mark.parametrize("kind", GROUND_TRUTH)
def test_default_prompts_ask_for_reasoning_and_an_answer_format(kind):
    prompt = get_task(kind).prompt.format(numbers="8 2", target=10, question="Q", problem="P")
    assert "<think>" in prompt
    assert MARK[kind] in prompt


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
            score = get_task(kind).score(response, GROUND_TRUTH[kind])
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.05
        assert 0 <= score.score < 1
        assert not score.correct


@pytest.mark.parametrize("kind", GROUND_TRUTH)
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
        get_task(kind).score(response, GROUND_TRUTH[kind])
    assert not path.exists()


def test_nothing_here_imports_torch():
    code = (
        "import sys, criticflow.stages.data, criticflow.verl_plugin.reward\n"
        "import criticflow.score, criticflow.tasks as t\n"
        f"[t.get_task(k) for k in {[*GROUND_TRUTH]}]\n"
        "assert not {'torch', 'vllm', 'verl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
