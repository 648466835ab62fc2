"""The whole study once, with a small budget, on the real stack: verl, vLLM, Ray, FSDP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from small_study import PROJECT, RUNS, STEPS, TIMEOUT, command, processes_in

pytestmark = pytest.mark.e2e


def make(workdir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(workdir),
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, str]:
    """The working directory of a finished study, and what the terminal showed."""
    workdir = tmp_path_factory.mktemp("größere Studie, it's")  # any path will do
    done = make(workdir)
    logs = "".join(
        f"\n--- {path}\n{path.read_text(errors='replace')[-4000:]}"
        for path in sorted((workdir / "logs").rglob("*.log"))
    )
    assert done.returncode == 0, done.stdout + logs
    assert processes_in(workdir) == []
    return workdir, done.stdout


def test_the_critic_is_compared_with_the_truth_and_says_what_it_is(study):
    rows = json.loads((study[0] / "results/critics.json").read_text())
    assert {"run", "constant", "position", "monte_carlo"} <= {row["kind"] for row in rows}
    (row,) = (row for row in rows if row["kind"] == "run")
    assert (row["critic"], row["critic_step"], row["actor"]) == ("cold", STEPS, "cold")
    assert {"value", "low", "high"} <= set(row["share_explained"])
    assert [part["position"] for part in row["by_position"]] == [0.0, 1.0]
    card = json.loads((study[0] / "results/runs/cold/seed0/critic/critic_card.json").read_text())
    assert card["responses"] == STEPS * 16 and card["tokens"] > card["responses"]


@pytest.mark.parametrize("run", RUNS)
def test_each_run_leaves_its_results(study, run):
    folder = study[0] / "results/runs" / run / "seed0"
    metrics = pd.read_parquet(folder / "metrics.parquet")
    assert list(metrics["step"]) == list(range(1, STEPS + 1))
    assert {"critic/score/mean", "response_length/mean", "critic/values/mean"} <= set(metrics)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["attempts"][-1]["versions"]["verl"] == "0.9.1"
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in provenance["inputs"].values())
    assert yaml.safe_load((folder / "config.yaml").read_text())
    actor = json.loads((folder / "actor/config.json").read_text())
    critic = json.loads((folder / "critic/config.json").read_text())
    assert actor["architectures"] == ["Qwen3ForCausalLM"]
    assert critic["architectures"] == ["Qwen3ForTokenClassification"]
    assert len(critic["id2label"]) == 1


@pytest.mark.parametrize("run", RUNS)
def test_of_a_converted_run_the_weights_are_kept_and_the_optimizers_are_not(study, run):
    checkpoints = study[0] / "results/checkpoints" / run / "seed0"
    shards = [path.relative_to(checkpoints) for path in checkpoints.rglob("*_rank_*.pt")]
    names = {(str(path.parent), path.name.split("_world_size")[0]) for path in shards}
    folders = [f"global_step_{STEPS}/{kind}" for kind in ("actor", "critic")]
    assert names == {(folder, part) for folder in folders for part in ("model", "extra_state")}


def test_the_warm_run_started_from_the_trained_critic_and_left_it_alone(study):
    runs = study[0] / "results/runs"
    warm = yaml.safe_load((runs / "warm-frozen-m50/seed0/config.yaml").read_text())
    assert warm["verl"]["critic"]["model"]["path"] == "results/runs/cold/seed0/critic"
    critics = [runs / run / "seed0/critic/model.safetensors" for run in RUNS]
    assert critics[0].read_bytes() == critics[1].read_bytes()


def test_the_summary_has_a_row_per_model_with_differences_to_base(study):
    rows = json.loads((study[0] / "results/summary.json").read_text())
    assert [(row["name"], row["kind"], row["seed"]) for row in rows] == [
        ("tiny", "base", None),
        ("cold", "run", 0),
        ("warm-frozen-m50", "run", 0),
    ]
    for row in rows:
        assert row["n_prompts"] == 48
        assert 0 <= row["pass@1"] <= row["mean_score"] <= 1
    for row in rows[1:]:
        difference = row["difference"]["pass@1"]
        assert difference["low"] <= difference["value"] <= difference["high"]
    table = (study[0] / "results/summary.md").read_text()
    assert "tiny -> warm-frozen-m50, seed 0" in table


def test_each_critic_is_judged_on_its_own_actors_responses(study):
    found = {}
    for run in RUNS:
        folder = study[0] / "results/eval/critics" / run / "seed0"
        found[run] = json.loads((folder / "summary.json").read_text())
        assert (folder / "critic.png").read_bytes().startswith(b"\x89PNG")
        samples = pd.read_parquet(study[0] / "results/eval/runs" / run / "seed0/samples.parquet")
        sampled = samples[samples["mode"] == "sampled"]
        assert found[run]["n_samples"] == len(sampled) == 2 * 48
        assert found[run]["tokens"]["states"] == sampled["n_tokens"].sum()
        returns = found[run]["positions"][0]["mean_return"]
        assert returns == pytest.approx(sampled["score"].mean())
    # The same weights, other responses.
    cold, warm = (found[run]["tokens"]["mean_value"] for run in RUNS)
    assert cold != warm


def test_the_report_has_everything_in_itself(study):
    page = (study[0] / "results/report.html").read_text(encoding="utf-8")
    figures = study[0] / "results/report/figures"
    for part in ("answer", "arms", "training", "health", "critics", "responses", "costs", "probe"):
        assert f'<section id="{part}">' in page
    for name in ("score", "entropy", "arms", "step-times"):
        assert f'data-figure="{name}"' in page
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "train_run_warm" in (study[0] / "results/report/snakemake.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?https?:", page)


def test_a_person_sees_progress_in_the_terminal_and_the_log(study):
    workdir, terminal = study
    assert re.search(rf"\[train_run cold 0\] step {STEPS}/{STEPS}  score .* left", terminal)
    log = (workdir / "logs/train_run/cold/seed0.log").read_text(errors="replace")
    assert f"step {STEPS}/{STEPS}  score" in log


def criticflow(*arguments: object) -> str:
    command = [sys.executable, "-m", "criticflow", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_machine_makes_the_same_tables_of_exported_rows(study, tmp_path):
    rows, settings = tmp_path / "rows.zip", ("--configfile", study[0] / "small.yaml")
    said = criticflow("study", "export", rows, "--directory", study[0], *settings)
    assert "2 trainings" in said and rows.stat().st_size < 100_000
    there = tmp_path / "there"
    said = criticflow("study", "import", rows, "--directory", there, *settings)
    assert "2 trainings taken in" in said
    done = make(there)
    assert done.returncode == 0, done.stdout
    assert not (there / "results/runs").exists()  # nothing was trained
    for table in ("summary", "contrasts", "arms", "savings", "speed", "tempered", "critics"):
        one, two = ((place / f"results/{table}.json") for place in (study[0], there))
        assert one.read_bytes() == two.read_bytes(), table
    assert "Imported from rows.zip" in (there / "results/report.html").read_text(encoding="utf-8")


def test_watch_reads_how_far_every_training_is(study):
    settings = ("--configfile", study[0] / "small.yaml", "--directory", study[0])
    text = criticflow("watch", "--once", *settings)
    for run in RUNS:
        assert re.search(rf"{run} +0 +done +{STEPS}/{STEPS} +0\.\d+", text), text
    assert "2 of 2 trainings are done; 0 at work" in text


def test_a_second_run_has_nothing_to_do(study):
    done = make(study[0])
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
