"""The report: tables, curves, and a page that needs no network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from snake import RUNS, finish, planned, snakemake

from criticflow.report.curves import plot_curves
from criticflow.report.probe_page import write_probe
from criticflow.report.provenance_page import notes, write_provenance
from criticflow.report.tables import write_critics, write_results
from criticflow.training import provenance

ROWS = [
    {"name": "tiny", "kind": "base", "seed": None, "pass@1": 0.4, "pass@4": 0.7},
    {
        "name": "cold",
        "kind": "run",
        "seed": 0,
        "pass@1": 0.55,
        "pass@4": 0.75,
        "model": "tiny",
        "difference": {"pass@1": {"value": 0.15, "low": 0.11, "high": 0.19}},
        "comparison": {
            "pass@1": {"base": 0.4, "trained": 0.55, "absolute": 0.15, "relative": 0.375}
        },
        "warnings": ["entropy 0.005 is under 0.01 nats a token: mode collapse"],
    },
]
COMMON = {
    "task": "countdown-mini",
    "n_prompts": 512,
    "mean_accuracy": 0.6,
    "avg_entropy": 0.3,
    "format_rate": 0.99,
    "response_length": 22.5,
}

CRITIC = {
    "seed": 0,
    "n_prompts": 512,
    "tokens": {
        "mean_value": 0.5,
        "mean_return": 0.6,
        "explained_variance": {"value": 0.31, "low": 0.25, "high": 0.36},
        "brier": {"value": 0.16, "low": 0.15, "high": 0.17},
        "ece": {"value": 0.05, "low": 0.04, "high": 0.07},
    },
    "positions": [{"auc": {"value": 0.7, "low": 0.68, "high": 0.73}}, {"auc": None}],
    "prompt_value": {"correlation": {"value": 0.6, "low": 0.5, "high": 0.7}},
}
PROBE = {
    "n_prompts": 128,
    "n_samples": 16,
    "training_prompts": 4360,
    "prompts_too_long": 12,
    "figures": {"accuracy": {"value": 0.3, "low": 0.25, "high": 0.35}},
    "verdict": {"criteria": {"accuracy": {"ok": True}}, "advice": ["fix the prompt"]},
    "examples": {
        group: [
            {
                "prompt": "<|user|>1 2 = 3",
                "pass_rate": 0.5,
                "responses": [{"response": "<answer>1+2", "score": 0.1, "correct": False}],
            }
        ]
        for group in ("best", "worst", "divided")
    },
}


def write_inputs(workdir: Path) -> None:
    """Results of a study, as small as they can be."""
    (workdir / "results").mkdir(exist_ok=True)
    rows = [row | COMMON for row in ROWS]
    (workdir / "results/summary.json").write_text(json.dumps(rows), encoding="utf-8")
    draw = np.random.default_rng(0)
    for run in RUNS:
        folder = workdir / "results/runs" / run / "seed0"
        folder.mkdir(parents=True, exist_ok=True)
        steps = np.arange(1, 41)
        pd.DataFrame(
            {
                "step": steps,
                "critic/score/mean": 0.5 + steps / 200 + draw.normal(0, 0.01, 40),
                "response_length/mean": 22 + draw.normal(0, 0.3, 40),
                "actor/entropy": 0.4 - steps / 400,
                "actor/ppo_kl": draw.normal(0, 0.001, 40),
                "critic/values/mean": 0.5 - 0.4 / steps,
                "critic/vf_explained_var": 0.6 - 0.7 / steps,
            }
        ).to_parquet(folder / "metrics.parquet")
        made_from = {"inputs": {"data/train.parquet": "0" * 64}, "revisions": {}, "environment": {}}
        code = {"code": {"verl_plugin/reward_mask.py": "1" * 64}}
        (folder / provenance.NAME).unlink(missing_ok=True)
        provenance.begin_attempt(folder, {"run": run}, made_from | code, {"train": {}}, 0)
        provenance.end_attempt(folder, "finished")
        critic = workdir / "results/eval/critics" / run / "seed0"
        critic.mkdir(parents=True, exist_ok=True)
        (critic / "summary.json").write_text(json.dumps(CRITIC | {"name": run}), encoding="utf-8")
    metrics = [workdir / f"results/runs/{run}/seed0/metrics.parquet" for run in RUNS]
    plot = workdir / "results/probe/tiny/countdown-mini/probe.png"
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot_curves(metrics, plot)  # some picture
    for run in RUNS:
        plot_curves(metrics, workdir / "results/eval/critics" / run / "seed0/critic.png")
    (plot.parent / "summary.json").write_text(json.dumps(PROBE), encoding="utf-8")


def test_the_results_table_shows_values_and_intervals(tmp_path):
    write_inputs(tmp_path)
    write_results(tmp_path / "results/summary.json", tmp_path / "results.html")
    page = (tmp_path / "results.html").read_text()
    assert page.index("<b>tiny</b>") < page.index("<b>cold</b>")
    assert "0.550<br><small>+0.150 [+0.110, +0.190]</small>" in page
    assert page.index("pass@1") < page.index("pass@4") < page.index("mean accuracy")
    assert "cold: entropy 0.005" in page
    assert "tiny -> cold, seed 0" in page
    assert '<td class="number">+0.150</td><td class="number">+37.5%</td>' in page


def test_the_critics_table_shows_figures_and_intervals(tmp_path):
    write_inputs(tmp_path)
    files = [tmp_path / f"results/eval/critics/{run}/seed0/summary.json" for run in RUNS]
    write_critics(files, tmp_path / "critics.html")
    page = (tmp_path / "critics.html").read_text()
    assert page.index("<b>cold</b>") < page.index("<b>warm-frozen-m50</b>")
    assert "0.310<br><small>[0.250, 0.360]</small>" in page
    assert "n/a" in page  # an AUC of responses that are all right
    write_critics([], tmp_path / "critics.html")
    assert "No run has a critic" in (tmp_path / "critics.html").read_text()


def test_the_probe_page_shows_what_the_model_wrote(tmp_path):
    write_inputs(tmp_path)
    path = tmp_path / "results/probe/tiny/countdown-mini/summary.json"
    write_probe([path], tmp_path / "probe.html")
    page = (tmp_path / "probe.html").read_text()
    assert "tiny on countdown-mini" in page
    assert "fix the prompt" in page
    for title in ("Solved best", "Solved worst", "Most divided"):
        assert f"<th>{title}</th>" in page
    assert "✗ &lt;answer&gt;1+2 <small>(0.1)</small>" in page


def test_provenance_shows_one_column_a_run(tmp_path):
    write_inputs(tmp_path)
    files = [tmp_path / f"results/runs/{run}/seed0/provenance.json" for run in RUNS]
    write_provenance(files, provenance.versions(), tmp_path / "provenance.html")
    page = (tmp_path / "provenance.html").read_text()
    assert "<th>cold/seed0</th>" in page
    assert "attempts.1.versions.verl" in page
    assert "attempts.1.machine.memory_gib" in page
    assert "versions differ" not in page


def test_provenance_says_first_what_differs(tmp_path):
    write_inputs(tmp_path)
    files = {run: tmp_path / f"results/runs/{run}/seed0/provenance.json" for run in RUNS}
    records = {run: json.loads(path.read_text()) for run, path in files.items()}
    installed = records["cold"]["attempts"][0]["versions"]
    for record in records.values():
        record["attempts"][0]["git"]["dirty"] = False
    assert notes(records, installed) == []
    newer = installed | {"torch": "99.0"}
    (first, second) = notes(records, newer)
    assert f"cold: versions differ: made with torch {installed['torch']}" in first
    assert first.endswith("99.0") and second.startswith("warm-frozen-m50: versions differ")
    cold = records["cold"]
    again = cold["attempts"][0] | {"changed": ["resources kv_cache_gb: 1 -> 2"]}
    cold["attempts"].append(again | {"steps": {"from": 20, "to": 40}})
    cold["code"] = {"verl_plugin/reward_mask.py": "2" * 64}
    differs = ["code verl_plugin/reward_mask.py differs"]
    cold["accepted"] = [{"who": "ada", "when": "2026-11-21", "differs": differs}]
    files["cold"].write_text(json.dumps(cold))
    found = "".join(notes(records, installed))
    assert "cold: from step 20 on, resources kv_cache_gb: 1 -> 2" in found
    assert "accepted by ada, 2026-11-21, although code verl_plugin/reward_mask.py differs" in found
    assert "not made by the same code: verl_plugin/reward_mask.py" in found
    write_provenance(list(files.values()), installed, tmp_path / "provenance.html")
    page = (tmp_path / "provenance.html").read_text()
    assert "<td>code.verl_plugin/reward_mask.py</td>" in page
    assert "<td>attempts.2.steps.from</td>" in page


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A finished study whose report is made for real."""
    workdir = tmp_path_factory.mktemp("reported")
    finish(workdir)
    write_inputs(workdir)
    touched = snakemake(workdir, "--touch", "--forceall", "--cores", "1")
    assert touched.returncode == 0
    done = snakemake(workdir, "--cores", "1", "--forcerun", "report_parts", "--quiet", "rules")
    log = workdir / "logs/render_report.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    return workdir


def test_the_report_is_one_file_with_everything_in_it(reported):
    page = (reported / "results/report.html").read_text(encoding="utf-8")
    for part in (
        "results.html",
        "curves.png",
        "critics.html",
        "critic.png",
        "provenance.html",
        "probe.html",
        "probe.png",
    ):
        assert part in page
    for rule in ("prepare_data", "train_run", "train_run_warm", "convert_checkpoint"):
        assert rule in page  # the graph of the workflow
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?https?:", page)
    assert len(page) > 1_000_000  # scripts and pictures are inside


def test_making_the_report_leaves_nothing_to_do(reported):
    assert not planned(reported)
