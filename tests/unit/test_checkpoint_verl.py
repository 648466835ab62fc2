"""Checkpoints written by verl itself, and what verl loads of what is written here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoint_writers import (
    load_with_verl,
    save_with_verl,
    tiny_actor,
    tiny_critic,
    tiny_tokenizer,
    write_checkpoint,
)
from criticflow.checkpoint.convert import Options, convert
from criticflow.checkpoint.reshard import reshard
from criticflow.errors import UserError


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def model_dir(tmp_path: Path, model) -> Path:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def roundtrip(tmp_path: Path, model, kind: str, *arguments, **options) -> Path:
    """Save with verl, after training if it can, convert, and compare with what verl had."""
    source = tmp_path / "in"
    folder = model_dir(tmp_path, model)
    save_with_verl(source, folder, *arguments, kind=kind, **options)
    manifest = convert(source, tmp_path / "out", kind)
    assert manifest["verified"]["reload"]
    trained = source / "state.pt"
    state = torch.load(trained) if trained.exists() else model.state_dict()
    if kind == "actor" and model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    assert_same(load_file(tmp_path / "out/model.safetensors"), state)
    return source


@pytest.mark.seconds
def test_two_ranks_trained_mlp_head(tmp_path):
    model = tiny_critic("mlp")
    roundtrip(tmp_path, model, "critic", 2)
    trained = load_file(tmp_path / "out/model.safetensors")
    assert not torch.equal(trained["score.0.weight"], model.score[0].weight)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_critics_of_verl(tmp_path, strategy, world_size, frozen, head):
    roundtrip(tmp_path, tiny_critic(head), "critic", world_size, strategy, frozen=frozen)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_actors_of_verl(tmp_path, strategy, tied):
    roundtrip(tmp_path, tiny_actor(tied), "actor", 2, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_hsdp_of_verl(tmp_path, strategy):
    roundtrip(tmp_path, tiny_critic(), "critic", 4, strategy, fsdp_size=2)


@pytest.mark.parametrize("world_sizes", [(4, 2, 4), (1, 3, 1), (8, 5, 8), (3, 1, 3)])
def test_reshard_and_back_is_bit_exact(tmp_path, world_sizes):
    model = tiny_critic("mlp")
    first, *others = world_sizes
    folder = write_checkpoint(tmp_path / "start", model, first)
    for number, world_size in enumerate(others):
        reshard(folder, tmp_path / str(number), world_size)
        folder = tmp_path / str(number)
        assert len(list(folder.glob("model_world_size_*"))) == world_size
        assert not (folder / "whole").exists()
    convert(folder, tmp_path / "out", "critic")
    assert_same(load_file(tmp_path / "out/model.safetensors"), model.state_dict())
    for rank in range(first):  # not only the whole: every rank's part
        name = f"model_world_size_{first}_rank_{rank}.pt"
        ours = torch.load(folder / name, weights_only=False)
        theirs = torch.load(tmp_path / "start" / name, weights_only=False)
        for key, value in theirs.items():
            assert torch.equal(ours[key]._local_tensor, value._local_tensor)
            assert ours[key]._spec.placements == value._spec.placements


def test_reshard_keeps_tied_tensors_tied(tmp_path):
    model = tiny_actor(tied=True)
    reshard(write_checkpoint(tmp_path / "in", model, 2), tmp_path / "out", 3)
    state = torch.load(tmp_path / "out/model_world_size_3_rank_1.pt", weights_only=False)
    head, embedding = state["lm_head.weight"], state["model.embed_tokens.weight"]
    assert head._local_tensor.data_ptr() == embedding._local_tensor.data_ptr()


def test_reshard_refuses(tmp_path):
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    with pytest.raises(UserError, match="1 or more"):
        reshard(source, tmp_path / "out", 0)
    (source / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(UserError, match="rank 1"):
        reshard(source, tmp_path / "out", 3)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
@pytest.mark.parametrize("world_sizes", [(4, 2), (1, 2), (2, 1)])
def test_verl_resumes_from_resharded(tmp_path, strategy, world_sizes):
    model, (before, after) = tiny_critic(), world_sizes
    plain = strategy == "fsdp" and before == 1
    source = write_checkpoint(
        tmp_path / "in",
        model,
        before,
        version=1 if strategy == "fsdp" else 2,
        **({"place": lambda *_: None} if plain else {}),
    )
    reshard(source, tmp_path / "out", after)
    fresh = model_dir(tmp_path, tiny_critic(seed=1))
    again = load_with_verl(tmp_path / "out", fresh, after, strategy)
    convert(again, tmp_path / "hf", "critic", Options(reload=False))
    assert_same(load_file(tmp_path / "hf/model.safetensors"), model.state_dict())


@pytest.mark.seconds
def test_the_converter_needs_no_verl(tmp_path):
    """Neither verl nor what comes with it is imported by a whole conversion."""
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    arguments = ["--local_dir", str(source), "--target_dir", str(tmp_path / "out")]
    code = (
        f"import sys; from criticflow.commands.convert import main; main({arguments!r}, 'critic'); "
        "print([m for m in ('verl', 'ray', 'pydantic', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
