"""The configuration: what is shipped is valid and explained, what is wrong is said in words."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from snakemake.utils import update_config

from criticflow.config import Config, load_config, read_config
from criticflow.config.grid import Grid
from criticflow.config.load import DESCRIPTION, merge
from criticflow.errors import UserError
from criticflow.planning.tokenizers import check_critics_tokenizers

CONFIGS = Path(__file__).parents[2] / "config"
DEFAULT = CONFIGS / "config.yaml"


def raw(**over: Any) -> dict[str, Any]:
    """The default configuration as YAML gives it, with sections merged over it.

    Without its contrasts: most of these changes would make them compare two things at once.
    """
    return merge(yaml.safe_load(DEFAULT.read_text(encoding="utf-8")), {"contrasts": []} | over)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path):
    over = {} if path == DEFAULT else yaml.safe_load(path.read_text(encoding="utf-8"))
    config = load_config(merge(yaml.safe_load(DEFAULT.read_text(encoding="utf-8")), over))
    assert config.runs


def test_a_run_may_have_nodes_and_ranks_of_its_own_which_others_inherit_from_it():
    own = {"nodes": 2, "cpu_ranks": 1}
    config = load_config(
        raw(runs={"constant": {"resources": own}, "constant-m50": {"resources": {"nodes": None}}})
    )
    used = {name: config.resources_of(name) for name in ("cold", "constant", "constant-m50")}
    assert {name: (one.nodes, one.cpu_ranks) for name, one in used.items()} == {
        "cold": (1, 2),
        "constant": (2, 1),
        "constant-m50": (1, 1),
    }
    assert used["constant"].kv_cache_gb == config.resources.kv_cache_gb


def test_an_overlay_takes_away_what_it_sets_to_null():
    config = load_config(raw(runs={"warm-frozen-m50": None}))
    assert list(config.runs) == ["cold", "constant", "warm-frozen", "constant-m50"]
    with pytest.raises(UserError, match="cold"):
        load_config(raw(runs={"cold": None}))  # the others inherit from it
    with pytest.raises(UserError, match=r"no run named 'warm-frozen-m50'.* contrasts: \[\]"):
        default = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
        load_config(merge(default, {"runs": {"warm-frozen-m50": None}}))


def fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        for part in parts(field.annotation):
            yield from fields(part)


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation such as ``dict[str, Model]`` or ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def test_every_key_is_explained():
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    explained |= {part for name in explained for part in name.split(".")}
    explained |= set(re.findall(r"^## (\w+)", text, re.MULTILINE))
    assert {*fields(Config), *fields(Grid)} - explained == set()


def test_every_key_of_the_default_has_a_comment_of_its_own_or_its_sections():
    section_commented = False
    for line in DEFAULT.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            section_commented = True
        elif re.match(r"\w", line):
            assert section_commented or "#" in line, f"no comment above or beside: {line}"
            section_commented = False


def test_a_run_inherits_and_overrides_single_keys():
    config = load_config(
        raw(runs={"third": {"like": "warm-frozen-m50", "train": {"steps": 7}, "critic": {}}})
    )
    third, warm = config.runs["third"], config.runs["warm-frozen-m50"]
    assert third.train.steps == 7
    assert third.train.batch_size == warm.train.batch_size == config.runs["cold"].train.batch_size
    assert third.critic == warm.critic
    assert third.reward_mask.ratio == 0.5


def test_reading_changes_nothing_it_was_given():
    given = raw()
    before = yaml.safe_dump(given)
    load_config(given)
    assert yaml.safe_dump(given) == before


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"proob": {}}, "proob: unknown key"),
        ({"train": {"steps": 1.5}}, "runs.cold.train.steps"),
        ({"train": {"actor_lr": "1e-6"}}, "write 1.0e-6"),
        ({"models": {"tiny": {"path": "x/y"}}}, "exactly one of path, build"),
        ({"models": {"tiny": {"build": {"task": "none"}}}}, "no task named 'none'"),
        ({"runs": {"cold": {"model": "none"}}}, "no model named 'none'; there is tiny"),
        ({"runs": {"cold": {"task": "sums"}}}, "runs.cold.task: no task named 'sums'"),
        ({"runs": {"warm-frozen-m50": {"critic": {"from": "hot"}}}}, "no run named 'hot'"),
        ({"tasks": {"countdown-mini": {"kind": "chess"}}}, "no such task kind"),
        ({"tasks": {"countdown-mini": {"kind": "base"}}}, "no such task kind"),
        ({"tasks": {"countdown-mini": {"kind": "gsm8k.x"}}}, "no such task kind"),
        ({"train": {"batch_size": 100}}, "batch_size 100 is not a multiple"),
        ({"seeds": []}, "seeds"),
        ({"runs": {"a b": {"like": "cold"}}}, "runs"),
        ({"runs": {"x": {"like": "nobody"}}}, "runs.x.like: no run named 'nobody'"),
        ({"runs": {"x": {"like": "x"}}}, "like is a cycle: x -> x"),
        ({"runs": {"cold": {"critic": {"from": "cold"}}}}, "cycle: cold -> cold"),
        ({"runs": {"cold": {"reward_mask": {"ratio": 1.5}}}}, "runs.cold.reward_mask.ratio"),
        ({"runs": {"cold": {"algorithm": "grpo"}}}, "grpo"),
        ({"train": {"micro_batch_size": 24}}, "is not divisible by 2 ranks"),
        (
            {"runs": {"constant": {"resources": {"nodes": 2}}}},
            "runs.constant.train: a mini-batch of 64 trajectories (mini_batch_size x rollout_n) is "
            "not divisible by 4 ranks",
        ),
        (
            {"runs": {"cold": {"resources": {"gpu": 2}}}},
            "runs.cold.resources.gpu: 2, but the study is on the CPU (resources.gpu: 0)",
        ),
        (
            {"resources": {"gpu": 2}, "runs": {"cold": {"resources": {"cpu_ranks": 1}}}},
            "runs.cold.resources.cpu_ranks: has no effect, the study is on GPUs",
        ),
        ({"runs": {"cold": {"resources": {"gpu": 0}}}}, "runs.cold.resources.gpu"),
        (
            {"runs": {"cold": {"resources": {"kv_cache_gb": 2}}}},
            "runs.cold.resources.kv_cache_gb: unknown key",
        ),
        ({"evaluate": {"k": [8]}}, "k=8 needs n >= 8"),
        ({"runs": {"warm-frozen-m50": {"critic": {"path": "x"}}}}, "'from' or 'path', not both"),
        ({"runs": {"cold": {"critic": {"freeze": True}}}}, "runs.cold.critic: freeze: true would"),
        (
            {"runs": {"warm-frozen-m50": {"critic": {"value_head": "mlp"}}}},
            "value_head: mlp, but cold trains a critic whose head is linear",
        ),
        (
            {
                "models": {"other": {"path": "owner/name"}},
                "runs": {"warm-frozen-m50": {"model": "other"}},
            },
            "cold trains tiny, warm-frozen-m50 trains other: their tokenizers differ",
        ),
        ({"train": {"critic_warmup": 40}}, "with 40 of 40 steps the actor would never learn"),
        ({"probe": {"filter": [0.2]}}, "probe.filter: write mixed, or a range [a, b]"),
        ({"probe": {"filter": [0.8, 0.2]}}, "probe.filter: write mixed, or a range [a, b]"),
        (
            {"tasks": {"countdown-mini": {"split": {"train": 100}}}},
            "128 prompts a step, but countdown-mini has at most 100 training problems",
        ),
        (
            {"tasks": {"countdown-mini": {"source": {"generate": {"problems": 64}}}}},
            "has at most 64 training problems",
        ),
        (
            {"tasks": {"countdown-mini": {"max_response_length": 120}}},
            "are more than the 128 positions of tiny",
        ),
        (
            {"tasks": {"countdown-mini": {"kind": "gsm8k"}}},
            "tasks.countdown-mini.source.generate: kind gsm8k has no generator, only countdown has",
        ),
        (
            {"tasks": {"countdown-mini": {"test_source": {"generate": {"problems": 9}}}}},
            "tasks.countdown-mini.test_source: has no test split",
        ),
        (
            {"tasks": {"countdown-mini": {"split": {"test": None}}}},
            "tasks.countdown-mini.split.test: the source has no test split",
        ),
        (
            {"tasks": {"other": {"kind": "gsm8k", "source": {"files": {"train": "a.jsonl"}}}}},
            "tasks.other.split.test: the source has no test split",
        ),
        (
            {
                "tasks": {
                    "other": {
                        "kind": "gsm8k",
                        "source": {"files": {"val": "a.csv", "test": "b.csv"}},
                    }
                }
            },
            "tasks.other.source.files: there is no train among test, val",
        ),
        ({"train": {"strategy": "fsdp"}}, "runs.cold.train.strategy: fsdp needs a GPU"),
        (
            {"runs": {"cold": {"reward_mask": {"ratio": 1.0, "rescale": True}}}},
            "rescale: with ratio 1 nothing is left",
        ),
        ({"train": {"lost_trajectories": 1.0}}, "train.lost_trajectories"),
    ],
)
def test_a_mistake_is_named_with_its_key(over, says):
    with pytest.raises(UserError) as error:
        load_config(raw(**over))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_only_looks_like_one_of_these_mistakes_loads():
    frozen = {"freeze": True, "allow_untrained": True}
    config = load_config(
        raw(
            models={"bigger": {"build": {"task": "countdown-mini", "hidden_size": 256}}},
            runs={
                "warm-frozen-m50": {"model": "bigger", "train": {"critic_warmup": 40}},
                "untrained": {"like": "cold", "critic": frozen},
                "constant": {"like": "cold", "critic": {"freeze": True, "constant": 0.4}},
                "path": {"like": "cold", "critic": {"freeze": True, "path": "critics/one"}},
            },
            tasks={
                "hub": {"kind": "gsm8k", "source": {"hub": "a/b"}},
                "cut": {
                    "kind": "math",
                    "source": {"files": {"train": "a.csv"}},
                    "split": {"test": 9},
                },
                "two": {
                    "kind": "math",
                    "source": {"files": {"train": "a.csv"}},
                    "test_source": {"hub": "a/b"},
                },
            },
            probe={"filter": [0.2, 0.2]},
        )
    )
    assert len(config.runs) == 7
    assert load_config(raw(train={"strategy": "fsdp"}, resources={"gpu": 2})).resources.gpu == 2


def test_all_mistakes_are_named_at_once():
    with pytest.raises(UserError) as error:
        load_config(raw(probe={"N": 1}, evaluate={"seeed": 2}))
    assert "probe.N: unknown key; evaluate.seeed: unknown key" in str(error.value)


@pytest.mark.parametrize("text", ["runs: [", "\t- x"])
def test_a_file_that_is_no_yaml_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_config(path)


VALUES = st.sampled_from([None, 1, "text", [1, 2]])
KEYS = st.sampled_from("abc")
TREES = st.dictionaries(
    KEYS, st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, min_size=1), max_leaves=4)
)
"""Without empty sections: Snakemake leaves what an empty section stands over as it was."""


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, TREES)
def test_runs_inherit_as_snakemake_merges_files(base, over):
    expected = copy.deepcopy(base)
    update_config(expected, copy.deepcopy(over))
    assert merge(base, over) == expected


def test_directories_whose_tokenizers_differ_share_no_critic(tmp_path):
    for name, tokens in (("one", "ab"), ("same", "ab"), ("other", "ba")):
        vocabulary = {token: number for number, token in enumerate(tokens)}
        tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": []}
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(tokenizer))
    models = {name: {"path": str(tmp_path / name)} for name in ("one", "same", "other")}
    models |= {"tiny": None, "hub": {"path": "owner/name"}}

    def check(warm: str) -> None:
        runs = {"cold": {"model": "one"}, "warm-frozen-m50": {"model": warm}}
        config = load_config(raw(models=models, runs=runs))
        check_critics_tokenizers(config)

    check("same")
    check("hub")  # nothing is known of it here
    with pytest.raises(UserError, match=r"warm-frozen-m50\.critic\.from: .*tokenizers differ"):
        check("other")


def test_a_job_reads_what_snakemake_has_with_the_description_of_runs():
    assert load_config(raw() | {DESCRIPTION: {"cold": "PPO"}}) == load_config(raw())
