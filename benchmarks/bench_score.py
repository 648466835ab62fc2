"""Speed of scoring and of preparation, on one core: ``python benchmarks/bench_score.py DATA``.

Scoring is timed in seconds of CPU time (other programs may share the core), preparation in seconds
of wall time.

``DATA`` holds ``gsm8k/`` and ``countdown/`` with ``train.jsonl`` and ``test.jsonl``. Prints one
JSON object: answers per second for each task and kind of response, seconds to prepare both tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from criticflow import config
from criticflow.stages.data import prepare
from criticflow.tasks import Problem, get_task

KINDS = ("countdown", "gsm8k")


def source(data: Path, kind: str) -> config.Source:
    return config.Source(files={s: str(data / kind / f"{s}.jsonl") for s in ("train", "test")})


def answers_per_second(kind: str, responses: list[tuple[str, str]], repeats: int = 3) -> float:
    """The best of some passes, each over all responses."""
    score = get_task(kind).score
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        for response, ground_truth in responses:
            score(response, ground_truth)
        best = min(best, time.process_time() - start)
    return round(len(responses) / best)


def responses(kind: str, data: Path, word: Callable[[str], str]) -> list[tuple[str, str]]:
    items = get_task(kind).problems(source(data, kind), "train")
    problems = [item for item in items if isinstance(item, Problem)]
    texts = [p.ground_truth if kind == "gsm8k" else json.dumps(p.ground_truth) for p in problems]
    return [(word(p.solution), text) for p, text in zip(problems, texts, strict=True)]


def unmarked(text: str) -> str:
    """The solution without the marks of our format: its answer is its last number."""
    return text.replace("</think>", "").replace("####", "It is")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    kinds = {
        "countdown, reference solutions": ("countdown", lambda text: text),
        "countdown, malformed": (
            "countdown",
            lambda text: text.replace("</answer>", " =</answer>"),
        ),
        "gsm8k, reference solutions (strict)": ("gsm8k", lambda text: text),
        "gsm8k, last number (flexible)": ("gsm8k", unmarked),
        "gsm8k, last number, 4000 characters": (
            "gsm8k",
            lambda text: ("And so on. " * 400 + unmarked(text))[-4000:],
        ),
    }
    figures: dict[str, float] = {
        f"{name}, answers/s": answers_per_second(kind, responses(kind, data, word))
        for name, (kind, word) in kinds.items()
    }
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        for kind in KINDS:
            task = config.Task(kind=kind, source=source(data, kind))
            prepare(kind, task, Path(out) / kind)
    figures["prepare all of gsm8k and countdown, s"] = round(time.perf_counter() - start, 2)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
