"""Search in the workflow: what is planned for tasks with search, and what is refused."""

from __future__ import annotations

import pytest
import yaml
from snake import PROJECT, planned

from criticflow.config.load import load_config
from criticflow.config.merging import merge
from criticflow.errors import UserError
from criticflow.planning.study import read_study
from criticflow.training.deciding import deciding

STUDY = PROJECT / "config/studies/search.yaml"
EXPERIMENT = PROJECT / "config/experiments/qwen2.5-3b-search.yaml"


def overlay(path=STUDY, **changes):
    return merge(yaml.safe_load(path.read_text(encoding="utf-8")), changes)


def study(**changes):
    default = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
    return load_config(merge(default, overlay(**changes)))


def test_a_corpus_is_made_once_for_all_jobs_of_its_task(tmp_path):
    jobs = planned(tmp_path, overlay=overlay())
    assert jobs["build_corpus"] == 1 and jobs["evaluate_run"] == 3
    assert "truth_of_base" not in jobs and "truth_of_run" not in jobs


def test_with_a_service_no_corpus_is_made(tmp_path):
    service = {"url": "http://127.0.0.1:8000"}
    jobs = planned(tmp_path, overlay=overlay(tasks={"facts": {"search": {"service": service}}}))
    assert "build_corpus" not in jobs and jobs["train_run"] == 2


def test_for_a_retriever_of_the_trainings_own_the_corpus_is_made(tmp_path):
    search = {"service": {}, "dense": {"encoder": "owner/encoder"}}  # whatever its index is
    jobs = planned(tmp_path, overlay=overlay(tasks={"facts": {"search": search}}))
    assert jobs["build_corpus"] == 1 and jobs["train_run"] == 2


def test_the_experiment_is_planned_and_its_limits_fit(tmp_path):
    corpus = tmp_path / "wiki.jsonl"
    corpus.write_text('{"id": "0", "contents": "\\"A\\"\\nB"}\n')
    searched = {"nq-hotpotqa": {"search": {"corpus": str(corpus)}}}
    jobs = planned(tmp_path, overlay=overlay(EXPERIMENT, tasks=searched))
    assert jobs["build_corpus"] == 1 and jobs["train_run"] == 2 and jobs["train_run_warm"] == 1
    task = read_study([EXPERIMENT]).tasks["nq-hotpotqa"]
    longest = task.search.max_turns * (
        task.search.max_turn_tokens + task.search.max_observation_tokens
    )
    assert longest <= task.max_response_length


def test_where_a_corpus_is_searched_decides_no_weights():
    plain, unmasked = (deciding(study(), run) for run in ("ppo", "ppo-unmasked"))
    assert plain["run"]["search"] != unmasked["run"]["search"]
    service = {"url": "http://127.0.0.1:8000"}
    served = deciding(study(tasks={"facts": {"search": {"service": service}}}), "ppo")
    assert served == plain
    assert deciding(study(tasks={"facts": {"search": {"service": {}}}}), "ppo") == plain
    # The version of a corpus, which is compared besides, says how it is searched.
    assert deciding(study(tasks={"facts": {"search": {"dense": {}}}}), "ppo") == plain
    longer = deciding(study(tasks={"facts": {"search": {"topk": 5}}}), "ppo")
    assert longer != plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": {"actors": "all", "pieces": 4}}, "truth.pieces: facts has search"),
        ({"critics": {"p": {"model": "tiny-search", "task": "facts"}}}, "critics.p: facts has"),
        ({"tasks": {"facts": {"search": None}}}, "go together"),
        (
            {"tasks": {"facts": {"search": {"service": {"url": "http://a:8"}, "dense": {}}}}},
            "search.dense: the retriever at search.service.url",
        ),
        ({"tasks": {"facts": {"search": {"format": "tool_calls"}}}}, "use characters"),
        (
            {
                "tasks": {
                    "facts": {"source": {"facts": None, "hub": "a/b"}, "search": {"service": {}}}
                }
            },
            "give a corpus .* or the url of a service",
        ),
        (
            {
                "runs": {
                    "single": {
                        "model": "tiny",
                        "task": "countdown-mini",
                        "search": {"mask_observations": False},
                    }
                },
                "models": {"tiny": {"build": {"task": "countdown-mini"}}},
                "tasks": {
                    "countdown-mini": {
                        "kind": "countdown",
                        "source": {"generate": {}},
                        "split": {"test": 64},
                    }
                },
            },
            "countdown-mini has no search",
        ),
    ],
)
def test_what_does_not_work_with_search_is_refused_first(changes, message):
    with pytest.raises(UserError, match=message):
        study(**changes)
