"""The report: one page that answers the study's question, in a browser without network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from browser import CHROMIUM, browser
from report_study import configuration, write_study
from snake import PROJECT, RUNS, finish, planned, snakemake

from criticflow.config import load_config
from criticflow.config.merging import merge
from criticflow.report import provenance as provenance_facts
from criticflow.training import provenance

OVERLAY = {
    "seeds": [0, 1, 2],
    "train": {"test_every": 10},
    "evaluate": {"resamples": 50},
    "validation_threshold": 0.55,
}
WIDTHS = (1280, 390)


def report(workdir: Path, *arguments: str, overlay: dict[str, Any] | None = None) -> None:
    """Make what is missing of the two reports."""
    only = ["--allowed-rules", "report_page", "snakemake_report", "--quiet", "rules"]
    done = snakemake(workdir, "--cores", "1", *arguments, *only, overlay=overlay)
    logs = [path.read_text() for path in workdir.glob("logs/*report*.log")]
    assert done.returncode == 0, done.stdout + done.stderr + "".join(logs)


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A finished study of three seeds whose reports Snakemake has made."""
    workdir = tmp_path_factory.mktemp("reported")
    finish(workdir, overlay=OVERLAY)
    write_study(workdir, configuration(**OVERLAY))
    touched = snakemake(workdir, "--touch", "--forceall", "--cores", "1", overlay=OVERLAY)
    assert touched.returncode == 0, touched.stderr
    report(workdir, "--forcerun", "report_page", overlay=OVERLAY)
    return workdir


@pytest.fixture(scope="module")
def page(reported) -> str:
    return (reported / "results/report.html").read_text(encoding="utf-8")


def test_the_first_words_are_the_question_and_what_the_statistics_answer(reported, page):
    (row, *_) = json.loads((reported / "results/contrasts.json").read_text())
    assert "<h1>What was the saved critic worth?</h1>" in page
    (said,) = re.findall(r'<p class="answer">(.*?)</p>', page, re.DOTALL)
    words = {"better": "It helped: ", "worse": "It did harm: ", "undecided": "Undecided: "}
    assert said.startswith(words[row["verdict"].partition(":")[0].split(" ")[0]])
    assert f"{row['difference']['value']:+.3f}" in said and "3 seeds" in said
    assert page.index('class="answer"') < page.index('data-figure="contrasts"')
    assert page.index('data-figure="contrasts"') < page.index('<section id="arms">')


def test_the_page_needs_nothing_but_itself(page):
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(https?:|/)", page)
    assert len(page) < 4_000_000


def test_every_figure_lies_beside_the_page_in_three_forms(reported, page):
    names = re.findall(r'<figure id="figure-([^"]+)"', page)
    assert {"contrasts", "arms", "score", "entropy", "grad-norm", "share-explained"} <= set(names)
    assert len(names) == len(set(names))
    folder = reported / "results/report/figures"
    assert {path.name for path in folder.glob("[!.]*")} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png", "csv")
    }
    assert "warm-frozen-m50" in (folder / "score.svg").read_text()  # its own legend
    rows = pd.read_csv(folder / "score.csv")
    assert set(rows["arm"]) == set(configuration(**OVERLAY).runs)
    assert (rows["low"] <= rows["mean"]).all() and (rows["seeds"] == 3).all()


def test_arms_are_compared_by_what_the_threshold_cost(page):
    part = page[page.index("How fast the arms learn") : page.index('id="figure-step-times"')]
    for words in ("area under the curve", "reached it", "generated tokens", "TFLOP", "log-rank p"):
        assert words in part
    assert "the threshold, 0.55 on validation" in part


def test_an_arm_is_drawn_alike_everywhere(page):
    (specs,) = re.findall(r'id="specs">(.*?)</script>', page, re.DOTALL)
    seen: dict[str, set[str]] = {}

    def look(part: Any) -> None:
        if isinstance(part, dict):
            scale = part.get("scale") or {}
            if part.get("field") == "arm" and "#" in str(scale.get("range")):
                for name, color in zip(scale["domain"], scale["range"], strict=True):
                    seen.setdefault(name, set()).add(color)
            part = list(part.values())
        for item in part if isinstance(part, list) else []:
            look(item)

    look(json.loads(specs))
    assert set(configuration(**OVERLAY).runs) <= set(seen)
    assert all(len(colors) == 1 for colors in seen.values()), seen


