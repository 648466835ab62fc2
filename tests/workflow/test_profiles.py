"""What the profiles say fits the workflow."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import yaml
from snake import PROJECT, RUNS, snakemake

PROFILE = PROJECT / "workflow/profiles/slurm/config.yaml"
SLURM = ["--dry-run", "--profile", str(PROFILE.parent)]


def submitted_rules() -> dict[str, str]:
    """Text of every rule that a cluster gets, by name; one that is derived has its origin's."""
    text = "\n".join(path.read_text() for path in (PROJECT / "workflow").rglob("*.smk"))
    blocks = re.split(r"^(?=rule \w+:)", text, flags=re.MULTILINE)
    named = {match[1]: block for block in blocks if (match := re.match(r"rule (\w+):", block))}
    return {name: block for name, block in named.items() if "\n    localrule: True\n" not in block}


def test_every_submitted_rule_says_how_much_memory_and_time_it_takes():
    rules = submitted_rules()
    assert {"train_run", "build_corpus", "judge_critic"} <= rules.keys()
    assert not {"summarise", "prepare_data"} & rules.keys()
    for name, text in rules.items():
        asked = set(
            re.findall(r"^        (\w+)=", text.partition("    resources:\n")[2], re.MULTILINE)
        )
        assert {"mem_mb", "runtime"} <= asked, name
        if {
            "gpu",
            "total_gpus",
        } & asked:  # else Slurm would also take a job's GPUs from several nodes
            assert {"cpus_per_gpu", "nodes"} <= asked, name


def test_every_key_of_the_slurm_profile_has_its_reason():
    lines = PROFILE.read_text().splitlines()
    for above, line in pairwise(lines):
        if re.match(r"[a-z]", line):
            assert above.startswith("#"), line


@pytest.mark.parametrize("profile", ["slurm", "gpu"])
def test_a_study_can_be_planned_with_the_profile(tmp_path, profile):
    folder = str(PROJECT / "workflow/profiles" / profile)
    done = snakemake(tmp_path, "--dry-run", "--profile", folder)
    assert done.returncode == 0, done.stderr
    assert all(f"Train {run}, seed 0" in done.stdout + done.stderr for run in RUNS)


def test_a_job_for_more_gpus_than_the_profile_allows_is_an_error(tmp_path):
    train = {"batch_size": 16, "mini_batch_size": 16, "micro_batch_size": 1}
    wish = {"resources": {"gpu": 16}, "train": train}
    done = snakemake(tmp_path, *SLURM, overlay=wish)
    assert done.returncode == 1
    told = done.stdout + done.stderr
    assert "takes 16 GPUs, and the profile allows 8 to all jobs together" in told


def test_a_sites_file_replaces_what_the_profile_says(tmp_path):
    (tmp_path / "site.yaml").write_text("resources: {total_gpus: 16}\n")
    train = {"batch_size": 16, "mini_batch_size": 16, "micro_batch_size": 1}
    wish = {"resources": {"gpu": 16}, "train": train}
    done = snakemake(tmp_path, *SLURM, "--profile", str(tmp_path / "site.yaml"), overlay=wish)
    assert done.returncode == 0, done.stderr


def test_what_cannot_fit_the_sites_gpus_is_refused_before_anything_is_submitted(tmp_path):
    experiment = PROJECT / "config/experiments/qwen3-4b-countdown-grpo.yaml"
    raw = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    raw["resources"]["gpu_memory_gb"] = 24
    done = snakemake(tmp_path, "--profile", str(PROFILE.parent), overlay=raw)
    assert done.returncode == 1
    assert "of a GPU with 24 GiB" in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
