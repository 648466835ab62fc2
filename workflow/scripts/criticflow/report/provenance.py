"""What each training was made with and from: what is equal in all, and what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What runs were made with and from.

    Attributes:
        common: name and value of what is equal in all runs.
        own: name, run and value of what is not.
    """

    common: list[tuple[str, Any]]
    own: list[tuple[str, str, Any]]


def facts(records: Mapping[str, dict[str, Any]]) -> Facts:
    """Every entry of the records, once where all runs share it.

    Of the code there is one checksum over all files, and further ones for files in which runs
    differ.
    """
    rows = {name: dict(_flat(_shown(record))) for name, record in records.items()}
    differing = _differing_code(records)
    for name, record in records.items():
        rows[name] |= {f"code.{file}": record["code"].get(file) for file in differing}
    found = Facts([], [])
    for key in dict.fromkeys(key for row in rows.values() for key in row):
        values = {name: row.get(key) for name, row in rows.items()}
        first, *others = values.values()
        if all(value == first for value in others):
            found.common.append((key, first))
        else:
            found.own.extend((key, name, value) for name, value in values.items())
    return found


def notes(records: Mapping[str, dict[str, Any]], installed: Mapping[str, str]) -> list[str]:
    """What differs between the runs, within one, or from what is installed now.

    Args:
        records: each run's ``provenance.json``, by name.
        installed: versions of libraries, as in the records.
    """
    found = []
    for name, record in records.items():
        attempts = record["attempts"]
        for number, attempt in enumerate(attempts, 1):
            if attempt["git"]["dirty"]:
                found.append(f"{name}, attempt {number}: tracked files differed from the commit")
            if changed := "; ".join(attempt["changed"]):
                found.append(f"{name}: from step {attempt['steps']['from']} on, {changed}")
        for package in installed.keys() | {key for one in attempts for key in one["versions"]}:
            used = list(dict.fromkeys(one["versions"].get(package) for one in attempts))
            if used != [installed.get(package)]:
                made = ", then ".join(str(version) for version in used)
                found.append(
                    f"{name}: versions differ: made with {package} {made}; installed when this "
                    f"page was made: {installed.get(package)}"
                )
        for entry in record["accepted"]:
            found.append(
                f"{name}: accepted by {entry['who']}, {entry['when']}, although "
                f"{'; '.join(entry['differs'])}"
            )
    if files := _differing_code(records):
        found.append(f"the runs were not made by the same code: {', '.join(files)}")
    return sorted(found)


def _differing_code(records: Mapping[str, dict[str, Any]]) -> list[str]:
    """Files that runs which depend on them have in different versions."""
    hashes: dict[str, set[str]] = {}
    for record in records.values():
        for file, digest in record["code"].items():
            hashes.setdefault(file, set()).add(digest)
    return sorted(file for file, found in hashes.items() if len(found) > 1)


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is shown: code as one checksum, attempts and what was accepted numbered."""
    code = json.dumps(record["code"], sort_keys=True).encode()
    numbered = {
        key: {str(number): one for number, one in enumerate(record[key], 1)}
        for key in ("attempts", "accepted")
    }
    return record | numbered | {"code": {"all files": hashlib.sha256(code).hexdigest()}}


def _flat(record: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """``a.b.c`` and value of everything in nested dictionaries; of an empty one nothing."""
    if isinstance(record, dict):
        for key, value in record.items():
            yield from _flat(value, f"{where}.{key}".lstrip("."))
    elif isinstance(record, list):
        yield where, "; ".join(map(str, record))
    else:
        yield where, record
