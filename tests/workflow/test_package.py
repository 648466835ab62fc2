"""The wheel, installed into a fresh environment outside the checkout: commands, init, workflow."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from snake import PROJECT, planned

SITE = Path(sysconfig.get_path("purelib"))
"""Of this environment: torch, verl and all else, without the checkout's own package."""


def environment(folder: Path) -> Path:
    """A new environment that sees the libraries of this one; its ``bin``.

    A line in a ``.pth`` file adds the folder and runs none of the ``.pth`` files in it, which is
    how the checkout gets onto the path.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(f"{SITE}\n", encoding="utf-8")
    return folder / "bin"


def call(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def done(*command: object, cwd: Path) -> str:
    result = call(*command, cwd=cwd)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    for name in ("config", "workflow"):
        shutil.copytree(PROJECT / name, folder / "source" / name, ignore=left_out)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(PROJECT / name, folder / "source" / name)
    build = "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder
    done(sys.executable, "-m", "pip", *build, folder / "source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """``bin`` of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    bin_folder = environment(folder / "venv")
    install = "install", "--no-deps", "--no-index", "--quiet", wheel
    done(sys.executable, "-m", "pip", "--python", bin_folder / "python", *install, cwd=folder)
    return bin_folder


@pytest.fixture(scope="module")
def study(installed, tmp_path_factory) -> Path:
    """A folder that ``criticflow init`` laid out."""
    folder = tmp_path_factory.mktemp("outside") / "study"
    done(installed / "criticflow", "init", folder, cwd=folder.parent)
    return folder


def test_the_wheel_holds_one_copy_of_the_package_and_the_workflow(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith("config/study.py")] == [
        "criticflow/config/study.py"
    ]
    assert not [
        name for name in names if name.startswith(("tests", "docs")) or "__pycache__" in name
    ]
    for folder in ("workflow/rules", "workflow/report", "config/experiments", "config/studies"):
        ours = {path.name for path in (PROJECT / folder).iterdir() if path.suffix}
        prefix = f"criticflow/project/{folder}/"
        assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == ours
    scripts = {path.name for path in (PROJECT / "workflow/scripts").glob("*.py")}
    held = {name.rsplit("/", 1)[1] for name in names if "project/workflow/scripts/" in name}
    assert held == scripts


def test_the_installed_package_is_the_wheels(installed, tmp_path):
    code = (
        "import criticflow, importlib.metadata as m, json;"
        "plugins = [e.value for e in m.entry_points(group='verl.plugins')];"
        "print(json.dumps([criticflow.__file__, m.version('criticflow'), plugins]))"
    )
    where, version, plugins = json.loads(done(installed / "python", "-c", code, cwd=tmp_path))
    assert Path(where).is_relative_to(installed.parent)
    assert (
        version
        == re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.M)[1]
    )
    assert plugins == ["criticflow.verl_plugin.plugin"]
    assert "usage: criticflow COMMAND" in done(installed / "criticflow", cwd=tmp_path)


def test_a_folder_that_init_laid_out_plans_the_same_study(installed, study, tmp_path):
    text = done(installed / "python", "-m", "snakemake", "--dry-run", cwd=study)
    jobs = {line.split()[0]: int(line.split()[1]) for line in text.splitlines() if counted(line)}
    expected = planned(tmp_path)
    assert expected.pop("snakemake_report") == 1  # whoever uses a module has a report of their own
    assert {rule: count for rule, count in jobs.items() if rule in expected} == dict(expected)


def counted(line: str) -> bool:
    return bool(re.fullmatch(r"\w+ +\d+", line))


def test_its_rules_run_from_the_installed_package(installed, study):
    settings = study / "config" / "config.yaml"
    raw = yaml.safe_load(settings.read_text())
    raw["tasks"]["countdown-mini"]["split"]["train"] = 321
    settings.write_text(yaml.safe_dump(raw), encoding="utf-8")
    text = done(installed / "python", "-m", "snakemake", "--cores", "1", "data", cwd=study)
    assert "criticflow: done" in text and "criticflow: 5 runs" in text  # onstart and onsuccess
    manifest = json.loads((study / "results/data/countdown-mini/manifest.json").read_text())
    assert manifest["splits"]["train"]["rows"] == 321
    plan = done(installed / "criticflow", "plan", cwd=study)
    assert re.search(r"prepare_data +1 +1 +0 ", plan)


@pytest.mark.slow
@pytest.mark.e2e
def test_a_training_runs_from_the_installed_package_alone(installed, tmp_path):
    done(installed / "criticflow", "init", "study", cwd=tmp_path)
    folder, small = tmp_path / "study", PROJECT / ".test/small.yaml"
    wanted = [f"results/runs/cold/seed0/{name}" for name in ("actor", "critic")]
    options = "--cores", "all", "--configfile", small, "--", *wanted
    text = done(installed / "python", "-m", "snakemake", *options, cwd=folder)
    steps = yaml.safe_load(small.read_text())["train"]["steps"]
    assert f"[train_run cold 0] step {steps}/{steps}  score" in text
    trained = folder / "results/runs/cold/seed0"
    metrics = pd.read_parquet(trained / "metrics.parquet")
    assert list(metrics["step"]) == list(range(1, steps + 1))
    assert metrics["critic/values/mean"].notna().all()
    check = "convert", "critic", "--check", trained / "critic"
    assert "files as converted" in done(installed / "criticflow", *check, cwd=folder)
    # What verl's processes said and what was noted names no file of the checkout.
    said = (folder / "results/checkpoints/cold/seed0/train.log").read_text(errors="replace")
    assert f"{installed.parent}/lib" in said
    noted = (trained / "provenance.json").read_text()
    assert f"{PROJECT}/" not in said.replace(str(small), "") + noted


def test_init_leaves_alone_what_is_there(installed, study):
    told = call(installed / "criticflow", "init", study, cwd=study)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "config is there already" in told.stderr


def test_outside_of_its_environment_the_workflow_says_what_to_install(tmp_path):
    bin_folder = environment(tmp_path / "venv")
    snakefile = PROJECT / "workflow/Snakefile"
    told = call(bin_folder / "python", "-m", "snakemake", "-n", "-s", snakefile, cwd=tmp_path)
    assert told.returncode == 1
    text = told.stdout + told.stderr
    (line,) = [line for line in text.splitlines() if "this Python has no" in line]
    assert "no criticflow" in line and "requirements/cpu.txt" in line
    assert "Traceback" not in text
