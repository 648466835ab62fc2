"""How far each training of a study is, read from files: nothing is locked or written.

Whoever trains names himself in the run's lock file. Of the other stages the log says that they were
begun and the output that they ended; whether they are at work then follows from whether a Snakemake
is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from criticflow.config import Config
from criticflow.runtime.run_lock import living_owner
from criticflow.training.log import attempts, read_rows

WAITING, STOPPED, DONE, IMPORTED = "waiting", "stopped", "done", "imported"
IMPORTS = "imported"
SCORE, SECONDS = "critic/score/mean", "timing_s/step"
VALIDATION = "val-core/"


@dataclass(frozen=True)
class Stage:
    """One job of a run and seed.

    Attributes:
        rule: that makes it, also as its benchmark tables name it.
        doing, done: words for a job at work and one that has ended.
        log, output: paths in the working directory.
    """

    rule: str
    doing: str
    done: str
    log: str
    output: str


@dataclass(frozen=True)
class State:
    """How far a run and seed is.

    Attributes:
        stage: what is being done, or was last.
        running: whether it is at work.
        step, steps: of its training.
        score: mean score of the last step's rollouts; None: there is none yet.
        validation: newest score on the validation split; None: there is none.
        pace: seconds of a step of this training; None: not known yet.
        left: rules whose jobs are still to do, the first one perhaps at work.
    """

    run: str
    seed: int
    stage: str
    running: bool
    step: int
    steps: int
    score: float | None
    validation: float | None
    pace: float | None
    left: tuple[str, ...]


def states(config: Config, directory: Path) -> list[State]:
    """Every training of a study, in its order.

    Args:
        directory: its working directory.
    """
    at_work = any((directory / ".snakemake/locks").glob("*"))
    return [state(config, directory, run, seed, at_work) for run, seed in config.run_seeds()]


def state(config: Config, directory: Path, run: str, seed: int, at_work: bool) -> State:
    """How far one training is, and what follows it.

    Args:
        at_work: whether a Snakemake works in the directory.
    """
    steps = config.runs[run].train.steps
    results = f"results/runs/{run}/seed{seed}/metrics.parquet"
    if not (directory / results).exists() and (directory / IMPORTS / results).exists():
        rows = _table(directory / IMPORTS / results)
        return State(run, seed, IMPORTED, False, steps, steps, *_scores(rows), None, ())
    todo = [one for one in stages(config, run, seed) if not (directory / one.output).exists()]
    checkpoints = directory / f"results/checkpoints/{run}/seed{seed}"
    trained = (directory / results).exists()
    rows = _table(directory / results) if trained else _logged(checkpoints / "metrics")
    step = max((int(row["step"]) for row in rows), default=0)
    left = tuple(one.rule for one in todo)
    stage, running = _stage(config, directory, run, seed, todo, at_work)
    if not trained and step and not running:
        stage = STOPPED
    pace = None if trained else _pace(rows)
    return State(run, seed, stage, running, step, steps, *_scores(rows), pace, left)


def stages(config: Config, run: str, seed: int) -> Iterator[Stage]:
    """The jobs of one run and seed, in their order."""
    where, settings = f"{run}/seed{seed}", config.runs[run]
    made = f"results/runs/{where}"
    yield Stage(
        "train_run", "training", "trained", f"logs/train_run/{where}.log", f"{made}/metrics.parquet"
    )
    has_critic = settings.leaves_critic
    for kind in ("actor", "critic") if has_critic else ("actor",):
        yield Stage(
            "convert_checkpoint",
            "converting",
            "converted",
            f"logs/convert_checkpoint/{where}/{kind}.log",
            f"{made}/{kind}",
        )
    yield Stage(
        "evaluate_run",
        "evaluating",
        "evaluated",
        f"logs/evaluate_run/{where}.log",
        f"results/eval/runs/{where}/summary.json",
    )
    if has_critic:
        yield Stage(
            "evaluate_critic",
            "testing critic",
            "critic tested",
            f"logs/evaluate_critic/{where}.log",
            f"results/eval/critics/{where}/summary.json",
        )
    if config.measures_truth(run):
        last = f"{where}/step{settings.train.steps}/{settings.task}"
        yield Stage(
            "truth_of_run",
            "measuring truth",
            "truth measured",
            f"logs/truth_of_run/{last}.log",
            f"results/truth/{last}/summary.json",
        )
        if has_critic:
            yield Stage(
                "judge_critic",
                "judging critic",
                "critic judged",
                f"logs/judge_critic/{where}.log",
                f"results/judged/{where}/rows.json",
            )


def _stage(
    config: Config, directory: Path, run: str, seed: int, todo: list[Stage], at_work: bool
) -> tuple[str, bool]:
    """What is or was done, and whether somebody is at it."""
    if not todo:
        return DONE, False
    if todo[0].rule == "train_run":
        at_it = living_owner(directory / f"results/checkpoints/{run}/seed{seed}") is not None
        return (todo[0].doing, True) if at_it else (WAITING, False)
    begun = [one for one in todo if (directory / one.log).exists()]
    if begun:
        return begun[0].doing if at_work else STOPPED, at_work
    ended = [one for one in stages(config, run, seed) if one not in todo]
    return ended[-1].done, False


def _scores(rows: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Of the newest rows that have them: the rollouts' score, and that on validation."""
    score = validation = None
    for row in rows:
        score = row.get(SCORE, score)
        found = [value for key, value in row.items() if _is_validation(key)]
        validation = sum(found) / len(found) if found else validation
    return score, validation


def _is_validation(column: str) -> bool:
    return column.startswith(VALIDATION) and "/mean@" in column


def _pace(rows: list[dict[str, Any]]) -> float | None:
    times = [row[SECONDS] for row in rows if row["step"] > 0 and SECONDS in row]
    times = times[1:] or times  # the first step of an attempt pays for start-up
    return sum(times) / len(times) if times else None


def _logged(folder: Path) -> list[dict[str, Any]]:
    """What a training has logged, over its attempts, in order of steps."""
    by_step: dict[int, dict[str, Any]] = {}
    for path in attempts(folder):
        for row in _lines(path, path.stat().st_mtime_ns):
            by_step[row["step"]] = by_step.get(row["step"], {}) | row["data"]
    return [{"step": step, **by_step[step]} for step in sorted(by_step)]


def _table(path: Path) -> list[dict[str, Any]]:
    return _parquet(path, path.stat().st_mtime_ns)


@lru_cache(10_000)
def _lines(path: Path, _changed: int) -> list[dict[str, Any]]:
    return read_rows(path)


@lru_cache(10_000)
def _parquet(path: Path, _changed: int) -> list[dict[str, Any]]:
    frame = pd.read_parquet(path)
    frame = frame[[name for name in frame if name in ("step", SCORE) or _is_validation(name)]]
    return [
        {key: value for key, value in row.items() if not pd.isna(value)}
        for row in frame.to_dict("records")
    ]
