"""Whole training runs with search in the loop: verl, vLLM, Ray, FSDP2 and BM25 on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from whole_runs import json_lines, storages

from criticflow.config import load_config
from criticflow.retrieval.protocol import FORMATS, TOKEN
from criticflow.runtime.processes import run_owned
from criticflow.stages import base_model, corpus
from criticflow.stages.data import prepare
from criticflow.training.environment import environment
from criticflow.training.overrides import Places, verl_overrides
from criticflow.training.own_retriever import own_retriever

pytestmark = pytest.mark.slow

STUDY: dict[str, Any] = {
    "models": {
        "base": {
            "attn_implementation": "sdpa",
            "build": {
                "task": "facts", "tokenizer": "words", "hidden_size": 64, "intermediate_size": 128,
                "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "max_positions": 184,
                "sft": {"steps": 80, "batch_size": 32},
            },
        }
    },
    "tasks": {
        "facts": {
            "kind": "search",
            "prompt": "{question}",
            "source": {"facts": {"people": 100, "questions": 150}},
            "split": {"val": 4, "test": 4},
            "max_prompt_length": 24,
            "max_response_length": 160,
            "search": {"max_turns": 2, "max_turn_tokens": 16, "max_observation_tokens": 56},
        }
    },
    "runs": {
        "masked": {
            "model": "base",
            "task": "facts",
            "train": {
                "steps": 2, "batch_size": 8, "mini_batch_size": 8, "micro_batch_size": 4,
                "actor_lr": 1.0e-3, "critic_lr": 1.0e-2, "save_every": 1, "keep_checkpoints": 2,
                "lam": 0.9, "kl_coef": 0.01,
            },
        },
        "unmasked": {"like": "masked", "search": {"mask_observations": False}},
        "oracle": {
            "like": "masked", "critic": {"oracle": {"continuations": 3}, "freeze": True},
        },
    },
    "truth": {"actors": []},
}  # fmt: skip
STUDY["models"]["calling"] = {
    "attn_implementation": "sdpa",
    "build": STUDY["models"]["base"]["build"]
    | {
        "task": "calls",
        "tokenizer": "characters",
        "max_positions": 1200,
        "sft": {"steps": 240, "batch_size": 16, "label_smoothing": 0.0},
    },
}
STUDY["tasks"]["calls"] = STUDY["tasks"]["facts"] | {
    "max_prompt_length": 460,
    "max_response_length": 740,
    "search": {
        "format": "tool_calls", "max_turns": 2, "max_turn_tokens": 120,
        "max_observation_tokens": 200,
    },
}  # fmt: skip
STUDY["runs"]["calling"] = {"like": "masked", "model": "calling", "task": "calls"}
CONFIG = load_config(STUDY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return prepared(tmp_path_factory.mktemp("search"), "base")


def prepared(path: Path, model: str) -> Path:
    """Data, corpus and base model."""
    build = CONFIG.models[model].build
    task = CONFIG.tasks[build.task]
    prepare(build.task, task, path / "data")
    corpus.build(task.source, None, path / "corpus")
    train_parquet = path / "data" / "train.parquet"
    base_model.build(build, train_parquet, path / "base", task, path / "corpus")
    return path


def train(
    folder: Path,
    name: str,
    arm: str = "masked",
    code: int = 0,
    extra: dict[str, str] | None = None,
    **verl: Any,
):
    """Checkpoints, what was printed, metrics and responses of a training."""
    settings = CONFIG.runs[arm]
    overrides = verl_overrides(
        settings,
        CONFIG.models[settings.model],
        CONFIG.tasks[settings.task],
        CONFIG.resources,
        name="arm",
        seed=0,
        places=Places(
            str(folder / "base"), None, folder / "data", folder / name, folder / "corpus"
        ),
    )
    common = {
        "hydra.run.dir": str(folder / name / "hydra"),
        "trainer.rollout_data_dir": str(folder / name / "responses"),
    }
    overrides += [f"{key}={value}" for key, value in (common | verl).items()]
    metrics = folder / f"{name}.jsonl"
    log = folder / f"{name}.log"
    argv = [sys.executable, "-m", "criticflow.train", *overrides]
    found = run_owned(argv, environment(CONFIG.resources, metrics) | (extra or {}), log)
    output = log.read_text(errors="replace")
    assert found == code, output[-8000:]
    rows = [line["data"] for line in json_lines(metrics)] if metrics.exists() else []
    dumps = sorted((folder / name / "responses").glob("*.jsonl"))
    responses = pd.DataFrame([line for dump in dumps for line in json_lines(dump)])
    return folder / name, output, pd.DataFrame(rows), responses


@pytest.fixture(scope="module")
def masked(folder):
    return train(folder, "masked")


def test_the_actor_searches_reads_and_learns(masked):
    checkpoints, _, metrics, responses = masked
    assert len(responses) == 16 and len(metrics) == 2
    read = responses["output"].map(FORMATS["tags"].read)
    assert (read.map(len) > 0).mean() > 0.3  # the base model has learned that much
    assert read.explode().dropna().str.contains(" of ").mean() > 0.5  # facts
    assert (metrics["training/num_turns/max"] == 4).any()  # two searches, an answer, the prompt
    assert (metrics["actor/grad_norm"] > 0).all() and (metrics["critic/grad_norm"] > 0).all()
    actor = [storages(checkpoints / f"global_step_{step}" / "actor") for step in (1, 2)]
    assert actor[0] != actor[1]


def test_the_same_seed_gives_the_same_dialogues_also_across_a_resume(folder, masked):
    train(folder, "resumed", **{"trainer.total_training_steps": 1})
    resumed = train(folder, "resumed")
    assert resumed[3]["output"].tolist() == masked[3]["output"].tolist()
    for model in ("actor", "critic"):
        one, two = (storages(run[0] / "global_step_2" / model) for run in (masked, resumed))
        assert one == two


def test_without_the_mask_the_same_dialogues_teach_something_else(folder, masked):
    unmasked = train(folder, "unmasked", "unmasked", **{"trainer.total_training_steps": 1})
    first = masked[3][masked[3]["step"] == 1]
    assert sorted(unmasked[3]["output"]) == sorted(first["output"])
    for model in ("actor", "critic"):
        one, two = (storages(run[0] / "global_step_1" / model) for run in (masked, unmasked))
        assert one != two


def test_an_oracle_goes_on_with_dialogues_from_their_turns(folder, masked):
    last = {"trainer.total_training_steps": 1}
    first, _, metrics, responses = train(folder, "oracle", "oracle", **last)
    again, _, same, _ = train(folder, "oracle-again", "oracle", **last)
    turns = responses["output"].map(FORMATS["tags"].read).map(len) + 1
    found = metrics["criticflow/oracle/continuations"].iloc[0]
    # Three from where each turn begins, and from where the last token is chosen (which may be one).
    assert 3 * turns.sum() <= found <= 3 * (turns + 1).sum()
    assert (metrics["criticflow/oracle/tokens"] == same["criticflow/oracle/tokens"]).all()
    one, two = (storages(path / "global_step_1" / "actor") for path in (first, again))
    assert one == two


def test_a_retriever_that_is_gone_ends_the_training_with_its_name(folder):
    service = "{url:'http://127.0.0.1:9',timeout_seconds:1.0,retries:0}"
    gone = {"search.corpus": "null", "search.service": service}
    _, output, _, _ = train(folder, "gone", code=1, **gone)
    assert "the retriever at http://127.0.0.1:9 does not answer" in output


def test_tool_calls_are_searched_for_and_trained_on(tmp_path):
    folder = prepared(tmp_path, "calling")
    last = {"trainer.total_training_steps": 1}
    _, _, metrics, responses = train(folder, "calls", "calling", **last)
    used = FORMATS["tool_calls"]
    assert responses["input"].str.contains('"name": "search"').all()
    read = responses["output"].map(used.read)
    assert read.map(len).sum() > 0 and read.explode().dropna().str.contains(" of ").any()
    assert (metrics["actor/grad_norm"] > 0).all() and metrics["training/num_turns/max"].max() > 2


def test_over_a_retriever_of_its_own_a_training_is_the_same(folder, masked):
    with own_retriever(folder / "corpus", folder / "retriever.log") as retriever:
        served = {
            "trainer.total_training_steps": 1,
            "search.service": f"{{url:'{retriever.url}',timeout_seconds:20.0,retries:1}}",
        }
        train(folder, "served", extra={TOKEN: retriever.token}, **served)
    first = masked[3][masked[3]["step"] == 1]
    dumps = sorted((folder / "served" / "responses").glob("*.jsonl"))
    found = [line["output"] for dump in dumps for line in json_lines(dump)]
    assert sorted(found) == sorted(first["output"])


CONVERSE = """
import sys
from pathlib import Path
import pandas as pd
from criticflow.models.dialogues import converse, search_engine
from criticflow.models.sampling import Engine
from criticflow.stages.samples import add_scores, read_problems
from test_whole_search import CONFIG

