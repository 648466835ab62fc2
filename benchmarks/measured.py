"""What a finished `make run` took, and what came out, as the tables of the README.

    python benchmarks/measured.py [DIRECTORY]

Reads results/benchmarks/, results/runs/ and results/summary.json below DIRECTORY (default: here).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

PARTS = {
    "rollouts": ["gen"],
    "log-probabilities and values": ["old_log_prob", "ref", "values"],
    "update of the critic": ["update_critic"],
    "update of the actor": ["update_actor"],
    "new weights to vLLM": ["update_weights"],
}


def main(root: Path) -> None:
    metrics = sorted(root.glob("results/runs/*/seed*/metrics.parquet"))
    record = json.loads(metrics[0].with_name("provenance.json").read_text())
    machine = record["attempts"][0]["machine"]
    print(f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, no GPU.\n")

    table = [stage(root, path) for path in sorted((root / "results/benchmarks").rglob("*.tsv"))]
    print(pd.DataFrame(table).to_markdown(index=False, floatfmt=".1f"))
    print(f"\nSum of all jobs: {sum(row['seconds'] for row in table) / 60:.1f} min.\n")

    steps = pd.DataFrame([step(path) for path in metrics])
    print(steps.to_markdown(index=False, floatfmt=".2f"), "\n")

    rows = pd.DataFrame(json.loads((root / "results" / "summary.json").read_text()))
    for row in rows.to_dict("records"):
        print({key: value for key, value in row.items() if value == value})


def stage(root: Path, path: Path) -> dict[str, object]:
    """Wall time of a job, and of training without its steps: the start of verl and vLLM."""
    name = path.relative_to(root / "results/benchmarks").with_suffix("").as_posix()
    job = pd.read_csv(path, sep="\t").iloc[0]
    row: dict[str, object] = {"job": name, "seconds": float(job["s"])}
    if name.startswith("train_run/"):
        metrics = pd.read_parquet(root / "results/runs" / name[10:] / "metrics.parquet")
        row["of it start and end"] = row["seconds"] - metrics["timing_s/step"].sum()
    row["peak GiB"] = pd.to_numeric(job["max_pss"], errors="coerce") / 1024
    return row


def step(path: Path) -> dict[str, object]:
    """Median seconds of a PPO step and of its parts."""
    median = pd.read_parquet(path).filter(like="timing_s/").median()
    row = {"run": path.parent.relative_to(path.parents[2]), "step": median["timing_s/step"]}
    for name, keys in PARTS.items():
        row[name] = sum(median.get(f"timing_s/{key}", 0.0) for key in keys)
    return row


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
