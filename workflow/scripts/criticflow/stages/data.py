"""Data preparation: load, clean, split, and write what verl reads.

The splits are disjoint by :attr:`Problem.key`; where a problem stands in two, the test split keeps
it before the validation split, and that before the training split. Which problems make up a split
that is smaller than its source, or cut out of another, and their order, is decided by a seeded hash
of the problem alone: the source's order (often by subject or difficulty) has no part in it, and the
first rows of a split are a random sample of it.
"""

from __future__ import annotations

import hashlib
import heapq
import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import replacing, sha256, write_json
from criticflow.models.hub import data_commit
from criticflow.tasks import chat, get_task
from criticflow.tasks._base import Dropped, Problem
from criticflow.tasks._rows import splits

SPLITS = ("train", "val", "test")

SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {"split": pa.string(), "index": pa.int64(), "key": pa.string(), "solution": pa.string()}
        ),
    }
)
"""verl's columns. A ground truth that is not text is stored as JSON text; the scorers read both."""


@dataclass
class _Part:
    """One split: its problems, and counts of the rows that were read for it."""

    name: str
    problems: list[Problem] = field(default_factory=list)
    read: int = 0
    clean: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    moved: int = 0

    @property
    def unused(self) -> int:
        return max(0, self.clean - self.moved - len(self.problems))

    def counts(self) -> str:
        dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(self.dropped.items())) or "none"
        return (
            f"{len(self.problems)} rows ({self.read} read; dropped: {dropped}; "
            f"{self.moved} moved to other splits, {self.unused} not asked for)"
        )


def prepare(name: str, task: config.Task, out_dir: Path | str) -> dict[str, Any]:
    """Write ``train``, ``val`` and ``test.parquet`` and ``manifest.json`` to ``out_dir``.

    Equal inputs, configuration and library versions give equal bytes. Row counts are printed.

    Returns:
        The manifest: per split the rows written, the rows read for it, why rows were dropped and
        the file's SHA-256; the source, the seed and the versions of the libraries.

    Raises:
        UserError: the source cannot be read; a split comes out empty, or a split that is cut out of
            train comes out smaller than asked for.
    """
    out_dir = Path(out_dir)
    parts = _split(name, task)
    manifest: dict[str, Any] = {
        "task": name,
        "kind": task.kind,
        "source": _described(task.source),
        "test_source": _described(task.test_source) if task.test_source else None,
        "seed": task.split.seed,
        "splits": {},
        "versions": {lib: importlib.metadata.version(lib) for lib in ("datasets", "pyarrow")},
    }
    for split in SPLITS:
        part, path = parts[split], out_dir / f"{split}.parquet"
        _write(path, task, part)
        manifest["splits"][split] = {
            "rows": len(part.problems),
            "read": part.read,
            "dropped": dict(sorted(part.dropped.items())),
            "moved_to_other_splits": part.moved,
            "unused": part.unused,
            "sha256": sha256(path),
        }
        print(f"{name} {split}: {part.counts()}")
    write_json(out_dir / "manifest.json", manifest)
    return manifest


def _split(name: str, task: config.Task) -> dict[str, _Part]:
    """Read and clean the splits that the source has; cut the others out of its train split."""
    kind, sizes = get_task(task.kind), task.split
    has = splits(task.source)
    whole = "all" if "all" in has else "train"
    if whole not in has:
        raise UserError(f"tasks.{name}.source: has no train split, only {', '.join(has) or 'none'}")
    test_source = task.test_source or task.source
    parts = {split: _Part(split) for split in SPLITS}
    taken: dict[str, str] = {}

    cut: dict[str, int] = {}
    if "test" in splits(test_source):
        _fill(parts["test"], kind.problems(test_source, "test"), taken, sizes.test, sizes.seed)
    elif task.test_source:
        raise UserError(f"tasks.{name}.test_source: has no test split")
    elif sizes.test is None:
        raise UserError(
            f"tasks.{name}.split.test: the source has no test split; say how many problems to take"
        )
    else:
        cut["test"] = sizes.test
    if "val" in has:
        _fill(parts["val"], kind.problems(task.source, "val"), taken, sizes.val, sizes.seed)
    else:
        cut["val"] = sizes.val
    train = parts["train"]
    wanted = None if sizes.train is None else sizes.train + sum(cut.values())
    _fill(train, kind.problems(task.source, whole), taken, wanted, sizes.seed)
    for split, size in cut.items():
        parts[split].problems, train.problems = train.problems[:size], train.problems[size:]
        train.moved += len(parts[split].problems)

    for part in parts.values():
        source = test_source if part.name == "test" else task.source
        if len(part.problems) < cut.get(part.name, 1):
            raise UserError(
                f"tasks.{name}: too few problems for {part.name} in {_named(source)}: "
                + "; ".join(f"{other.name}: {other.counts()}" for other in parts.values())
            )
    return parts


def _fill(
    part: _Part,
    items: Iterator[Problem | Dropped],
    taken: dict[str, str],
    limit: int | None,
    seed: int,
) -> None:
    """Read a split, and keep at most ``limit`` problems, in the order of their rank."""

    def rank(problem: Problem) -> bytes:
        return hashlib.sha256(f"{seed}:{problem.key}".encode()).digest()

    clean = _clean(part, items, taken)
    if limit is None:
        part.problems = sorted(clean, key=rank)
    else:  # needs memory for ``limit`` problems only, however large the source is
        part.problems = heapq.nsmallest(limit, clean, key=rank)


def _clean(
    part: _Part, items: Iterator[Problem | Dropped], taken: dict[str, str]
) -> Iterator[Problem]:
    """Drop and count; ``taken`` maps the keys met so far to the split that has them."""
    for item in items:
        part.read += 1
        if isinstance(item, Dropped):
            part.dropped[item.reason] += 1
        elif item.key in taken:
            owner = taken[item.key]
            part.dropped["duplicate" if owner == part.name else f"also in {owner}"] += 1
        else:
            taken[item.key] = part.name
            part.clean += 1
            yield item


def _write(path: Path, task: config.Task, part: _Part) -> None:
    rows = [
        {
            "data_source": task.kind,
            "prompt": chat(task, problem),
            "ability": "search" if task.search else "math",
            "reward_model": {"style": "rule", "ground_truth": _text(_truth(task, problem))},
            "extra_info": {
                "split": part.name,
                "index": index,
                "key": problem.key,
                "solution": problem.solution,
            },
        }
        for index, problem in enumerate(part.problems)
    ]
    with replacing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial)


def _truth(task: config.Task, problem: Problem) -> Any:
    if task.search is None:
        return problem.ground_truth
    used = {} if task.search.format == "tags" else {"format": task.search.format}
    return problem.ground_truth | {"reward": task.search.reward} | used


def _text(ground_truth: Any) -> str:
    return ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth)


def _described(source: config.Source) -> dict[str, Any]:
    """The source's settings; of local files their contents' hashes too, of the hub the commit."""
    description = source.model_dump(exclude_none=True)
    if source.hub is not None:
        description["commit"] = data_commit(source.hub, source.revision)
    if source.files is not None:
        description["sha256"] = {split: sha256(path) for split, path in source.files.items()}
    return description


def _named(source: config.Source) -> str:
    if source.hub is not None:
        return f"hub {source.hub}"
    if source.files is not None:
        return f"files {', '.join(source.files.values())}"
    return "the generator"