folder, task = Path(sys.argv[1]), CONFIG.tasks["facts"]
problems = read_problems(folder / "data" / "train.parquet").head(24)
model = CONFIG.models["base"]
search = search_engine(task, folder / "corpus")
with Engine(folder / "base", model, 184, CONFIG.resources) as engine:
    prompts = list(problems["prompt"])
    found = add_scores(converse(engine, search, prompts, 2, 1.0, 0), problems)
    turned = converse(engine, search, prompts[::-1], 2, 1.0, 0)
    found["turned"] = turned.set_index(["prompt", "sample_index"])["response"].loc[
        list(zip(found["prompt"], found["sample_index"]))
    ].to_numpy()
    found["greedy"] = list(converse(engine, search, prompts, 1, 0.0, 0)["response"].repeat(2))
found.to_parquet(folder / "samples.parquet")
"""


def test_an_evaluation_holds_the_dialogues_of_training(folder):
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n{CONVERSE}", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    samples = pd.read_parquet(folder / "samples.parquet")
    assert (samples["turned"] == samples["response"]).all()  # whatever the order of the prompts
    assert (samples["greedy"] != samples["response"]).any()
    assert (samples["written"].map(sum) == samples["n_tokens"]).all()
    assert (samples["logprobs"].map(len) == samples["n_tokens"]).all()
    assert (samples["tokens"].map(len) - samples["n_tokens"] == samples["tokens_read"]).all()
    read = samples["response"].map(FORMATS["tags"].read)
    assert (read.map(len) > 0).mean() > 0.3 and samples["gold_retrieved"].max() == 1
    # Of one prompt the samples differ: each has a seed of its own.
    assert samples.groupby("prompt_index")["response"].nunique().max() == 2
