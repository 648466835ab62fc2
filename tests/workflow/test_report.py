"""The report: tables, curves, and a page that needs no network."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from snake import PROJECT, RUNS, finish, planned, snakemake

from criticflow.config import Config
from criticflow.config.load import load_config, merge
from criticflow.report.curves import PANELS, plot_curves
from criticflow.report.probe_page import write_probe
from criticflow.report.provenance_page import notes, write_provenance
from criticflow.report.tables import lost_trajectories, write_critics, write_results
from criticflow.training import provenance
from criticflow.verl_plugin.critic_metrics import critic_metrics

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
    "mean_score": 0.6,
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


@dataclass(frozen=True)
class Study:
    """What of a study's configuration its report depends on.

    Args:
        overlay: over the default configuration.
    """

    overlay: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        default = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
        return load_config(merge(default, self.overlay))


def write_inputs(workdir: Path, study: Study = Study()) -> None:
    """Results of a study, as small as they can be."""
    config = study.config
    (workdir / "results").mkdir(exist_ok=True)
    rows = [row | COMMON for row in ROWS]
    (workdir / "results/summary.json").write_text(json.dumps(rows), encoding="utf-8")
    draw = np.random.default_rng(0)
    metrics = []
    for name, seed in itertools.product(config.runs, config.seeds):
        folder = workdir / "results/runs" / name / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        steps = np.arange(1, 41)
        table = {
            "step": steps,
            "critic/score/mean": 0.5 + steps / 200 + draw.normal(0, 0.01, 40),
            "response_length/mean": 22 + draw.normal(0, 0.3, 40),
            "actor/entropy": 0.4 - steps / 400,
            "actor/ppo_kl": draw.normal(0, 0.001, 40),
            "criticflow/lost_trajectories": 0,
        }
        if config.runs[name].algorithm == "ppo":
            table |= {
                "critic/values/mean": 0.5 - 0.4 / steps,
                "critic/vf_explained_var": -0.03,
                "criticflow/explained_variance/true_return": 0.6 - 0.7 / steps,
            }
            critic = workdir / "results/eval/critics" / name / f"seed{seed}"
            critic.mkdir(parents=True, exist_ok=True)
            summary = CRITIC | {"name": name}
            (critic / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
            (critic / "critic.png").write_bytes(b"")  # some picture, below
        metrics.append(folder / "metrics.parquet")
        pd.DataFrame(table).to_parquet(metrics[-1])
        made_from = {"inputs": {"data/train.parquet": "0" * 64}, "revisions": {}, "environment": {}}
        code = {"code": {"verl_plugin/reward_mask.py": "1" * 64}}
        (folder / provenance.NAME).unlink(missing_ok=True)
        provenance.begin_attempt(folder, {"run": name}, made_from | code, {"train": {}}, 0)
        provenance.end_attempt(folder, "finished")
    plots = [*workdir.glob("results/eval/critics/*/*/critic.png")]
    for model, task in {(run.model, run.task) for run in config.runs.values()}:
        probe = workdir / "results/probe" / model / task
        probe.mkdir(parents=True, exist_ok=True)
        (probe / "summary.json").write_text(json.dumps(PROBE), encoding="utf-8")
        plots.append(probe / "probe.png")
    for plot in plots:
        plot_curves(metrics, plot)


def test_the_results_table_shows_values_and_intervals(tmp_path):
    write_inputs(tmp_path)
    write_results(tmp_path / "results/summary.json", metrics(tmp_path), tmp_path / "results.html")
    page = (tmp_path / "results.html").read_text()
    assert page.index("<b>tiny</b>") < page.index("<b>cold</b>")
    assert "0.550<br><small>+0.150</small><br><small>[+0.110, +0.190]</small>" in page
    assert page.index("pass@1") < page.index("pass@4") < page.index("mean score")
    assert "cold: entropy 0.005" in page
    assert "tiny -&gt; cold, seed 0" in page
    assert '<td class="number">+0.150</td><td class="number">+37.5%</td>' in page


def metrics(workdir: Path) -> list[Path]:
    return [workdir / f"results/runs/{run}/seed0/metrics.parquet" for run in RUNS]


def test_the_results_say_what_a_run_lost_to_errors_in_its_rollouts(tmp_path):
    write_inputs(tmp_path)
    cold, warm = metrics(tmp_path)
    assert lost_trajectories(cold) is lost_trajectories(warm) is None
    table = pd.read_parquet(cold)
    table.loc[[3, 7], "criticflow/lost_trajectories"] = [16, 4]
    table.to_parquet(cold)
    write_results(tmp_path / "results/summary.json", [cold, warm], tmp_path / "results.html")
    said = "cold, seed 0: 20 trajectories were lost to errors in rollouts, in 2 of 40 steps"
    assert f"<li>{said}" in (tmp_path / "results.html").read_text()


def test_the_curve_of_explained_variance_is_that_of_true_returns():
    (metric,) = [name for title, name in PANELS.items() if title.startswith("explained variance")]
    step = critic_metrics(  # verl's own is against rewards that may be masked
        values=np.array([[0.1], [0.9]]), scores=np.array([[0.0], [1.0]]),
        masked_rewards=np.zeros((2, 1)), mask=np.ones((2, 1)), gamma=1.0,
    )  # fmt: skip
    assert step[metric] == pytest.approx(1 - 0.01 / 0.25)
    caption = (PROJECT / "workflow/report/curves.rst").read_text(encoding="utf-8")
    assert metric in caption and "critic/vf_explained_var" in caption


WIDTH = "<script>document.title = `width ${document.documentElement.scrollWidth}`</script>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def width_of(page: Path, window: int) -> int:
    """How wide a browser lays a page out, pixels."""
    measured = page.with_suffix(".measured.html")
    measured.write_text(page.read_text().replace("</body>", f"{WIDTH}</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += ["--disable-component-update", f"--user-data-dir={page.parent / 'browser'}"]
    command += [f"--window-size={window},900", "--dump-dom", measured.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return int(re.search(r"<title>width (\d+)", done.stdout)[1])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_nothing_scrolls_sideways_at_1280_pixels(tmp_path):
    write_inputs(tmp_path)
    beside_the_navigation = 1280 * 3 // 4  # where the report shows a page
    keys = [*COMMON, "pass@1", "pass@4", "truncation_rate"]
    figures = {key: 0.5 for key in keys if key not in ("task", "n_prompts")}
    difference = {key: {"value": -0.1234, "low": -0.2345, "high": -0.0123} for key in figures}
    names = ["warm-frozen-m50", "warm-learning-rescaled-lam095", "a.run.without_a-place_to.break"]
    rows = [{"name": "tiny", "kind": "base", "seed": None, **COMMON, **figures}]
    rows += [
        {"name": name, "kind": "run", "seed": 3, **COMMON, **figures, "difference": difference}
        for name in names
    ]
    (tmp_path / "results/summary.json").write_text(json.dumps(rows), encoding="utf-8")
    page = tmp_path / "page.html"
    write_results(tmp_path / "results/summary.json", metrics(tmp_path), page)
    assert width_of(page, beside_the_navigation) <= beside_the_navigation
    runs = [tmp_path / f"results/eval/critics/{run}/seed0/summary.json" for run in RUNS]
    write_critics(runs, page)
    assert width_of(page, beside_the_navigation) <= beside_the_navigation
    folder = tmp_path / "results/runs"
    for seed in range(1, 9):
        shutil.copytree(folder / "cold/seed0", folder / f"cold/seed{seed}")
    write_provenance(sorted(folder.glob("*/*/provenance.json")), provenance.versions(), page)
    assert width_of(page, beside_the_navigation) <= beside_the_navigation


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


def test_provenance_shows_what_runs_share_and_what_they_do_not(tmp_path):
    write_inputs(tmp_path)
    files = [tmp_path / f"results/runs/{run}/seed0/provenance.json" for run in RUNS]
    write_provenance(files, provenance.versions(), tmp_path / "provenance.html")
    page = (tmp_path / "provenance.html").read_text()
    assert "<td>settings.run</td><td>cold/seed0</td><td>cold</td>" in page
    assert "<td>attempts.1.versions.verl</td><td>0.9.1</td>" in page
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


CONTROLS = {
    "runs": {
        "warm-frozen-m50": None,
        "constant": {"like": "cold", "critic": {"freeze": True, "constant": 0.4}},
        "random": {"like": "cold", "random_reward": 0.4},
        "group": {"like": "cold", "algorithm": "grpo", "train": {"rollout_n": 2}},
    },
    "seeds": [0, 1],
}
EXPERIMENTS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((PROJECT / "config/experiments").glob("*.yaml"))
}


@pytest.mark.parametrize("name", ["a run taken away", *EXPERIMENTS])
def test_every_shipped_study_gets_to_its_report(tmp_path, name):
    """All but the report is done, with stand-ins for what models would have written."""
    study = Study(EXPERIMENTS.get(name, CONTROLS))
    write_inputs(tmp_path, study)
    only = ["--allowed-rules", "report_parts", "render_report", "--cores", "1", "report"]
    done = snakemake(tmp_path, *only, overlay=study.overlay)
    log = tmp_path / "logs/render_report.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    page = (tmp_path / "results/report.html").read_text(encoding="utf-8")
    for run in RUNS + list(study.config.runs):
        assert (f"<strong>{run}</strong>: " in page) is (run in study.config.runs)
