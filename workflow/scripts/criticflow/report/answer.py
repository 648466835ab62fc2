"""The question of a study, and what its statistics allow to answer, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from criticflow.config import Config
from criticflow.stats.contrasts import FEWEST_SEEDS

Row = Mapping[str, Any]

SAVED = "What was the saved critic worth?"
ANY = "What does the first contrast of this study say?"


@dataclass(frozen=True)
class Answer:
    """The first words of a report.

    Attributes:
        question: what the primary contrast asks.
        sentence: the answer; one sentence.
        details: what was measured, what would give a clearer answer, and for what the answer holds.
    """

    question: str
    sentence: str
    details: list[str]


def answer(config: Config, contrasts: Sequence[Row], arms: Sequence[Row]) -> Answer:
    """The answer that the first contrast gives.

    Args:
        contrasts: rows of ``contrasts.json``, the primary first.
        arms: rows of ``arms.json``.
    """
    if not contrasts:
        return Answer(
            SAVED,
            "Nothing was compared: the configuration declares no contrasts.",
            ["Write under contrasts which two arms to compare; the figures below stand alone."],
        )
    row = contrasts[0]
    saved = _saved(config, row)
    details = [_measured(row, arms), *_more(row), _condition(config, row)]
    return Answer(
        SAVED if saved else ANY, _sentence(row, saved), [text for text in details if text]
    )


def differences(row: Row) -> str:
    """``+0.041 [+0.012, +0.070]``; without bounds where there are none."""
    found = row["difference"]
    bounds = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{found['value']:+.3f}{bounds}"


def seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _saved(config: Config, row: Row) -> bool:
    """Whether the contrast compares a run that has a saved critic with the same run without it."""
    critics = [
        config.runs[arm].critic if arm in config.runs else None for arm in (row["a"], row["b"])
    ]
    origins = [
        bool(critic and (critic.from_run or critic.pretrained or critic.path)) for critic in critics
    ]
    return origins == [True, False] and row["differs_in"] == "critic source"


def _sentence(row: Row, saved: bool) -> str:
    a, b, metric = row["a"], row["b"], row["metric"]
    if len(row["seeds"]) < FEWEST_SEEDS or row["p"] is None:
        return (
            f"No claim: with {seeds(len(row['seeds']))} the difference between {a} and {b} cannot "
            "be told from the luck of a seed."
        )
    verdict, told = row["verdict"].partition(":")[0], f"{differences(row)} in {metric}"
    if row["kind"] == "bundle":
        return f"No answer about the critic alone: {row['verdict']}."
    if verdict in ("better", "worse"):
        if saved:
            worth = "It helped" if verdict == "better" else "It did harm"
            return f"{worth}: {told} for {a} against {b}, over {seeds(len(row['seeds']))}."
        return f"{a} is {verdict} than {b}: {told}, over {seeds(len(row['seeds']))}."
    if verdict.startswith("no difference"):
        return f"No difference was seen between {a} and {b} over {seeds(len(row['seeds']))}."
    return f"Undecided: {told} for {a} against {b}, over {seeds(len(row['seeds']))}."


def _measured(row: Row, arms: Sequence[Row]) -> str:
    """The figures of both arms."""
    means = {arm["arm"]: arm for arm in arms if arm["metric"] == row["metric"]}
    if row["a"] not in means or row["b"] not in means:
        return ""
    first, second = (means[row[side]]["mean"]["value"] for side in ("a", "b"))
    return (
        f"Measured: {row['metric']} {first:.3f} for {row['a']} and {second:.3f} for {row['b']} "
        f"(difference {row['difference']['value']:+.3f}), on {row['problems']} test problems with "
        f"{seeds(len(row['seeds']))}."
    )


def _more(row: Row) -> list[str]:
    """What would give a clearer answer."""
    if len(row["seeds"]) < FEWEST_SEEDS or row["p"] is None:
        return [f"A claim needs at least {FEWEST_SEEDS} seeds, fixed before the study is run."]
    verdict, _, rest = row["verdict"].partition(": ")
    if verdict.endswith("and small"):
        return [f"The difference is small: {rest}."]
    return [f"{rest[0].upper()}{rest[1:]}."] if verdict.startswith("undecided") else []


def _condition(config: Config, row: Row) -> str:
    run = config.runs.get(row["a"])
    if run is None:
        return ""
    return (
        f"What is said here holds for the base model {run.model} on {run.task}, trained as "
        "configured; another model, task or budget may differ."
    )
