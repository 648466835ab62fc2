"""The converted directory as transformers loads it, against the shards as torch loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import Placement, Shard
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from criticflow.checkpoint.labels import Kind
from criticflow.checkpoint.layout import StoredTensor
from criticflow.checkpoint.shards import RankFile
from criticflow.errors import UserError

# How many token ids the reloaded model is run on.
_TOKENS = 16
# Bytes. How sums are ordered, and so rounded, depends on where a tensor lies relative to multiples
# of the processor's widest loads.
_ALIGNMENT = 64


def check_reload(
    folder: Path,
    kind: Kind,
    files: tuple[RankFile, ...],
    tensors: dict[str, StoredTensor],
    trust_remote_code: bool,
) -> None:
    """Load ``folder`` with transformers and compare it with the shards.

    The shards are read by another way than the conversion's: torch's own loader and chunks. Every
    loaded tensor must equal the shards' (after the cast), and so must the values (for an actor the
    logits) on fixed tokens, bit for bit: computed as loaded, and again from the shards.

    Args:
        tensors: By name in the model.

    Raises:
        UserError: a tensor is missing, unexpected, freshly initialised or different; values are
            not finite or different.
    """
    from criticflow.models.value_head import load_value_model

    if kind == "critic":
        model = load_value_model(folder, dtype="auto", trust_remote_code=trust_remote_code)
    else:
        model = _load_actor(folder, trust_remote_code)
    model.eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(1, _TOKENS + 1).remainder(vocabulary).unsqueeze(0)
    with torch.no_grad():
        as_loaded = model(input_ids=tokens, use_cache=False).logits
        shards = _FromShards(folder, model, files, tensors)
        with shards:
            from_shards = model(input_ids=tokens, use_cache=False).logits
        shards.compare_unused()
    if not torch.isfinite(as_loaded).all():
        raise UserError(f"{folder} gives values that are NaN or infinite on fixed tokens")
    if not torch.equal(as_loaded, from_shards):
        raise UserError(
            f"{folder} gives other values on fixed tokens than the shards do: the model's code is "
            "not deterministic, or keeps weights outside its state dict"
        )


def _load_actor(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=trust_remote_code, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(problem):
            raise UserError(f"{folder} reloads with {problem} {sorted(map(str, info[problem]))}")
    return model


class _FromShards(TorchFunctionMode):
    """Replaces each tensor of the model by what the shards hold, in every call of torch.

    One tensor at a time is put together, compared with the loaded one, used and freed again, so
    that memory for the largest is enough.
    """

    def __init__(
        self,
        folder: Path,
        model: torch.nn.Module,
        files: tuple[RankFile, ...],
        tensors: dict[str, StoredTensor],
    ) -> None:
        super().__init__()
        self._folder, self._tensors = folder, tensors
        self._loaded = model.state_dict(keep_vars=True)
        self._names = {id(self._loaded[name]): name for name in tensors}
        self._unused = set(tensors)
        self._states = [
            torch.load(file.path, map_location="cpu", weights_only=True, mmap=True)
            for file in files
        ]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") == "__get__":
            attribute = func(*args)
            if not isinstance(attribute, torch.Tensor):  # a shape or a type
                return attribute
        args, kwargs = tree_map(self._replace, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _replace(self, value: Any) -> Any:
        name = self._names.get(id(value))
        return value if name is None else self._assemble(name)

    def _assemble(self, name: str) -> torch.Tensor:
        """The tensor as the shards hold it, compared with the loaded one."""
        loaded, tensor = self._loaded[name].detach(), self._tensors[name]
        whole = _aligned_like(loaded)
        for part, mine, shard in zip(
            _views(whole, tensor),
            _views(loaded, tensor),
            _locals(tensor, self._states),
            strict=True,
        ):
            if part.numel():
                part.copy_(shard)
                if not torch.equal(part, mine):
                    raise UserError(
                        f"{name} of {self._folder} is not what the shards hold: convert again"
                    )
        self._unused.discard(name)
        return whole

    def compare_unused(self) -> None:
        """Also compare what was in no call, such as a tensor with two names."""
        for name in sorted(self._unused):
            self._assemble(name)


def _aligned_like(tensor: torch.Tensor) -> torch.Tensor:
    """An empty tensor whose address is as much aligned as that of ``tensor``."""
    nbytes = tensor.numel() * tensor.dtype.itemsize
    room = torch.empty(nbytes + _ALIGNMENT, dtype=torch.uint8)
    first = (tensor.data_ptr() - room.data_ptr()) % _ALIGNMENT
    return room[first : first + nbytes].view(tensor.dtype).view(tensor.shape)


def _locals(tensor: StoredTensor, states: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """What each rank stored of ``tensor``, in the order of its mesh."""
    stored = tensor.pieces[0].local.name
    if tensor.mesh is None:
        return [states[0][stored]]
    return [states[rank][stored].to_local() for rank in tensor.mesh.ranks]


def _views(whole: torch.Tensor, tensor: StoredTensor) -> list[torch.Tensor]:
    """The block of ``whole`` that each rank has, in the order of the tensor's mesh."""
    views = [whole]
    if tensor.mesh is not None:
        for size, placement in zip(tensor.mesh.shape, tensor.placements, strict=True):
            views = [part for view in views for part in _split(view, size, placement)]
    return views


def _split(view: torch.Tensor, size: int, placement: Placement) -> Sequence[torch.Tensor]:
    """What the ``size`` ranks along one mesh dimension hold of ``view``."""
    if not isinstance(placement, Shard):
        return [view] * size
    chunks = torch.chunk(view, size, dim=placement.dim)
    empty = view.narrow(placement.dim, 0, 0)
    return [*chunks, *[empty] * (size - len(chunks))]
