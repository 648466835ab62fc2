"""One table of all critics: the rows of each, and of references that need no critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from criticflow.files import read_json, write_json
from criticflow.stages.token_gradients import read_token_products
from criticflow.stages.truth_files import ACTOR, read_further, read_truth
from criticflow.stats import truth_table, value_rows

REFERENCES = "references.json"
"""In the folder of a truth that was imported."""


def write_critics_table(
    rows_json: Sequence[Path], truths: Sequence[Path], out: Path, gradients: bool = True
) -> list[dict[str, Any]]:
    """Write ``critics.json``: a row per critic and actor, and the references of every actor.

    Args:
        rows_json: what :func:`criticflow.stages.judge.judge_critic` wrote, one file a critic.
        truths: folders of :mod:`criticflow.stages.value_truth`, or of imported truths.
        gradients: compare policy gradients too, where a truth has those of its tokens.

    Raises:
        UserError: a file is missing or broken.
    """
    rows = [row for path in rows_json for row in read_json(path)]
    for folder in truths:
        rows += references(folder, rows, gradients)
    write_json(out, rows)
    return rows


def references(
    folder: Path, rows: Sequence[Mapping[str, Any]], gradients: bool = True
) -> list[dict[str, Any]]:
    """Rows of one actor's references, at every discount of the critics that are compared with it.

    Args:
        folder: of :mod:`criticflow.stages.value_truth`, or of a truth that was imported, whose
            references are all that is known of it.
        rows: those of critics.
    """
    if (known := folder / REFERENCES).is_file():
        return read_json(known)
    states, continuations, summary = read_truth(folder)
    actor = {key: summary[key] for key in ACTOR}
    gammas = {row["gamma"] for row in rows if all(row[key] == actor[key] for key in ACTOR)}
    further = value_rows.Further(
        read_further(folder, "piece"),
        read_further(folder, "token"),
        read_token_products(folder) if gradients else None,
    )
    return [
        row
        for gamma in sorted(gammas | {summary["gamma"]})
        for row in value_rows.reference_rows(
            {**actor, "gamma": gamma},
            truth_table.with_truth(states, continuations, gamma),
            continuations,
            further=further,
        )
    ]
