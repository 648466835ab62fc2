"""From verl's FSDP checkpoint of a critic or an actor to a HuggingFace directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from criticflow.checkpoint import labels
from criticflow.checkpoint.hashing import block_hashes, hashing
from criticflow.checkpoint.labels import Kind
from criticflow.checkpoint.layout import StoredTensor, assemble
from criticflow.checkpoint.reload import check_reload
from criticflow.checkpoint.shards import Shards, read_shards
from criticflow.checkpoint.stream import Use
from criticflow.checkpoint.target import require_free_target
from criticflow.checkpoint.transfer import Transfer
from criticflow.checkpoint.verify import (
    MANIFEST,
    compare_names,
    expected_shapes,
    fits_in_memory,
)
from criticflow.checkpoint.writer import Output, safetensors_files
from criticflow.errors import UserError
from criticflow.files import replacing, require_space, write_json

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Options:
    """How a checkpoint is converted.

    Attributes:
        trust_remote_code: run model code that is in the checkpoint.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps each tensor's own.
        max_shard_size: larger models are written as several files with an index.
        reload: also load the result with transformers and compare it with the shards. Needs memory
            for the model, and is left out (and said so) where that is not available.
        overwrite: replace a target that is not empty.
        progress: show a bar on stderr.

    Raises:
        UserError: another ``dtype``.
    """

    trust_remote_code: bool = False
    dtype: str | None = None
    max_shard_size: str | int = "5GB"
    reload: bool = True
    overwrite: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise UserError(f"dtype {self.dtype}: choose {', '.join(_DTYPES)}")


def convert(
    local_dir: Path | str,
    target_dir: Path | str,
    kind: Kind,
    options: Options = Options(),
    source_hashes: Callable[[], list[str]] | None = None,
) -> dict[str, Any]:
    """Convert an FSDP checkpoint; ``target_dir`` appears only when everything is verified.

    Args:
        local_dir: verl's ``.../global_step_N/critic`` or ``actor``.
        kind: ``critic`` gives a ``<Family>ForTokenClassification``, ``actor`` a
            ``<Family>ForCausalLM``.
        source_hashes: waits for the SHA-256 of the rank files, where that was begun before.

    Returns:
        The manifest, also written to ``target_dir/conversion.json``.

    Raises:
        UserError: the checkpoint is incomplete, damaged or not of this kind; the target is not
            empty; no space. Nothing is left behind then.
    """
    local_dir, target_dir = Path(local_dir), Path(target_dir)
    shards = read_shards(local_dir)
    require_free_target(target_dir, local_dir, options.overwrite)
    source = _read_source(local_dir, shards, kind, options.dtype)
    hashes = nullcontext(source_hashes) if source_hashes else hashing(shards.paths)
    with replacing(target_dir) as partial, hashes as source_hashes:
        partial.mkdir()
        written = _write(source, partial, target_dir, options)
        reloaded, outputs, notes = _verify(source, written, partial, options)
        manifest = {
            "kind": kind,
            "architecture": written.architecture,
            "value_head": source.head,
            "dtype": source.dtype,
            "parameters": sum(tensor.numel for tensor in written.kept.values()),
            "tensors": len(written.kept),
            "tied": written.aliases,
            "source": _describe_source(local_dir, shards, written.kept, source_hashes()),
            "outputs": outputs,
            "verified": {
                "names and shapes": True,
                "finite": True,
                "replicas equal": True,
                "checksums": all(r.crc is not None for f in shards.files for r in f.records),
                "reload": reloaded,
                "reloaded tensors equal the shards": reloaded,
                "values on fixed tokens equal the shards": reloaded,
            },
            "versions": _versions(),
            "notes": [*source.notes, *written.notes, *notes],
        }
        write_json(partial / MANIFEST, manifest)
    return manifest


@dataclass(frozen=True)
class _Source:
    """A checkpoint under the names of the model that it becomes.

    Attributes:
        stored: all tensors by their name in the checkpoint.
        tensors: those that may be written, by their name in the model.
        head: ``linear`` or ``mlp``; None for an actor.
        dtype: floating-point type of most of what is written, without ``torch.``.
    """

    kind: Kind
    shards: Shards
    stored: dict[str, StoredTensor]
    tensors: dict[str, StoredTensor]
    head: str | None
    dtype: str
    folder: Path
    config: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class _Written:
    """What was written.

    Attributes:
        kept: the tensors, by name.
        aliases: names that were left out, with the tensor that each repeats.
        nbytes: of all tensors together.
    """

    architecture: str
    kept: dict[str, StoredTensor]
    aliases: dict[str, str]
    nbytes: int
    notes: list[str]


def _read_source(local_dir: Path, shards: Shards, kind: Kind, dtype: str | None) -> _Source:
    stored = assemble(shards)
    names, notes = labels.rename(list(stored), kind)
    head = labels.head_kind(set(names.values())) if kind == "critic" else None
    tensors = {name: stored[key] for key, name in names.items()}
    main_dtype = str(_main_dtype(tensors, dtype)).removeprefix("torch.")
    folder = local_dir / "huggingface"
    config, notes = labels.read_config(folder), [*shards.notes, *notes]
    return _Source(kind, shards, stored, tensors, head, main_dtype, folder, config, notes)


def _write(source: _Source, partial: Path, target_dir: Path, options: Options) -> _Written:
    """Write tokenizer, ``config.json`` and weights to ``partial``, and compare names and shapes."""
    notes = _copy_companions(source.folder, partial, source.kind)
    # Importing transformers takes longer than small models take to write, so both go on at once;
    # but with tied embeddings the model's code says first which name is written.
    architecture, tied = None, {}
    if source.kind == "actor" and source.config.get("tie_word_embeddings"):
        architecture, tied = _label_and_compare(source, partial, options.trust_remote_code)
    kept, aliases = _drop_tied(source.tensors, tied)
    outputs = [
        Output(name, tensor, _output_dtype(tensor, options.dtype)) for name, tensor in kept.items()
    ]
    nbytes = sum(output.nbytes for output in outputs)
    require_space(target_dir, nbytes)
    comparisons = [
        use
        for alias, name in aliases.items()
        for use in _alias_uses(source.tensors[alias], source.tensors[name])
    ]
    stored = source.stored.values()
    with (
        safetensors_files(partial, outputs, options.max_shard_size) as files,
        Transfer(source.shards, stored, outputs, files, comparisons, options.progress) as job,
    ):
        if architecture is None:
            architecture, _ = _label_and_compare(source, partial, options.trust_remote_code)
        job.result()
    return _Written(architecture, kept, aliases, nbytes, notes)


def _label_and_compare(
    source: _Source, partial: Path, trust_remote_code: bool
) -> tuple[str, dict[str, str]]:
    """Write ``config.json``; returns the architecture and the names of tied tensors."""
    config = labels.label(source.config, source.kind, source.head, source.dtype, trust_remote_code)
    write_json(partial / "config.json", config)
    shapes, tied = expected_shapes(partial, source.kind, trust_remote_code)
    compare_names({name: t.shape for name, t in source.tensors.items()}, shapes, tied)
    return config["architectures"][0], tied


def _verify(
    source: _Source, written: _Written, partial: Path, options: Options
) -> tuple[bool, list[dict[str, Any]], list[str]]:
    """Whether the result was reloaded and compared; its files with their hashes; notes."""
    reloaded, notes = options.reload and fits_in_memory(written.nbytes), []
    if options.reload and not reloaded:
        size = written.nbytes / 1e9
        notes.append(f"reload check left out: {size:.1f} GB do not fit into memory")
    with ThreadPoolExecutor(1) as pool:
        described = pool.submit(_describe_outputs, partial)
        if reloaded:
            files = source.shards.files
            check_reload(partial, source.kind, files, written.kept, options.trust_remote_code)
    return reloaded, described.result(), notes


def _main_dtype(tensors: dict[str, StoredTensor], dtype: str | None) -> torch.dtype:
    """The floating-point type of most elements."""
    if dtype is not None:
        return getattr(torch, dtype)
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel
    if not counts:
        raise UserError("the checkpoint has no floating-point tensor")
    return max(counts, key=lambda key: counts[key])


def _output_dtype(tensor: StoredTensor, dtype: str | None) -> torch.dtype:
    return getattr(torch, dtype) if dtype and tensor.dtype.is_floating_point else tensor.dtype


def _copy_companions(source: Path, target: Path, kind: Kind) -> list[str]:
    """Copy tokenizer, chat template, code and (actors) generation settings; returns notes."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.name in ("config.json", MANIFEST):
            continue
        if path.name.endswith(_WEIGHTS):
            continue
        if path.name == "generation_config.json" and kind != "actor":
            continue
        shutil.copyfile(path, target / path.name)
    if not any(target.glob("*token*")):
        return ["the checkpoint has no tokenizer: none was written"]
    return []


