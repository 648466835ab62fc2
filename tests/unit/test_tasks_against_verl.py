"""Our scorers beside verl's: equal on the reference solutions, and where they differ, and why.

``docs/scoring.md`` shows the tables below; this file, run as a program, prints them.
verl has no scorer for Countdown.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from criticflow.tasks import get_task
from real_data import needs_real_data, read


class Case(NamedTuple):
    """A response, the reference, our score, verl's two, and why they differ (or agree)."""

    response: str
    gold: str
    ours: float
    verl: tuple[float, float]
    why: str


GSM8K = [
    Case("#### 1080", "1080", 1, (1, 1), "agree"),
    Case("#### 1,080", "1080", 1, (1, 0), "thousands separator"),
    Case("#### $1080", "1080", 1, (0, 1), "currency before the number"),
    Case("#### 1080.", "1080", 1, (0, 0), "a full stop is no part of the number"),
    Case("#### 1080.00", "1080", 1, (0, 0), "compared by value"),
    Case("#### 1080%", "1080", 1, (1, 1), "agree: the unit does not matter"),
    Case("#### **1080**", "1080", 1, (0, 1), "Markdown around the number"),
    Case("####1080", "1080", 1, (0, 1), "the space is optional"),
    Case("#### \\boxed{1080}", "1080", 1, (0, 1), "a box around the number"),
    Case("#### −1080", "-1080", 1, (0, 0), "U+2212 is a minus sign"),
    Case("#### 540 + 540 = 1080", "1080", 1, (0, 1), "the right-hand side is the answer"),
    Case("\\boxed{1080}", "1080", 1, (0, 1), "a box counts, without format_ok"),
    Case("The answer is 1080.", "1080", 1, (0, 0), "the last number counts, without format_ok"),
    Case("#### 1080" + " ok" * 200, "1080", 1, (0, 0), "verl reads the last 300 characters"),
    Case("#### 1080\nNo: \\boxed{5}", "1080", 0, (1, 0), "the last answer wins"),
    Case("<think>#### 1080</think>?", "1080", 0, (1, 1), "reasoning is no answer"),
    Case("#### 1080/2", "1080", 0, (1, 0), "1080/2 is not 1080"),
    Case("#### 1080e3", "1080", 0, (1, 0), "1080e3 is not 1080"),
    Case("#### ١٠٨٠", "1080", 0, (0, 0), "agree: ASCII digits only"),
]
MATH = [
    Case("\\boxed{5}", "5", 1, (1, 1), "agree"),
    Case("\\boxed{0.5}", "\\frac{1}{2}", 1, (1, 0), "compared by value"),
    Case("\\boxed{\\sqrt{117}}", "3\\sqrt{13}", 1, (0, 0), "compared by value"),
    Case("\\boxed{1+x}", "x+1", 1, (0, 0), "order of terms"),
    Case("\\boxed{2, 1}", "1,2", 1, (0, 0), "a list of solutions has no order"),
    Case("\\boxed{[0,1]}", "(0,1)", 0, (0, 0), "agree: intervals differ"),
    Case("\\boxed{17\\%}", "17", 1, (1, 0), "asked for a percentage, the sign is optional"),
    Case("\\boxed{60^\\circ}", "60", 1, (1, 0), "degrees"),
    Case("\\boxed{7\\text{ hours}}", "7", 1, (1, 0), "units"),
    Case("\\boxed{Evelyn}", "\\text{Evelyn}", 1, (0, 0), "the font of a word"),
    Case("\\boxed{10{,}080}", "10080", 1, (0, 0), "thousands separator"),
    Case("\\boxed{2^{10}}", "1024", 1, (0, 0), "math-verify evaluates"),
    Case("The answer is 5.", "5", 1, (0, 0), "found without a box, without format_ok"),
    Case("Answer: 5", "5", 1, (0, 1), "found without a box, without format_ok"),
    Case("\\boxed{5}" + " ok" * 200, "5", 1, (1, 0), "math_dapo reads the last 300 characters"),
    Case("\\boxed{5} or \\boxed{4}", "5", 0, (0, 0), "agree: the last answer wins"),
    Case("<think>\\boxed{5}</think>?", "5", 0, (1, 1), "reasoning is no answer"),
    Case("\\boxed{10^{10^{10}}}", "5", 0, (0, 0), "agree: ours after its time limit"),
]


@pytest.mark.parametrize("case", GSM8K, ids=lambda case: ascii(case.response[:30]))
def test_gsm8k_variants(case):
    verl = pytest.importorskip("verl.utils.reward_score.gsm8k")
    assert get_task("gsm8k").score(case.response, case.gold).score == case.ours
    theirs = [
        verl.compute_score(case.response, case.gold, method=m) for m in ("strict", "flexible")
    ]
    assert tuple(theirs) == case.verl


@pytest.mark.parametrize("case", MATH, ids=lambda case: ascii(case.response[:30]))
def test_math_variants(case):
    math_reward = pytest.importorskip("verl.utils.reward_score.math_reward")
    math_dapo = pytest.importorskip("verl.utils.reward_score.math_dapo")
    assert get_task("math").score(case.response, case.gold).score == case.ours
    assert math_reward.compute_score(case.response, case.gold) == case.verl[0]
    assert math_dapo.compute_score(case.response, case.gold)["acc"] == case.verl[1]


@needs_real_data
@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_gsm8k_reference_answers(split, rows):
    verl = pytest.importorskip("verl.utils.reward_score.gsm8k")
    ours = theirs = 0
    for row in read(f"gsm8k/{split}.jsonl"):
        gold = row["answer"].rpartition("####")[2].strip().replace(",", "")
        ours += get_task("gsm8k").score(row["answer"], gold).score == 1.0
        theirs += verl.compute_score(row["answer"], gold) == 1.0
    assert ours == theirs == rows


@needs_real_data
def test_math_reference_solutions():
    math_reward = pytest.importorskip("verl.utils.reward_score.math_reward")
    rows = read("math/math500.jsonl")
    ours = sum(get_task("math").score(row["solution"], row["answer"]).score for row in rows)
    theirs = sum(math_reward.compute_score(row["solution"], row["answer"]) for row in rows)
    assert ours == theirs == 500


def table(cases: list[Case], first: str, second: str) -> str:
    """The cases as Markdown."""
    lines = [
        f"| response | reference | ours | {first} | {second} | why |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        shown = case.response if len(case.response) < 40 else case.response[:15] + " ok ok ..."
        cells = (
            f"`{shown}`".replace("\n", "⏎"),
            f"`{case.gold}`",
            *(f"{score:g}" for score in (case.ours, *case.verl)),
            case.why,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def documented() -> str:
    """The part of ``docs/scoring.md`` that is generated from the cases."""
    return (
        "### GSM8K\n\n"
        + table(GSM8K, "verl `gsm8k` strict", "verl `gsm8k` flexible")
        + "\n\n### MATH\n\n"
        + table(MATH, "verl `math_reward`", "verl `math_dapo`")
        + "\n"
    )


def test_the_document_shows_these_cases():
    from pathlib import Path

    text = Path(__file__).parents[2].joinpath("docs", "scoring.md").read_text(encoding="utf-8")
    assert documented() in text


if __name__ == "__main__":
    print(documented(), end="")
