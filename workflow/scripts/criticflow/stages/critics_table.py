"""One table of all critics: the rows of each, and of references that need no critic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from criticflow.files import read_json, write_json
from criticflow.stages.truth_files import ACTOR, read_truth
from criticflow.stats import truth_table, value_rows


def write_critics_table(
    rows_json: Sequence[Path], truths: Sequence[Path], out: Path
) -> list[dict[str, Any]]:
    """Write ``critics.json``: a row per critic and actor, and the references of every actor.

    Args:
        rows_json: what :func:`criticflow.stages.judge.judge_critic` wrote, one file a critic.
        truths: folders of :mod:`criticflow.stages.value_truth`.

    Raises:
        UserError: a file is missing or broken.
    """
    rows = [row for path in rows_json for row in read_json(path)]
    for folder in truths:
        states, continuations, summary = read_truth(folder)
        actor = {key: summary[key] for key in ACTOR}
        gammas = {row["gamma"] for row in rows if all(row[key] == actor[key] for key in ACTOR)}
        for gamma in sorted(gammas | {summary["gamma"]}):
            rows += value_rows.reference_rows(
                {**actor, "gamma": gamma},
                truth_table.with_truth(states, continuations, gamma),
                continuations,
            )
    write_json(out, rows)
    return rows
