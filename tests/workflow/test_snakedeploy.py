"""snakedeploy lays the workflow out for another's project, and Snakemake fetches and runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snake import PROJECT, planned
from test_module import jobs

BESIDE = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
SNAKEDEPLOY = shutil.which("snakedeploy", path=BESIDE)
pytestmark = pytest.mark.skipif(SNAKEDEPLOY is None, reason="no snakedeploy: see make setup")

SNAKEMAKE = sys.executable, "-m", "snakemake"
TAG = "v0.2.0"
HOSTED = "https://github.com/"
REPOSITORY = "OWNER/criticflow"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Git takes what is hosted on GitHub from a folder, where this work tree is a tagged commit."""
    folder = tmp_path_factory.mktemp("hosted")
    source = folder / REPOSITORY
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("config", "workflow"):
        shutil.copytree(PROJECT / name, source / name, ignore=left_out)
    shutil.copyfile(PROJECT / "LICENSE", source / "LICENSE")
    who = "-c", "user.name=test", "-c", "user.email=test@localhost"
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", TAG]):
        subprocess.run(["git", *who, *command], cwd=source, check=True)
    subprocess.run(["git", "tag", TAG], cwd=source, check=True)
    made = {key: value for key, value in os.environ.items() if key != "GITHUB_TOKEN"}
    return made | {
        "PYTHONPATH": str(PROJECT / "workflow/scripts"),
        "XDG_CACHE_HOME": str(folder / "cache"),  # Snakemake's clone
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder}/.insteadOf",
        "GIT_CONFIG_VALUE_0": HOSTED,
    }


def done(environment: dict[str, str], folder: Path, *command: str) -> str:
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def deployed(environment, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    command = "deploy-workflow", HOSTED + REPOSITORY, "study", "--tag", TAG
    done(environment, folder, SNAKEDEPLOY, *command)
    return folder / "study"


def test_what_is_deployed_plans_the_same_study(environment, deployed, tmp_path):
    text = (deployed / "workflow/Snakefile").read_text(encoding="utf-8")
    assert f'github("{REPOSITORY}", path="workflow/Snakefile", tag="{TAG}")' in text
    found = jobs(done(environment, deployed, *SNAKEMAKE, "--dry-run"))
    assert found.pop("all") == 1
    expected = dict(planned(tmp_path))
    assert expected.pop("snakemake_report") == 1  # of the whole, which is another's
    assert found == expected


def test_its_rules_run_from_the_fetched_commit(environment, deployed):
    settings = deployed / "config/config.yaml"
    raw = yaml.safe_load(settings.read_text(encoding="utf-8"))
    raw["tasks"]["countdown-mini"]["split"]["train"] = 321
    settings.write_text(yaml.safe_dump(raw), encoding="utf-8")
    done(environment, deployed, *SNAKEMAKE, "--cores", "1", "data")
    manifest = json.loads((deployed / "results/data/countdown-mini/manifest.json").read_text())
    assert manifest["splits"]["train"]["rows"] == 321
    again = done(environment, deployed, *SNAKEMAKE, "--dry-run", "data")
    assert jobs(again) == {}
