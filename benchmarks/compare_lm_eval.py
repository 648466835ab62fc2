"""GSM8K exact match by lm-eval and by criticflow, on the same generations.

    pip install --target LM_EVAL --no-deps lm-eval sacrebleu evaluate pytablewriter rouge-score \
        sqlitedict word2number more-itertools scikit-learn portalocker colorama lxml
    PYTHONPATH=LM_EVAL python benchmarks/compare_lm_eval.py DATA [--samples SAMPLES]

``DATA`` holds ``test.jsonl`` of GSM8K. lm-eval runs its own ``gsm8k`` task (data, filters, metric)
with a model that answers from a list. The list is made of the reference solutions of the first
``--limit`` problems, written in several ways, or it is ``SAMPLES``: ``samples.parquet`` of an
evaluation, whose greedy responses are compared.

Prints a Markdown table: share of exact matches, criticflow (``strict``: the answer stands after
``####``; ``flexible``: the score) and lm-eval (``strict-match``, ``flexible-extract``), and on how
many responses they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="compare-lm-eval-"))

import lm_eval
import pandas as pd
import yaml
from lm_eval.api.model import LM

from criticflow.tasks import get_task
from criticflow.tasks._wording import text_key

FILTERS = {"strict": "strict-match", "flexible": "flexible-extract"}

Writer = Callable[[str, str, random.Random], str]
"""A response from the reasoning, the answer (plain digits) and a generator of its own."""


def wrong(answer: str) -> str:
    return str(int(answer) + 1)


def as_asked(reasoning: str, answer: str, draw: random.Random) -> str:
    """What a model may write that keeps to the format: right, wrong, or cut before its answer."""
    kind = draw.choice(["right", "right", "wrong", "cut"])
    if kind == "cut":
        return reasoning[: len(reasoning) // 2]
    number = answer if kind == "right" else wrong(answer)
    return f"{reasoning}\n#### {number}{draw.choice(['', '.', ' dollars'])}"


WRITERS: dict[str, Writer] = {
    "reference solutions": lambda why, n, _: f"{why}\n#### {n}",
    "our format": lambda why, n, _: f"<think>\n{why}\n</think>\n#### {n}",
    "one too many": lambda why, n, _: f"{why}\n#### {wrong(n)}",
    "no marks": lambda why, n, _: f"{why}\nThe answer is {n}.",
    "right, wrong and cut": as_asked,
    "thousands separator": lambda why, n, _: f"{why}\n#### {int(n):,}",
    "currency": lambda why, n, _: f"{why}\n#### ${n}",
    "no space": lambda why, n, _: f"{why}\n####{n}",
    "Markdown": lambda why, n, _: f"{why}\n#### **{n}**",
    "decimals": lambda why, n, _: f"{why}\n#### {n}.00",
    "sum": lambda why, n, _: f"{why}\n#### 1 + {int(n) - 1} = {n}",
    "corrected": lambda why, n, _: f"{why}\n#### {wrong(n)}\nNo.\n#### {n}",
    "remark": lambda why, n, _: f"{why}\n#### {n}\nI checked it 2 times.",
    "box and remark": lambda why, n, _: f"{why}\n\\boxed{{{n}}} after 3 steps",
    "only thought": lambda why, n, _: f"<think>{why}\n#### {n}</think>\nI am done.",
}


class Fixed(LM):
    """A model that reads its response from the row."""

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        return [request.doc["response"] for request in requests]

    def loglikelihood(self, requests, disable_tqdm: bool = False):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False):
        raise NotImplementedError


def by_lm_eval(rows: list[dict[str, str]]) -> dict[str, list[bool]]:
    """Exact match per row under each of lm-eval's filters."""
    home = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    task = yaml.safe_load(home.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "test.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files = {split: str(data) for split in ("train", "test")}
        task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
        task |= {"dataset_name": None, "num_fewshot": 0}
        found = lm_eval.simple_evaluate(model=Fixed(), tasks=[task], bootstrap_iters=0)
    matches: dict[str, dict[int, bool]] = {name: {} for name in FILTERS.values()}
    for sample in found["samples"]["gsm8k"]:
        matches[sample["filter"]][sample["doc_id"]] = bool(sample["exact_match"])
    return {
        ours: [matches[theirs][number] for number in range(len(rows))]
        for ours, theirs in FILTERS.items()
    }


def by_criticflow(rows: list[dict[str, str]]) -> dict[str, list[bool]]:
    score = get_task("gsm8k").score
    found = [score(row["response"], gold(row)) for row in rows]
    return {
        "strict": [bool(score.parts["strict"]) for score in found],
        "flexible": [score.correct for score in found],
    }


def gold(row: dict[str, str]) -> str:
    return row["answer"].rpartition("####")[2].strip().replace(",", "")


def written(row: dict[str, str], name: str) -> dict[str, str]:
    """The row with a response, drawn from its own generator."""
    draw = random.Random(f"{name}:{row['question']}")
    reasoning = row["answer"].rpartition("####")[0].strip()
    return row | {"way": name, "response": WRITERS[name](reasoning, gold(row), draw)}


def greedy(rows: list[dict[str, str]], parquet: Path) -> list[dict[str, str]]:
    """The rows that an evaluation has, with its greedy responses."""
    frame = pd.read_parquet(parquet)
    responses = frame[frame["mode"] == "greedy"].set_index("key")["response"].to_dict()
    return [
        row | {"way": "greedy responses", "response": responses[key]}
        for row in rows
        if (key := text_key(row["question"])) in responses
    ]


def lines(rows: list[dict[str, str]], show: bool) -> Iterator[str]:
    """A line of the table for each way of writing."""
    ours, theirs = by_criticflow(rows), by_lm_eval(rows)
    table = pd.DataFrame(rows)[["way", "response", "answer"]]
    for kind in FILTERS:
        table[f"{kind}, ours"], table[f"{kind}, lm-eval"] = ours[kind], theirs[kind]
    for way, part in table.groupby("way", sort=False):
        cells = [way, str(len(part))]
        for kind in FILTERS:
            first, second = part[f"{kind}, ours"], part[f"{kind}, lm-eval"]
            cells += [f"{first.mean():.3f}", f"{second.mean():.3f}", str((first != second).sum())]
            for row in part[first != second].itertuples() if show else ():
                print(f"{way}, {kind}: {row.response!r}, reference {row.answer[-20:]!r}")
        yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with GSM8K's test.jsonl")
    parser.add_argument("--samples", type=Path, help="samples.parquet of an evaluation")
    parser.add_argument("--limit", type=int, default=200, help="problems")
    parser.add_argument("--show", action="store_true", help="print responses judged differently")
    given = parser.parse_args()
    text = (given.data / "test.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(row) for row in text.splitlines()]
    if given.samples:
        rows = greedy(rows, given.samples)[: given.limit]
    else:
        rows = [written(row, name) for name in WRITERS for row in rows[: given.limit]]
    table = list(lines(rows, given.show))
    print("| responses | n | strict: ours | lm-eval | differ | flexible: ours | lm-eval | differ |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(table))


if __name__ == "__main__":
    main()
