"""Dockerfile and Apptainer definition install the same, with what ``make setup`` needs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[2]
DOCKER = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (PROJECT / "apptainer.def").read_text(encoding="utf-8")


def packages(text: str) -> set[str]:
    (listed,) = re.findall(r"--no-install-recommends \\\n +([a-z0-9 +.-]+)", text)
    return set(listed.split())


def test_both_install_the_same_on_the_same_base():
    base = re.search(r"^FROM (\S+)$", DOCKER, re.MULTILINE)[1]
    assert f"\nFrom: {base}\n" in APPTAINER
    assert packages(DOCKER) == packages(APPTAINER) >= {"gcc", "make", "python3-dev", "libnuma1"}


def commands(text: str) -> list[str]:
    """One by one, without what joins them."""
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [step.strip() for line in lines for step in line.split("&&") if step.strip()]


def test_both_run_the_same_commands():
    """Dockerfile besides makes a user; Apptainer's has the rights of whoever starts it."""
    docker = [step.removeprefix("RUN ") for step in commands(DOCKER) if is_run(step)]
    (post,) = re.findall(r"^%post\n(.*?)^%", APPTAINER, re.MULTILINE | re.DOTALL)
    here = {"make -C /opt/criticflow setup DEVICE={{ DEVICE }}": "make setup DEVICE=${DEVICE}"}
    theirs = [here.get(step, step) for step in commands(post)]
    assert [step for step in docker if not step.startswith("useradd")] == theirs
    assert len(theirs) == 4


def is_run(step: str) -> bool:
    """Whether it is a command, of those that ``&&`` joins too, and no other word of Docker's."""
    return step.startswith("RUN ") or not re.match(r"#|[A-Z]+ ", step)


def test_both_set_up_by_the_lock_and_by_an_argument_for_the_device():
    assert "ARG DEVICE=cpu" in DOCKER and "make setup DEVICE=${DEVICE}" in DOCKER
    assert "DEVICE=cpu" in APPTAINER and "setup DEVICE={{ DEVICE }}" in APPTAINER


def test_the_image_is_not_roots():
    steps = DOCKER.splitlines()
    assert steps.index("USER criticflow") < steps.index("RUN make setup DEVICE=${DEVICE}")


def test_every_file_that_the_setup_reads_is_copied():
    copied = set(re.findall(r"^    (\S+) /opt/criticflow/$", APPTAINER, re.MULTILINE))
    assert all((PROJECT / name).exists() for name in copied)
    pyproject = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'^(?:readme|license-files) = \[?"(.+?)"', pyproject, re.MULTILINE))
    assert named | {"Makefile", "pyproject.toml", "setup.py", "requirements", "workflow"} <= copied
    left_out = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    assert not set(left_out) & copied


def test_the_catalog_finds_what_its_scraper_reads():
    told = yaml.safe_load((PROJECT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(told) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(told["mandatory-flags"]) == {"desc", "flags"}
    assert set(told["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda"}
    assert (PROJECT / "workflow/Snakefile").is_file() and (PROJECT / "config/README.md").is_file()
    readme = (PROJECT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme and "workflow" in readme


def test_one_version_stands_everywhere():
    version = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.M)[1]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    package = (PROJECT / "workflow/scripts/criticflow/__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{version}"' in package
    changes = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == version
    assert f"criticflow-{version}-py3" in (PROJECT / "docs/install.md").read_text(encoding="utf-8")
