"""Tiny models and the FSDP checkpoints of them, made here or by verl itself."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.distributed.tensor import DeviceMesh, DTensor, Placement, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    GemmaConfig,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from criticflow.models.value_head import attach_value_head

FAMILIES = {
    "qwen3": Qwen3Config,
    "qwen2": Qwen2Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "gemma": GemmaConfig,
}


def tiny_config(family: str = "qwen3", tied: bool = False, **changes):
    """A model of some ten thousand parameters, whose sizes 4 and 8 ranks do not divide evenly."""
    sizes = {
        "vocab_size": 67,
        "hidden_size": 24,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family != "qwen2":
        sizes["head_dim"] = 12
    return FAMILIES[family](**{**sizes, **changes})


def tiny_critic(head: str = "linear", family: str = "qwen3", seed: int = 0) -> PreTrainedModel:
    """A value model as in training, with the head's biases not zero."""
    torch.manual_seed(seed)
    config = tiny_config(family)
    config.num_labels, config.classifier_dropout, config.value_head = 1, 0.0, head
    # What verl saves: the configuration of the language model that the critic started from.
    config.architectures = [f"{type(config).__name__.removesuffix('Config')}ForCausalLM"]
    model = AutoModelForTokenClassification.from_config(config)
    attach_value_head(model, head)
    for name, parameter in model.score.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model.eval()


def tiny_actor(
    tied: bool = False, family: str = "qwen3", seed: int = 0, **sizes
) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_config(family, tied, **sizes)).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<bos>", "<eos>", *(f"w{index}" for index in range(64))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return tokenizer


def write_companions(folder: Path, model: PreTrainedModel, world_size: int, version: int) -> None:
    """What verl's rank 0 writes beside the shards."""
    hf = folder / "huggingface"
    model.config.save_pretrained(hf)
    tiny_tokenizer().save_pretrained(hf)
    GenerationConfig(eos_token_id=2).save_pretrained(hf)
    (folder / "fsdp_config.json").write_text(
        json.dumps({"FSDP_version": version, "world_size": world_size}, indent=4)
    )


Place = Callable[[str, torch.Tensor], tuple[Placement, ...] | None]


def shard_first(name: str, tensor: torch.Tensor) -> tuple[Placement, ...]:
    return (Shard(0),)


def shard_first_hsdp(name: str, tensor: torch.Tensor) -> tuple[Placement, ...]:
    return (Replicate(), Shard(0))


def shard_second(name, tensor):
    return (Shard(1),) if tensor.ndim > 1 else (Shard(0),)


def mixed(name, tensor):
    """Plain tensors (not sharded), replicated and sharded ones side by side."""
    if "norm" in name:
        return None
    return (Replicate(),) if "q_proj" in name else (Shard(0),)


def both_dims(name, tensor):
    return (Shard(1), Shard(0)) if tensor.ndim > 1 else (Replicate(), Shard(0))


def same_dim_twice(name, tensor):
    return (Shard(0), Shard(0))


LAYOUTS = {
    "1 rank": (torch.arange(1), ("fsdp",), shard_first, 2),
    "2 ranks": (torch.arange(2), ("fsdp",), shard_first, 2),
    "4 ranks": (torch.arange(4), ("fsdp",), shard_first, 1),
    "8 ranks, uneven and empty": (torch.arange(8), ("fsdp",), shard_first, 2),
    "1 rank, plain": (torch.arange(1), ("fsdp",), lambda *_: None, 1),
    "2 ranks, all plain": (torch.arange(2), ("fsdp",), lambda *_: None, 1),
    "hsdp 2x2": (torch.arange(4).view(2, 2), ("ddp", "fsdp"), shard_first_hsdp, 2),
    "hsdp 2x4": (torch.arange(8).view(2, 4), ("ddp", "fsdp"), shard_first_hsdp, 1),
    "hsdp, ranks transposed": (
        torch.tensor([[0, 2], [1, 3]]),
        ("ddp", "fsdp"),
        shard_first_hsdp,
        2,
    ),
    "dimension 1": (torch.arange(3), ("fsdp",), shard_second, 2),
    "mixed": (torch.arange(2), ("fsdp",), mixed, 2),
    "two dimensions": (torch.arange(6).view(2, 3), ("ddp", "fsdp"), both_dims, 2),
    "one dimension twice": (torch.arange(4).view(2, 2), ("ddp", "fsdp"), same_dim_twice, 2),
}


def local_part(
    tensor: torch.Tensor, mesh: torch.Tensor, placements: tuple[Placement, ...], rank: int
) -> torch.Tensor:
    """The chunk of ``rank``: torch.chunk along every sharded mesh dimension in turn."""
    (coordinate,) = (mesh == rank).nonzero().tolist()
    for size, index, placement in zip(mesh.shape, coordinate, placements, strict=True):
        if isinstance(placement, Shard):
            chunks = list(torch.chunk(tensor, size, dim=placement.dim))
            empty = chunks[0].narrow(placement.dim, 0, 0)
            tensor = chunks[index] if index < len(chunks) else empty
    return tensor.contiguous().clone()


