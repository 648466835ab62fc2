"""What other programs' loaders make of a critic's head: whether its values are the same there.

The value head here is verl's, transformers' ``score`` of a ``...ForTokenClassification``: a weight
and a bias. Loaders whose head has none leave the bias out with at most a warning, and every value
differs by it. It can be put nowhere else: no linear function of an RMS norm's output is constant.
"""

from __future__ import annotations

from pathlib import Path

from criticflow.errors import UserError
from criticflow.files import read_json

WITHOUT_BIAS = {
    "openrlhf": ("OpenRLHF's critic", "it has no other head: the critic cannot be used there"),
    "trl": (
        "TRL's value model, a sequence classifier,",
        "give PPOTrainer an AutoModelForTokenClassification as value_model, which keeps it, and "
        "leave out --loader",
    ),
}
"""Loaders whose head has no bias: what they load, and what to do with a critic that has one."""
LOADERS = ("verl", *WITHOUT_BIAS)
_BIAS = "score.bias"


def check_checkpoint(local_dir: Path, loader: str) -> None:
    """Raise :class:`UserError` if the critic that ``local_dir`` becomes differs for ``loader``.

    Args:
        local_dir: verl's ``.../global_step_N/critic``.
        loader: of :data:`LOADERS`.
    """
    if loader not in WITHOUT_BIAS:
        return
    import torch

    from criticflow.checkpoint.labels import head_kind, rename
    from criticflow.checkpoint.layout import assemble
    from criticflow.checkpoint.shards import read_shards

    stored = assemble(read_shards(local_dir))
    names, _ = rename(list(stored), "critic")
    tensors = {name: stored[key] for key, name in names.items()}
    kind, bias = head_kind(set(tensors)), 0.0
    for piece in tensors[_BIAS].pieces if _BIAS in tensors else ():
        if piece.box.numel:  # of one rank
            with open(piece.file.path, "rb") as file:
                file.seek(piece.local.start)
                held = bytearray(file.read(tensors[_BIAS].dtype.itemsize))
            bias = torch.frombuffer(held, dtype=tensors[_BIAS].dtype).item()
    _check(local_dir, kind, bias, loader)


def check_export(folder: Path, loader: str) -> None:
    """Raise :class:`UserError` if the critic in a HuggingFace directory differs for ``loader``."""
    if loader not in WITHOUT_BIAS:
        return
    from safetensors import safe_open

    kind, bias = read_json(folder / "config.json").get("value_head", "linear"), 0.0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            if _BIAS in set(tensors.keys()):
                bias = tensors.get_tensor(_BIAS).item()
    _check(folder, kind, bias, loader)


def _check(where: Path, kind: str, bias: float, loader: str) -> None:
    name, instead = WITHOUT_BIAS[loader]
    if kind != "linear":
        raise UserError(f"{where}: {name} has a linear head, this critic has an {kind} head")
    if bias != 0.0:
        raise UserError(
            f"{where}: {_BIAS} is {bias:.6g}, but {name} has a head without bias, and every value "
            f"would differ by it: {instead}"
        )
