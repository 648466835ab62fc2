"""What of a study was trained elsewhere, and what its rows cannot give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from criticflow.report.results import Results


def told(results: Results) -> list[str]:
    """A sentence for every export that runs came with, and one on what they lack."""
    index = results.imported
    if index is None:
        return []
    entries = {
        (run, int(seed)): entry
        for run, seeds in index["runs"].items()
        for seed, entry in seeds.items()
        if f"{run}/seed{seed}" in results.provenance
    }
    lines = []
    for number, export in enumerate(index["exports"]):
        mine = [one for one, entry in entries.items() if entry["export"] == number]
        if mine:
            commit = str(export["git"]["commit"])[:12]
            lines.append(
                f"Imported from {export['file']} (made {export['made']} on {export['host']}, "
                f"commit {commit}): {_runs(mine)}."
            )
    without = [one for one, entry in entries.items() if not _has_critic(entry)]
    if without:
        lines.append(
            f"Of {len(without)} imported {'training' if len(without) == 1 else 'trainings'} there "
            "are rows and no weights here: their responses are not shown token by token, and no "
            "truth about them can be measured anew. Contrasts, arms, savings and curves count them "
            "as all others."
        )
    return lines


def _has_critic(entry: Mapping[str, Any]) -> bool:
    return any("/critic/" in file for file in entry["files"])


def _runs(pairs: Sequence[tuple[str, int]]) -> str:
    """``cold, seeds 0, 1, 2; warm, seed 0``."""
    seeds: dict[str, list[int]] = {}
    for run, seed in pairs:
        seeds.setdefault(run, []).append(seed)
    return "; ".join(
        f"{run}, seed{'' if len(some) == 1 else 's'} {', '.join(map(str, sorted(some)))}"
        for run, some in seeds.items()
    )