def _drop_tied(
    tensors: dict[str, StoredTensor], tied: dict[str, str]
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Leave out names that repeat a kept tensor.

    Returns:
        The tensors to write, and the left-out names, stored ones only, with what they repeat.
    """
    aliases = {alias: name for alias, name in tied.items() if alias in tensors and name in tensors}
    return {name: tensor for name, tensor in tensors.items() if name not in aliases}, aliases


def _alias_uses(alias: StoredTensor, original: StoredTensor) -> list[Use]:
    """Comparisons of a tied tensor with the one whose name is kept."""
    twins = {piece.box: piece for piece in original.pieces}
    if alias.dtype != original.dtype or any(piece.box not in twins for piece in alias.pieces):
        raise UserError(f"{alias.name} should repeat {original.name}, but is laid out differently")
    return [Use(piece, twin=twins[piece.box]) for piece in alias.pieces]


def _describe_source(
    local_dir: Path, shards: Shards, kept: dict[str, StoredTensor], hashes: list[str]
) -> dict[str, Any]:
    meshes = {tensor.mesh for tensor in kept.values() if tensor.mesh is not None}
    return {
        "directory": str(local_dir),
        "world_size": len(shards.files),
        "fsdp_version": shards.fsdp_version,
        "meshes": [
            {"names": list(mesh.names), "shape": list(mesh.shape)}
            for mesh in sorted(meshes, key=lambda mesh: mesh.shape)
        ],
        "files": [
            {"name": file.path.name, "bytes": file.size, "sha256": digest}
            for file, digest in zip(shards.files, hashes, strict=True)
        ],
    }


def _describe_outputs(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": block_hashes(path)}
        for path in paths
    ]


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("criticflow", "torch", "transformers", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
