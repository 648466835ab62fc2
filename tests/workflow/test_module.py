"""Another's workflow uses this one as a module: names, places, and what it makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snake import PROJECT, SNAKEFILE, planned

USED = """
configfile: "config/config.yaml"

module {name}:
    snakefile: {snakefile!r}
    config: {config}
    {more}

use rule * from {name}{names}
"""

OWN = """
rule own:
    default_target: True
    input: "{place}results/contrasts.json"
    output: "own.txt"
    shell: "touch {{output}}"
"""


def outer(
    folder: Path,
    name="critic",
    names=" as critic_*",
    config="config",
    more="",
    own="",
    section=None,
) -> Path:
    """A workflow that uses ours, with the default configuration as it lies in the project."""
    (folder / "workflow").mkdir(parents=True)
    (folder / "config").mkdir()
    raw = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump({section: raw} if section else raw)
    (folder / "config/config.yaml").write_text(text, encoding="utf-8")
    used = USED.format(name=name, snakefile=str(SNAKEFILE), names=names, config=config, more=more)
    (folder / "workflow/Snakefile").write_text(used + own, encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", *arguments]
    env = os.environ | {"PYTHONPATH": str(PROJECT / "workflow/scripts")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def jobs(text: str) -> dict[str, int]:
    rows = re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule != "total"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, int]:
    """Jobs of the workflow by itself."""
    counts = dict(planned(tmp_path_factory.mktemp("alone")))
    del counts["snakemake_report"]  # of the whole, which is another's
    return counts


def test_all_rules_can_be_used_under_other_names(tmp_path, alone):
    folder = outer(tmp_path / "outer", own=OWN.format(place=""))
    found = jobs(run(folder, "--dry-run", "critic_all", "own"))
    assert found.pop("own") == found.pop("critic_all") == 1
    assert found == {f"critic_{rule}": count for rule, count in alone.items()}
    assert "own" in jobs(run(folder, "--dry-run"))


def test_as_snakedeploy_writes_it_the_study_is_the_default_target(tmp_path, alone):
    folder = outer(tmp_path / "outer", name="criticflow", names="")
    found = jobs(run(folder, "--dry-run"))
    assert found.pop("all") == 1
    assert found == alone


def test_its_configuration_may_be_a_section_of_anothers(tmp_path, alone):
    folder = outer(tmp_path / "outer", config='config["critic"]', section="critic")
    found = jobs(run(folder, "--dry-run", "critic_all"))
    assert sum(found.values()) == sum(alone.values()) + 1


def test_with_a_prefix_everything_lies_below_it(tmp_path):
    more = 'prefix: "below/critic"'
    folder = outer(tmp_path / "outer", more=more, own=OWN.format(place="below/critic/"))
    text = run(folder, "--dry-run", "critic_all", "own")
    made = re.findall(r"Missing output files: (.*?)(?:;|$)", text, re.MULTILINE)
    paths = [path for line in made for path in line.split(", ")]
    assert len(paths) > 40
    assert all(path.startswith("below/critic/results/") for path in paths if path != "own.txt")
    run(folder, "--cores", "1", "critic_data")
    manifest = folder / "below/critic/results/data/countdown-mini/manifest.json"
    assert json.loads(manifest.read_text())["splits"]["test"]["rows"]
    assert not (folder / "results").exists()


PARAMS = """
from pathlib import Path

Path("params.txt").write_text("\\n".join(
    str(rule.params.get(key))
    for rule in workflow.rules
    for key in ("checkpoints", "folders")
    if key in rule.params.keys()
))
"""


def test_what_rules_are_told_of_places_is_below_the_prefix_too(tmp_path):
    folder = outer(tmp_path / "outer", more='prefix: "below"', own=PARAMS)
    run(folder, "--dry-run", "critic_data")
    told = (folder / "params.txt").read_text().splitlines()
    named = [line for line in told if "results/" in line]
    assert len(named) >= 4
    assert all("below/results/" in line for line in named)


def test_in_anothers_workflow_no_lock_of_the_directory_is_removed(tmp_path):
    folder = outer(tmp_path / "outer")
    lock = folder / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("elsewhere.txt\n")
    run(folder, "--dry-run", "critic_data")
    assert lock.exists()
