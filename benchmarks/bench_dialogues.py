"""What dialogues with a search engine cost beside their tokens.

    python benchmarks/bench_dialogues.py STUDY

``STUDY`` is a directory in which ``config/studies/search.yaml`` has run at least until its base
model is made. Dialogues about a step's worth of problems are held as probe and evaluation hold
them: rendering, turns, searches, scores and the data frame included. Bare ``vllm.LLM.generate``
then gets the same requests, a turn's all at once: the same tokens, seeds and stop strings. Both
alternate; medians count, of the ratio that of each round's. The queries are also searched for in a
larger corpus of the same kind.

Before that a training makes rollouts of as many dialogues a step: that of the run ``ppo``, in which
actor and critic stay as they are, so that all steps have dialogues of the same model as the others.
Counted are verl's ``timing_s/gen``, scores and the way to the trainer included, without the first
steps. Its engines have a thread each: so has bare vLLM with ``OMP_NUM_THREADS=1``. Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from criticflow.config import Config, Facts
from criticflow.models.dialogues import SearchEngine, converse, search_engine
from criticflow.models.sampling import Engine
from criticflow.planning.project import PROJECT
from criticflow.planning.study import read_study
from criticflow.retrieval.bm25 import Bm25, build_corpus
from criticflow.retrieval.corpus import Document, Found, Retriever
from criticflow.runtime.processes import run_owned
from criticflow.stages.samples import add_scores, read_problems
from criticflow.tasks._facts import documents
from criticflow.training.environment import environment
from criticflow.training.overrides import Places, verl_overrides

RUN, MODEL, TASK = "ppo", "tiny-search", "facts"
ROUNDS = 15
WARM = 3
"""Steps of a training that are not counted."""


class Timed:
    """A retriever, what it is asked, and the seconds that it takes."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self.calls: list[list[str]] = []
        self.seconds = 0.0

    def search(self, queries: Sequence[str], topk: int) -> list[list[Found]]:
        start = time.perf_counter()
        found = self.retriever.search(queries, topk)
        self.seconds += time.perf_counter() - start
        self.calls.append(list(queries))
        return found


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def larger(count: int, calls: list[list[str]], topk: int) -> float:
    """Seconds for the same queries among ``count`` facts: of the same people, drawn again."""
    drawn = (
        Document(f"{seed}-{fact.id}", fact.contents)
        for seed in itertools.count()
        for fact in documents(Facts(seed=seed))
    )
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(itertools.islice(drawn, count), Path(folder) / "corpus")
        retriever = Bm25(Path(folder) / "corpus")

        def search() -> None:
            for queries in calls:
                retriever.search(queries, topk)

        return median(seconds(search) for _ in range(ROUNDS))


def rollouts(study: Config, results: Path) -> list[float]:
    """Seconds of a training's rollouts, step by step."""
    run, task, model = study.runs[RUN], study.tasks[TASK], study.models[MODEL]
    data, corpus = results / "data" / TASK, results / "corpora" / TASK
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = Places(
            str((results / "models" / MODEL).resolve()), None, data.resolve(), folder, corpus
        )
        overrides = verl_overrides(
            run, model, task, study.resources, name="bench", seed=0, places=places
        )
        overrides += [
            f"trainer.total_training_steps={WARM + ROUNDS}",
            f"trainer.critic_warmup={WARM + ROUNDS + 1}",
            "critic.freeze=true",
            "critic.constant=0.0",
            "trainer.save_freq=-1",
            f"hydra.run.dir={folder / 'hydra'}",
        ]
        metrics, log = folder / "metrics.jsonl", folder / "log"
        argv = [sys.executable, "-m", "criticflow.train", *overrides]
        if run_owned(argv, environment(study.resources, metrics), log):
            raise RuntimeError(log.read_text(errors="replace")[-4000:])
        lines = metrics.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["data"]["timing_s/gen"] for line in lines][WARM:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--documents", type=int, default=20_000, help="of the larger corpus")
    given = parser.parse_args()
    study = read_study([PROJECT / "config/studies/search.yaml"])
    task, results = study.tasks[TASK], given.study / "results"
    search = search_engine(task, results / "corpora" / TASK)
    problems = read_problems(results / "data" / TASK / "test.parquet").head(
        study.runs[RUN].train.batch_size
    )
    longest = task.max_prompt_length + task.max_response_length
    in_training = median(rollouts(study, results))

    with Engine(
        results / "models" / MODEL, study.models[MODEL], longest, study.resources
    ) as engine:
        generate = engine._llm.generate
        sent: list[tuple[Any, Any]] = []

        def recorded(inputs: Any, params: Any, **options: Any) -> Any:
            sent.append((inputs, params))
            return generate(inputs, params, **options)

        def ours(retriever: Retriever) -> int:
            asked = SearchEngine(retriever, search.limits, search.topk, search.format)
            samples = converse(engine, asked, list(problems["prompt"]), 1, 1.0, 0)
            return int(add_scores(samples, problems)["n_tokens"].sum())

        def bare() -> int:
            outputs = [generate(*turn, use_tqdm=False) for turn in sent]
            return sum(len(one.outputs[0].token_ids) for turn in outputs for one in turn)

        engine._llm.generate = recorded
        tokens = ours(search.retriever)  # the first batch, which is slower
        engine._llm.generate = generate
        if bare() != tokens:
            raise RuntimeError("the same requests were answered with other tokens")
        rounds = []
        for _ in range(ROUNDS):
            timed = Timed(search.retriever)
            rounds.append((seconds(partial(ours, timed)), timed.seconds, seconds(bare)))
    dialogues_s, search_s, bare_s = map(median, zip(*rounds, strict=True))
    figures = {
        "dialogues": len(problems),
        "turns": sum(len(inputs) for inputs, _ in sent),
        "tokens_written": tokens,
        "queries": sum(map(len, timed.calls)),
        "dialogues_s": dialogues_s,
        "bare_s": bare_s,
        "ratio": median(ours_s / bare_s for ours_s, _, bare_s in rounds),
        "search_s": search_s,
        "rollouts_s": in_training,
        "rollouts_ratio": in_training / bare_s,
        f"search_s_in_{given.documents}": larger(given.documents, timed.calls, search.topk),
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
