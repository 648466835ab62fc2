"""Rows of a source: local files or the Hugging Face hub, one split at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from criticflow.config import Source
from criticflow.errors import UserError

_VAL = dict.fromkeys(("validation", "valid", "dev"), "val")


def splits(source: Source) -> list[str]:
    """The splits that a source has; a generator has only ``"all"``.

    Raises:
        UserError: the hub cannot be reached, or has no such data set.
    """
    if source.made is not None:
        return ["all"]
    return list(source.files if source.files is not None else _hub(source))


def rows(source: Source, split: str) -> Iterator[dict[str, Any]]:
    """Rows of one split in the source's order, one at a time.

    Raises:
        UserError: a file is missing, broken or of another format; the hub cannot be reached; the
            source is a generator.
    """
    if source.files is not None:
        yield from _file_rows(Path(source.files[split]))
    elif source.hub is not None:
        with _readable(source):
            yield from _hub(source)[split]
    else:
        raise UserError("source.generate: this task has no generator; give hub or files")


def _hub(source: Source) -> dict[str, Any]:
    """The splits of a hub data set, under our names; rows are fetched when they are read."""
    import datasets  # slow to import, and needed for the hub only

    with _readable(source):
        found = datasets.load_dataset(
            source.hub, source.name, revision=source.revision, streaming=source.stream
        )
    return {_VAL.get(name, name): found[name] for name in found}


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:  # offline, no such name, a broken file
        raise UserError(
            f"source.hub: cannot read {source.hub!r} from the Hugging Face hub ({error}): check "
            "the name and the connection, or give local files with source.files"
        ) from error


def _file_rows(path: Path) -> Iterator[dict[str, Any]]:
    readers = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}
    if path.suffix not in readers:
        raise UserError(f"{path}: expected a .jsonl, .parquet or .csv file")
    if not path.is_file():
        raise UserError(f"{path}: no such file (source.files)")
    yield from readers[path.suffix](path)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", error)
                raise UserError(f"{path}, line {number}: not valid JSON ({reason})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object")
            yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from None


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            yield from csv.DictReader(stream)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from None