def distributed(
    local: torch.Tensor,
    whole: torch.Tensor,
    mesh: DeviceMesh,
    placements: tuple[Placement, ...],
) -> DTensor:
    """A DTensor as a rank saves it, without any process group."""
    meta = TensorMeta(whole.shape, whole.stride(), whole.dtype)
    return DTensor(local, DTensorSpec(mesh, placements, tensor_meta=meta), requires_grad=False)


def write_shards(
    folder: Path,
    state: dict[str, torch.Tensor],
    mesh: torch.Tensor,
    names: tuple[str, ...] = ("fsdp",),
    place: Place = shard_first,
    device: str = "cpu",
) -> None:
    """``model_world_size_N_rank_R.pt`` for every rank; ``place`` None means a plain tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    world_size = mesh.numel()
    for rank in range(world_size):
        device_mesh = DeviceMesh(
            device, mesh, mesh_dim_names=names, _init_backend=False, _rank=rank
        )
        shard, seen = {}, {}
        for name, tensor in state.items():
            placements = place(name, tensor)
            if placements is None:
                shard[name] = tensor.clone()
                continue
            # Tied tensors share their storage on every rank, as in a model.
            if tensor.data_ptr() not in seen:
                seen[tensor.data_ptr()] = local_part(tensor, mesh, placements, rank)
            shard[name] = distributed(seen[tensor.data_ptr()], tensor, device_mesh, placements)
        torch.save(shard, folder / f"model_world_size_{world_size}_rank_{rank}.pt")


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    world_size: int = 2,
    mesh: torch.Tensor | None = None,
    names: tuple[str, ...] = ("fsdp",),
    place: Place = shard_first,
    version: int = 2,
    device: str = "cpu",
) -> Path:
    """A whole synthetic checkpoint directory."""
    mesh = torch.arange(world_size) if mesh is None else mesh
    write_shards(folder, model.state_dict(), mesh, names, place, device)
    write_companions(folder, model, mesh.numel(), version)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def save_with_verl(
    folder: Path,
    model_dir: Path,
    world_size: int,
    strategy: str = "fsdp2",
    *,
    frozen: bool = False,
    fsdp_size: int = -1,
    kind: str = "critic",
) -> None:
    """Shard, (unless frozen) train one step and save with verl's own checkpoint manager.

    ``strategy`` is ``fsdp`` (FSDP1, never trained: that needs an accelerator) or ``fsdp2``; the
    ranks are gloo processes. Rank 0 also writes the whole trained state to ``folder/state.pt``.
    """
    arguments = (world_size, free_port(), folder, model_dir, strategy, fsdp_size, kind)
    torch.multiprocessing.spawn(_save_rank, (*arguments, frozen), nprocs=world_size)


def load_with_verl(
    folder: Path, model_dir: Path, world_size: int, strategy: str = "fsdp2", kind: str = "critic"
) -> Path:
    """Load a checkpoint with verl's own checkpoint manager, and save it again with it."""
    arguments = (world_size, free_port(), folder, model_dir, strategy, -1, kind)
    torch.multiprocessing.spawn(_load_rank, arguments, nprocs=world_size)
    return folder / "again"


def _save_rank(rank: int, *arguments) -> None:
    *arguments, frozen = arguments
    folder, strategy = arguments[2], arguments[4]
    train = strategy == "fsdp2" and not frozen
    model, manager = _start(rank, *arguments, frozen=frozen, train=train)
    if train:
        model(input_ids=torch.arange(1, 9).unsqueeze(0)).logits.square().mean().backward()
        manager.optimizer.step()
    manager.save_checkpoint(str(folder), global_step=1)
    if train:
        state = {name: value.full_tensor() for name, value in model.state_dict().items()}
        if rank == 0:
            torch.save(state, folder / "state.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _load_rank(rank: int, *arguments) -> None:
    _, manager = _start(rank, *arguments)
    folder = arguments[2]
    manager.load_checkpoint(str(folder))
    manager.save_checkpoint(str(folder / "again"), global_step=1)
    torch.distributed.destroy_process_group()


def _start(
    rank: int,
    world_size: int,
    port: int,
    folder: Path,
    model_dir: Path,
    strategy: str,
    fsdp_size: int,
    kind: str,
    frozen: bool = False,
    train: bool = False,
):
    from omegaconf import OmegaConf
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
    from transformers import AutoTokenizer
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    from criticflow.models.value_head import load_value_model

    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
    )
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    # As verl's create_device_mesh, which asks for the platform's accelerator.
    if fsdp_size < 0:
        mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("fsdp",))
    else:
        shape = (world_size // fsdp_size, fsdp_size)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("ddp", "fsdp"))
    if kind == "critic":
        model = load_value_model(model_dir, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    model.requires_grad_(not frozen)
    if strategy == "fsdp2":
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        hybrid = ShardingStrategy.HYBRID_SHARD
        model = FullyShardedDataParallel(
            model,
            device_mesh=mesh,
            device_id=torch.device("cpu"),
            sharding_strategy=hybrid if mesh.ndim == 2 else ShardingStrategy.FULL_SHARD,
        )
    contents = ["model", "optimizer", "extra"] if train else ["model"]
    manager = FSDPCheckpointManager(
        model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2) if train else None,
        processing_class=AutoTokenizer.from_pretrained(model_dir),
        checkpoint_config=OmegaConf.create({"save_contents": contents, "load_contents": contents}),
    )
    return model, manager