def test_warnings_lead_to_what_shows_them(page):
    links = re.findall(r'<li><a href="#([^"]+)">([^<]+)</a>', page)
    said = "cold, seed 0: training ended with entropy 0.0050, under 0.01 nats a token"
    assert ("figure-entropy", said) in links
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_snakemakes_report_is_linked_and_made(reported, page):
    for link in re.findall(r'href="(report/[^"]+)"', page):
        assert (reported / "results" / link).exists()
    frame = (reported / "results/report/snakemake.html").read_text(encoding="utf-8")
    for rule in ("prepare_data", "train_run", "train_run_warm", "convert_checkpoint"):
        assert rule in frame  # the graph of the workflow
    assert "<strong>warm-frozen-m50</strong>: PPO on countdown-mini" in frame


def test_making_the_report_leaves_nothing_to_do(reported):
    assert not planned(reported, overlay=OVERLAY)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", WIDTHS)
def test_a_reader_goes_through_the_page_without_network(reported, width):
    file = reported / "results/report.html"
    with browser() as tab:
        tab.open(file, width)
        tab.run("for (const part of document.querySelectorAll('details')) part.open = true")
        drawn = tab.run(
            "[...document.querySelectorAll('[data-figure]')]"
            ".map((one) => one.querySelectorAll('svg path').length)"
        )
        assert drawn and all(drawn)
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.run(wide)
        assert tab.run("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        # An arm that is switched off is gone from the curves.
        lines = "document.querySelectorAll('[data-figure=score] .mark-line path').length"
        before = tab.run(lines)
        tab.run("document.querySelector('[data-arm=\"cold\"]').click()")
        tab.wait(f"{lines} === {before} - 1")
        # Every critic's responses, coloured both ways.
        shown = tab.run(
            """(async () => {
              const at = (id) => document.getElementById(id);
              const change = (one) => one.dispatchEvent(new Event("change", { bubbles: true }));
              const found = [];
              for (const critic of at("viewer-critic").options) {
                at("viewer-critic").value = critic.value; change(at("viewer-critic"));
                for (const response of at("viewer-response").options) {
                  at("viewer-response").value = response.value; change(at("viewer-response"));
                  for (const radio of document.querySelectorAll("input[name=coloured]")) {
                    radio.click();
                    const tokens = [...document.querySelectorAll("#viewer-tokens span")];
                    const known = tokens.filter((one) => one.className === "known").length;
                    const colors = new Set(tokens.map((one) => one.style.background));
                    found.push([critic.text, tokens.length, known, colors.size]);
                  }
                }
              }
              return found;
            })()"""
        )
        assert {critic.partition(",")[0] for critic, *_ in shown} == set(
            configuration(**OVERLAY).runs
        )
        assert all(count > 0 and known > 0 for _, count, known, _ in shown)
        assert max(colors for *_, colors in shown) > 3
        assert tab.run(wide)
        assert tab.errors == []
        assert [url for url in tab.asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_one_seed_is_measured_and_claims_nothing(tmp_path):
    """Also with a run without critic, random rewards, a single arm of each, and no validation."""
    overlay = {
        "runs": {
            "warm-frozen": None,
            "constant-m50": None,
            "warm-frozen-m50": None,
            "cold": {"train": {"critic_warmup": 3, "steps": 43}},
            "constant": {"train": {"critic_warmup": 0, "steps": 40}},
            "random": {"like": "cold", "random_reward": 0.4},
            "group": {"like": "cold", "algorithm": "grpo", "train": {"rollout_n": 2}},
        },
        "contrasts": [{"name": "learning", "a": "cold", "b": "constant"}],
        "evaluate": {"resamples": 50},
    }
    write_study(tmp_path, configuration(**overlay))
    report(tmp_path, "report", overlay=overlay)
    page = (tmp_path / "results/report.html").read_text(encoding="utf-8")
    assert "No claim: with one seed" in page
    assert "with fewer than three seeds there is no interval, and no claim" in page
    assert "A claim needs at least 3 seeds" in page
    assert "warm-frozen-m50" not in page
    if CHROMIUM is not None:
        with browser() as tab:
            tab.open(tmp_path / "results/report.html", WIDTHS[0])
            assert tab.errors == []


STUDIES = [
    PROJECT / "config/studies/critic-value.yaml",
    *(PROJECT / "config/experiments").glob("*.yaml"),
]


@pytest.mark.parametrize("path", sorted(STUDIES), ids=lambda path: path.stem)
def test_every_shipped_study_is_described_in_snakemakes_report(tmp_path, path):
    overlay = yaml.safe_load(path.read_text(encoding="utf-8"))
    if gpus := (overlay.get("resources") or {}).get("gpu"):  # there may be none here
        overlay = merge(overlay, {"resources": {"gpu": 0, "cpu_ranks": gpus}})
    default = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
    config = load_config(merge(default, overlay))
    runs = config.runs
    for task in config.tasks.values():
        if task.search and task.search.corpus:  # a file of the user's
            (tmp_path / task.search.corpus).touch()
    made = tmp_path / "results/report.html"
    made.parent.mkdir()
    made.write_text("a page")
    only = ["--allowed-rules", "snakemake_report", "--cores", "1", "results/report/snakemake.html"]
    done = snakemake(tmp_path, *only, overlay=overlay)
    log = tmp_path / "logs/snakemake_report.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    page = (tmp_path / "results/report/snakemake.html").read_text(encoding="utf-8")
    for run in RUNS + list(runs):
        assert (f"<strong>{run}</strong>: " in page) is (run in runs)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Two runs' records, made by the code that makes them."""
    found = {}
    for run in ("cold", "warm-frozen-m50"):
        made_from = {"inputs": {"data/train.parquet": "0" * 64}, "revisions": {}, "environment": {}}
        code = {"code": {"verl_plugin/reward_mask.py": "1" * 64}}
        (folder / run).mkdir()
        provenance.begin_attempt(folder / run, {"run": run}, made_from | code, {"train": {}}, 0)
        provenance.end_attempt(folder / run, "finished")
        found[run] = json.loads((folder / run / provenance.NAME).read_text())
        found[run]["attempts"][0]["git"]["dirty"] = False
        found[run]["attempts"][0]["started"] = found[run]["started"] = "2026-11-21"
    return found


def test_provenance_tells_what_runs_share_from_what_they_do_not(tmp_path):
    facts = provenance_facts.facts(records(tmp_path))
    common, own = dict(facts.common), {(key, run): value for key, run, value in facts.own}
    assert common["attempts.1.versions.verl"] == "0.9.1"
    assert own["settings.run", "cold"] == "cold"
    assert "settings.run" not in common


def test_provenance_says_first_what_differs(tmp_path):
    found = records(tmp_path)
    installed = found["cold"]["attempts"][0]["versions"]
    notes = provenance_facts.notes
    assert notes(found, installed) == []
    (first, second) = notes(found, installed | {"torch": "99.0"})
    assert f"cold: versions differ: made with torch {installed['torch']}" in first
    assert first.endswith("99.0") and second.startswith("warm-frozen-m50: versions differ")
    cold = found["cold"]
    again = cold["attempts"][0] | {"changed": ["resources kv_cache_gb: 1 -> 2"]}
    cold["attempts"].append(again | {"steps": {"from": 20, "to": 40}})
    cold["code"] = {"verl_plugin/reward_mask.py": "2" * 64}
    differs = ["code verl_plugin/reward_mask.py differs"]
    cold["accepted"] = [{"who": "ada", "when": "2026-11-21", "differs": differs}]
    told = "".join(notes(found, installed))
    assert "cold: from step 20 on, resources kv_cache_gb: 1 -> 2" in told
    assert "accepted by ada, 2026-11-21, although code verl_plugin/reward_mask.py differs" in told
    assert "not made by the same code: verl_plugin/reward_mask.py" in told
    keys = {key for key, _, _ in provenance_facts.facts(found).own}
    assert {"code.verl_plugin/reward_mask.py", "attempts.2.steps.from"} <= keys
