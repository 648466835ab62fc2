"""From verl's FSDP checkpoint of a critic or an actor to a HuggingFace directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
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


def convert(
    local_dir: Path | str,
    target_dir: Path | str,
    kind: Kind,
    *,
    trust_remote_code: bool = False,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
    reload: bool = True,
    overwrite: bool = False,
    progress: bool = False,
    source_hashes: Callable[[], list[str]] | None = None,
) -> dict[str, Any]:
    """Convert an FSDP checkpoint; ``target_dir`` appears only when everything is verified.

    Args:
        local_dir: verl's ``.../global_step_N/critic`` or ``actor``.
        kind: ``critic`` gives a ``<Family>ForTokenClassification``, ``actor`` a
            ``<Family>ForCausalLM``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps each tensor's own.
        max_shard_size: Larger models are written as several files with an index.
        reload: Also load the result with transformers and compare it with the shards. Needs
            memory for the model, and is left out (and said so) where that is not available.
        overwrite: Replace a ``target_dir`` that is not empty.
        progress: Show a bar on stderr.
        source_hashes: Waits for the SHA-256 of the rank files, where that was begun before.

    Returns:
        The manifest, also written to ``target_dir/conversion.json``.

    Raises:
        UserError: the checkpoint is incomplete, damaged or not of this kind; the target is not
            empty; no space. Nothing is left behind then.
    """
    local_dir, target_dir = Path(local_dir), Path(target_dir)
    if dtype is not None and dtype not in _DTYPES:
        raise UserError(f"dtype {dtype}: choose {', '.join(_DTYPES)}")
    shards = read_shards(local_dir)
    require_free_target(target_dir, local_dir, overwrite)
    stored = assemble(shards)
    names, notes = labels.rename(list(stored), kind)
    head = labels.head_kind(set(names.values())) if kind == "critic" else None
    tensors = {name: stored[key] for key, name in names.items()}
    main_dtype = str(_main_dtype(tensors, dtype)).removeprefix("torch.")
    stored_config = labels.read_config(local_dir / "huggingface")
    notes = [*shards.notes, *notes]

    hashes = nullcontext(source_hashes) if source_hashes else hashing(shards.paths)
    with replacing(target_dir) as partial, hashes as source_hashes:
        partial.mkdir()
        notes += _copy_companions(local_dir / "huggingface", partial, kind)

        def label_and_compare() -> tuple[str, dict[str, str]]:
            """Write ``config.json``; returns the architecture and the names of tied tensors."""
            config = labels.label(stored_config, kind, head, main_dtype, trust_remote_code)
            write_json(partial / "config.json", config)
            shapes, tied = expected_shapes(partial, kind, trust_remote_code)
            compare_names({name: t.shape for name, t in tensors.items()}, shapes, tied)
            return config["architectures"][0], tied

        # Importing transformers takes longer than small models take to write, so both go on at
        # once; but with tied embeddings the model's code says first which name is written.
        architecture, tied = None, {}
        if kind == "actor" and stored_config.get("tie_word_embeddings"):
            architecture, tied = label_and_compare()
        kept, aliases = _drop_tied(tensors, tied)
        outputs = [
            Output(name, tensor, _output_dtype(tensor, dtype)) for name, tensor in kept.items()
        ]
        require_space(target_dir, sum(output.nbytes for output in outputs))
        comparisons = [
            use
            for alias, name in aliases.items()
            for use in _alias_uses(tensors[alias], tensors[name])
        ]
        with (
            safetensors_files(partial, outputs, max_shard_size) as files,
            Transfer(shards, stored.values(), outputs, files, comparisons, progress) as job,
        ):
            if architecture is None:
                architecture, _ = label_and_compare()
            job.result()
        weights = sum(output.nbytes for output in outputs)
        reloaded = reload and fits_in_memory(weights)
        if reload and not reloaded:
            notes.append(f"reload check left out: {weights / 1e9:.1f} GB do not fit into memory")
        with ThreadPoolExecutor(1) as pool:
            described = pool.submit(_describe_outputs, partial)
            if reloaded:
                check_reload(partial, kind, shards.files, kept, trust_remote_code)
        manifest = {
            "kind": kind,
            "architecture": architecture,
            "value_head": head,
            "dtype": main_dtype,
            "parameters": sum(tensor.numel for tensor in kept.values()),
            "tensors": len(kept),
            "tied": aliases,
            "source": _describe_source(local_dir, shards, kept, source_hashes()),
            "outputs": described.result(),
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
            "notes": notes,
        }
        write_json(partial / MANIFEST, manifest)
    return manifest


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
