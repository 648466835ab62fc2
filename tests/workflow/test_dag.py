"""Which jobs there are, and which of them a change makes run again."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from snake import PROJECT, TWO_RUNS, grid_of_critics, snakemake
from snake import finish as finish_study
from snake import planned as planned_study

from criticflow.config.merging import merge
from criticflow.planning.sources import source_files

EVERYTHING_OF_TWO = Counter(
    prepare_data=1,
    build_base_model=1,
    probe_signal=1,
    train_run=1,
    train_run_warm=1,
    convert_checkpoint=4,
    evaluate_base=1,
    evaluate_run=2,
    compare_tempered=1,
    evaluate_critic=2,
    summarise=1,
    truth_of_base=1,
    truth_of_run=2,
    judge_critic=2,
    critics_table=1,
    compare_arms=1,
    report_page=1,
    snakemake_report=1,
)
TRUTHS = {"truth_of_base", "truth_of_run", "judge_critic", "critics_table"}
# What one run's own part of the critics' table is made of.
JUDGED = Counter(truth_of_run=1, judge_critic=1, critics_table=1)
REPORTS = Counter(report_page=1, snakemake_report=1)
TABLES = Counter(summarise=1, compare_arms=1) + REPORTS
EVALUATIONS = {"evaluate_base", "evaluate_run", "evaluate_critic", "compare_tempered", *TABLES}
WARM = (
    Counter(train_run_warm=1, convert_checkpoint=2, evaluate_run=1, evaluate_critic=1)
    + JUDGED
    + TABLES
)


def planned(workdir: Path, *arguments: str, overlay: Any = None, **options: Any) -> Counter[str]:
    """The jobs of a study of two runs, with ``overlay`` over that."""
    overlay = merge(TWO_RUNS, overlay or {})
    return planned_study(workdir, *arguments, overlay=overlay, **options)


def finish(workdir: Path, overlay: Any = None, **options: Any) -> None:
    finish_study(workdir, overlay=merge(TWO_RUNS, overlay or {}), **options)


def test_the_default_trains_five_runs_and_measures_the_truth_of_the_base_and_of_cold(tmp_path):
    jobs = planned_study(tmp_path)
    assert (jobs["train_run"], jobs["train_run_warm"]) == (3, 2)
    assert (jobs["truth_of_base"], jobs["truth_of_run"]) == (1, 1)
    assert jobs["evaluate_run"] == 5


def test_everything_is_planned_once(tmp_path):
    assert planned(tmp_path) == EVERYTHING_OF_TWO


@pytest.mark.parametrize(
    ("target", "last", "without"),
    [
        ("data", "prepare_data", "build_base_model"),
        ("probe", "probe_signal", "train_run"),
        ("train", "train_run_warm", "evaluate_run"),
        ("convert", "convert_checkpoint", "evaluate_run"),
        ("evaluate", "compare_arms", "report_page"),
        ("report", "snakemake_report", "no such rule"),
    ],
)
def test_each_target_stops_at_its_stage(tmp_path, target, last, without):
    jobs = planned(tmp_path, target)
    assert last in jobs
    assert without not in jobs


def test_a_run_per_seed_and_critics_only_where_there_are_any(tmp_path):
    overlay = {
        "seeds": [0, 1, 2],
        "runs": {"group": {"like": "cold", "algorithm": "grpo", "train": {"rollout_n": 2}}},
    }
    jobs = planned(tmp_path, overlay=overlay)
    assert jobs["train_run"] == 6
    assert jobs["train_run_warm"] == 3
    assert jobs["convert_checkpoint"] == 3 * (2 + 2 + 1)
    assert jobs["evaluate_critic"] == 3 * (1 + 1)


GRID = {
    "runs": {"warm-frozen-m50": None},
    "contrasts": [],
    "grid": {"study": grid_of_critics({"m0": {}, "m0.5": {"reward_mask": {"ratio": 0.5}}})},
}
OF_A_TRAINING = Counter(
    convert_checkpoint=2, evaluate_run=1, evaluate_critic=1, truth_of_run=1, judge_critic=1
)
ALL_TABLES = TABLES + Counter(critics_table=1)


def test_a_grid_is_planned_run_by_run_and_shares_what_is_shared(tmp_path):
    jobs = planned(tmp_path, overlay=GRID)
    shared = ("prepare_data", "build_base_model", "probe_signal", "evaluate_base", "truth_of_base")
    shared += ("compare_tempered",)
    others = Counter({rule: 5 * count for rule, count in OF_A_TRAINING.items()})
    # Cold, and a constant at each mask; the warm ones at each mask.
    trainings = Counter(train_run=3, train_run_warm=2)
    assert jobs == Counter(dict.fromkeys(shared, 1)) + trainings + others + ALL_TABLES


@pytest.fixture(scope="module")
def finished_grid(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("grid")
    finish(workdir, overlay=GRID)
    return workdir


@pytest.mark.parametrize(
    ("overlay", "jobs"),
    [
        ({}, Counter()),
        (
            {"grid": {"study": {"factors": {"mask": {"m0.9": {"reward_mask": {"ratio": 0.9}}}}}}},
            Counter(train_run=1, train_run_warm=1) + OF_A_TRAINING + OF_A_TRAINING,
        ),
        (
            {"grid": {"study": {"exclude": [{"critic": "constant", "mask": "m0"}]}}},
            Counter(),
        ),
        (
            {"seeds": [0, 1]},
            Counter(train_run=3, train_run_warm=2)
            + Counter({rule: 5 * count for rule, count in OF_A_TRAINING.items()}),
        ),
        (
            {
                "grid": {
                    "study": {
                        "override": [
                            {"where": {"critic": "constant"}, "settings": {"seeds": [0, 1]}}
                        ]
                    }
                }
            },
            Counter(train_run=2) + OF_A_TRAINING + OF_A_TRAINING,
        ),
        (
            {
                "contrasts": [
                    {"name": "worth", "a": "warm-frozen/m0.5", "b": "constant/m0.5"},
                ]
            },
            Counter(compare_arms=1) + REPORTS,
        ),
    ],
    ids=["nothing", "a run", "a run less", "a seed", "a seed of some runs", "a contrast"],
)
def test_a_further_run_or_seed_plans_just_that(finished_grid, overlay, jobs):
    changed = planned(finished_grid, overlay=merge(GRID, overlay))
    same = overlay.keys() <= {"contrasts"}  # neither a run nor a seed
    assert changed == (jobs if same else jobs + ALL_TABLES)


def test_a_named_model_is_not_built(tmp_path):
    overlay = {"models": {"named": {"path": "owner/name"}}, "runs": {"cold": {"model": "named"}}}
    assert "build_base_model" not in planned(tmp_path, overlay=overlay)


def test_the_probe_may_choose_the_training_problems(tmp_path):
    jobs = planned(tmp_path, overlay={"probe": {"filter": "mixed"}})
    assert jobs == EVERYTHING_OF_TWO + Counter(filter_training_set=1)


def test_with_the_gpu_profile_everything_is_planned_too(tmp_path):
    profile = ["--profile", str(PROJECT / "workflow/profiles/gpu")]
    overlay = {"resources": {"gpu": 1}}
    assert planned(tmp_path, *profile, overlay=overlay) == EVERYTHING_OF_TWO


def test_a_pretrained_critic_is_made_once_and_judged_on_those_who_start_with_it(tmp_path):
    overlay = {
        "critics": {"pretrained": {"model": "tiny", "task": "countdown-mini"}},
        "runs": {"warm-pretrained": {"like": "cold", "critic": {"from": "pretrained"}}},
    }
    jobs = planned(tmp_path, overlay=overlay)
    assert jobs["sample_returns"] == jobs["pretrain_critic"] == 1
    assert jobs["train_run_warm"] == 2
    assert jobs["judge_critic"] == 4


def test_a_step_that_a_run_starts_from_is_converted_besides_the_last(tmp_path):
    origin = {"run": "cold", "step": 20, "seed": 1}
    overlay = {
        "seeds": [0, 1],
        "runs": {"warm-step": {"like": "cold", "critic": {"from": origin}}},
    }
    jobs = planned(tmp_path, overlay=overlay)
    assert jobs["convert_step"] == 1
    assert jobs["convert_checkpoint"] == 2 * 3 * 2


def test_the_critics_and_actors_of_other_steps_are_compared_too(tmp_path):
    jobs = planned(tmp_path, overlay={"truth": {"steps": {"cold": [20]}}})
    assert jobs["convert_step"] == 2
    assert jobs["truth_of_run"] == 3 and jobs["judge_critic"] == 3
    assert jobs["truth_on_old_states"] == 1
    judged = "results/judged/cold/seed0/step20/rows.json"
    dry = snakemake(tmp_path, "--dry-run", judged, overlay={"truth": {"steps": {"cold": [20]}}})
    (reason,) = re.findall(rf"Missing output files: {judged}; (.*)", dry.stdout + dry.stderr)
    for actor in ("cold/seed0/actor", "cold/seed0/step20/actor"):
        assert f"results/runs/{actor}" in re.split("[ ,]+", reason)
    drifted = "results/truth/cold/seed0/step40/on_step20/countdown-mini/states.parquet"
    assert drifted in re.split("[ ,]+", reason)


def test_later_actors_are_measured_on_the_states_of_each_earlier_one_whose_critic_learned(tmp_path):
    steps = {"cold": [10, 20], "warm-frozen-m50": [20]}
    settings = {"seeds": [0, 1], "train": {"save_every": 10}}
    jobs = planned(tmp_path, overlay=settings | {"truth": {"steps": steps}})
    assert jobs["truth_of_run"] == 2 * (3 + 2) and jobs["truth_on_old_states"] == 2 * 3
    of_others = {"truth": {"steps": steps, "actors": ["warm-frozen-m50"]}}
    assert "truth_on_old_states" not in planned(tmp_path, overlay=settings | of_others)


@pytest.mark.parametrize(("key", "name"), [("pieces", "pieces"), ("audited", "tokens")])
def test_further_states_are_sampled_where_a_study_asks_for_them(tmp_path, key, name):
    file = f"results/truth/tiny/countdown-mini/{name}.parquet"
    jobs = planned(tmp_path, file, overlay={"truth": {key: 4}})
    assert jobs["truth_of_base"] == 1
    assert snakemake(tmp_path, "--dry-run", file, overlay={}).returncode != 0


def test_gradients_are_measured_on_a_truth_that_stays_as_it_is(tmp_path):
    table = "results/critics.json"
    jobs = planned(tmp_path, table, overlay={"truth": {"audited": 4}})
    more = planned(tmp_path, table, overlay={"truth": {"audited": 4, "gradients": True}})
    assert more - jobs == Counter(token_gradients_of_base=1, token_gradients_of_run=2)


def test_the_base_model_stands_beside_the_actors_that_are_named(tmp_path):
    jobs = planned(tmp_path, overlay={"tempered": {"actors": "all"}, "seeds": [0, 1]})
    assert jobs["entropy_curve"] == 1 and jobs["evaluate_tempered"] == 4
    learning = planned(tmp_path, overlay={"tempered": {"actors": "learning"}})
    assert learning["evaluate_tempered"] == 1
    assert planned(tmp_path)["compare_tempered"] == 1


def test_nobodys_truth_is_measured_if_none_is_asked_for(tmp_path):
    jobs = planned(tmp_path, overlay={"truth": {"actors": []}})
    assert not {"truth_of_base", "truth_of_run", "judge_critic"} & set(jobs)
    across = planned(tmp_path, overlay={"truth": {"actors": ["cold"], "across": True}})
    assert across["truth_of_run"] == 1 and across["judge_critic"] == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished")
    finish(workdir)
    return workdir


def test_what_is_finished_is_not_run_again(finished):
    assert planned(finished) == Counter()
    done = snakemake(finished, "--cores", "1", overlay=TWO_RUNS)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("overlay", "jobs"),
    [
        ({"runs": {"warm-frozen-m50": {"reward_mask": {"ratio": 0.3}}}}, WARM),
        (
            {"runs": {"cold": {"train": {"steps": 41}}}},
            WARM
            + Counter(train_run=1, convert_checkpoint=2, evaluate_run=1, evaluate_critic=1)
            + Counter(truth_of_run=1, judge_critic=1),
        ),
        (
            {"runs": {"plain": {"like": "cold", "train": {"lam": 0.95}}}},
            Counter(train_run=1, convert_checkpoint=2, evaluate_run=1, evaluate_critic=1)
            + JUDGED
            + TABLES,
        ),
        ({"probe": {"n": 4}}, Counter(probe_signal=1) + REPORTS),
        (
            {"probe": {"n": 4}, "runs": {"warm-frozen-m50": {"reward_mask": {"ratio": 0.3}}}},
            WARM + Counter(probe_signal=1),
        ),
        (
            {"evaluate": {"n": 8}},
            Counter(evaluate_base=1, evaluate_run=2, evaluate_critic=2, compare_tempered=1)
            + TABLES,
        ),
        ({"tasks": {"unused": {"kind": "gsm8k", "source": {"hub": "owner/name"}}}}, Counter()),
        ({"resources": {"free_converted": "all"}}, Counter()),
        ({"resources": {"stall_minutes": 7.0, "rollout_stall_minutes": 1.0}}, Counter()),
        ({"resources": {"kv_cache_gb": 3, "rollout_memory": 0.4, "cpu_ranks": 1}}, Counter()),
        ({"train": {"micro_batch_size": 16, "save_every": 7}}, Counter()),
        ({"train": {"verl": {"critic.fsdp.optimizer_offload": True}}}, Counter()),
        (
            {"train": {"verl": {"actor_rollout_ref.actor.clip_ratio": 0.1}}},
            WARM + Counter(train_run=1) + OF_A_TRAINING,
        ),
    ],
    ids=[
        "one run",
        "the run before it",
        "a further run",
        "probe",
        "probe and a run",
        "evaluation",
        "unused task",
        "what is kept",
        "how long one waits",
        "memory and ranks",
        "micro-batch and saving",
        "offload",
        "a setting of verl",
    ],
)
def test_a_changed_setting_reruns_what_depends_on_it(finished, overlay, jobs):
    changed = planned(finished, overlay=overlay)
    assert changed == jobs


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> tuple[Path, Path]:
    """A copy of the project, and a directory in which its study is finished."""
    workdir = tmp_path_factory.mktemp("work")
    project = tmp_path_factory.mktemp("copy") / "project"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("workflow", "config"):
        shutil.copytree(PROJECT / folder, project / folder, ignore=ignore)
    finish(workdir, project=project)
    return project, workdir


@pytest.mark.parametrize(
    ("module", "jobs"),
    [
        ("report/figures/curves.py", {"report_page", "snakemake_report"}),
        ("stats/calibration.py", {"evaluate_critic", "report_page", "snakemake_report"}),
        ("models/sampling.py", EVALUATIONS | TRUTHS | {"probe_signal"}),
        ("stages/evaluate.py", EVALUATIONS),
        ("stages/base_model.py", set(EVERYTHING_OF_TWO) - {"prepare_data", "compare_tempered"}),
        ("verl_plugin/trainer.py", set(WARM) | {"train_run"}),
        ("planning/sources.py", set()),  # used by the Snakefile, by no rule
    ],
)
def test_an_edited_module_reruns_the_rules_that_use_it(copied, module, jobs):
    project, workdir = copied
    file = project / "workflow" / "scripts" / "criticflow" / module
    before = file.read_text(encoding="utf-8")
    file.write_text(before + "\nEDITED = True\n", encoding="utf-8")
    changed = planned(workdir, project=project)
    file.write_text(before, encoding="utf-8")
    assert set(changed) == jobs


def test_a_comment_or_a_docstring_reruns_nothing(copied):
    project, workdir = copied
    file = project / "workflow" / "scripts" / "criticflow" / "models" / "sampling.py"
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace('"""', '"""Edited. ', 1) + "\n# edited\n", encoding="utf-8")
    changed = planned(workdir, project=project)
    file.write_text(before, encoding="utf-8")
    assert changed == Counter()


def test_the_summary_depends_on_no_engine_and_no_task():
    """Editing the sampler must not by itself remake the summary: it reads finished evaluations."""
    modules = {str(path).rpartition("criticflow/")[2] for path in source_files("summarise.py")}
    assert {"stages/compare.py", "stats/compare.py", "stats/outcomes.py"} <= modules
    assert not {path for path in modules if path.startswith(("models/", "tasks/", "checkpoint/"))}
    assert "stages/evaluate.py" not in modules


def test_a_newer_date_alone_reruns_nothing(copied):
    project, workdir = copied
    for file in (project / "workflow" / "scripts" / "criticflow").rglob("*.py"):
        file.touch()  # as a fresh checkout of the same commit does
    assert planned(workdir, project=project) == Counter()


def test_results_may_be_moved(finished, tmp_path):
    """All inputs of a rule have their names from the study's folder, wherever that is."""
    moved = tmp_path / "some" / "where" / "else"
    shutil.copytree(finished, moved, symlinks=True, copy_function=shutil.copy2)
    assert planned(moved) == Counter(snakemake_report=1)  # from where its Snakefile is now


def test_a_conversion_needs_no_key_that_has_a_default(tmp_path):
    """The stage has the validated configuration, also where the file leaves a section out."""
    project, workdir = tmp_path / "project", tmp_path / "work"
    shutil.copytree(PROJECT / "workflow", project / "workflow")
    (project / "config").mkdir()
    config = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
    del config["resources"]
    (project / "config/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    metrics = workdir / "results/runs/cold/seed0/metrics.parquet"
    metrics.parent.mkdir(parents=True)
    metrics.touch()
    actor = str((metrics.parent / "actor").relative_to(workdir))
    only = ["--allowed-rules", "convert_checkpoint", "--cores", "1", "--", actor]
    done = snakemake(workdir, *only, project=project)
    assert "seed0 holds no weights of the actor" in done.stdout + done.stderr
