"""What search in the loop costs beside its tokens.

    python benchmarks/bench_dialogues.py STUDY MODEL TASK

``STUDY`` is a study's working directory, whose base model ``MODEL`` holds dialogues about the test
problems of ``TASK``: rendering, turns, searches, scores and the data frame included. Bare
``vllm.LLM.generate`` then gets the requests of the same turns, with the same tokens and seeds, all
of one turn at once, as the dialogues sent them. Both alternate; the best of three counts. Prints
one JSON object: seconds of both, their ratio, and the share of the first that is searching.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml

from criticflow.config import load_config
from criticflow.config.merging import merge
from criticflow.models.dialogues import SearchEngine, converse, search_engine
from criticflow.models.sampling import Engine
from criticflow.planning.project import PROJECT
from criticflow.stages.samples import add_scores, read_problems


class Timed:
    """A retriever, and the seconds that it takes."""

    def __init__(self, retriever: Any) -> None:
        self.retriever, self.seconds, self.queries = retriever, 0.0, 0

    def search(self, queries: list[str], topk: int) -> Any:
        start = time.perf_counter()
        found = self.retriever.search(queries, topk)
        self.seconds += time.perf_counter() - start
        self.queries += len(queries)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("model")
    parser.add_argument("task")
    parser.add_argument("--configfile", default="config/studies/search.yaml")
    parser.add_argument("--prompts", type=int, default=128)
    given = parser.parse_args()
    default = yaml.safe_load((PROJECT / "config/config.yaml").read_text(encoding="utf-8"))
    overlay = yaml.safe_load(Path(given.configfile).read_text(encoding="utf-8"))
    study = load_config(merge(default, overlay))
    task, results = study.tasks[given.task], given.study / "results"
    search = search_engine(task, results / "corpora" / given.task)
    problems = read_problems(results / "data" / given.task / "test.parquet").head(given.prompts)
    prompts = list(problems["prompt"])
    positions = task.max_prompt_length + task.max_response_length
    with Engine(
        results / "models" / given.model, study.models[given.model], positions, study.resources
    ) as engine:
        sent: list[tuple[Any, ...]] = []
        generate = engine._llm.generate

        def recorded(inputs: Any, params: Any, **options: Any) -> Any:
            sent.append((inputs, params))
            return generate(inputs, params, **options)

        def ours(retriever: Any) -> int:
            timed = SearchEngine(retriever, search.limits, search.topk)
            samples = add_scores(converse(engine, timed, prompts, 1, 1.0, 0), problems)
            return int(samples["n_tokens"].sum())

        engine._llm.generate = recorded
        tokens = ours(search.retriever)  # also the first batch, which is slower
        engine._llm.generate = generate
        best = bare = share = float("inf")
        for _ in range(3):
            retriever = Timed(search.retriever)
            start = time.perf_counter()
            assert ours(retriever) == tokens
            seconds = time.perf_counter() - start
            if seconds < best:
                best, share = seconds, retriever.seconds / seconds
            start = time.perf_counter()
            for inputs, params in sent:
                generate(inputs, params, use_tqdm=False)
            bare = min(bare, time.perf_counter() - start)
    figures = {
        "dialogues": len(prompts),
        "turns": sum(len(inputs) for inputs, _ in sent),
        "tokens_written": tokens,
        "dialogues_s": round(best, 3),
        "bare_s": round(bare, 3),
        "ratio": round(best / bare, 3),
        "searching_share": round(share, 4),
        "queries": retriever.queries,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
