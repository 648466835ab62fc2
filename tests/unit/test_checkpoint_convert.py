"""Conversion of synthetic checkpoints: every layout, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from checkpoint_writers import (
    FAMILIES,
    LAYOUTS,
    shard_first,
    shard_second,
    tiny_actor,
    tiny_critic,
    write_checkpoint,
)
from criticflow.checkpoint.convert import Options, convert
from criticflow.checkpoint.reshard import reshard
from criticflow.models.value_head import load_value_model

TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5, 35]])


def assert_same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    written = {}
    for path in folder.glob("*.safetensors"):
        written |= load_file(path)
    assert set(written) == set(expected)
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor), name


def assert_same_outputs(model, other) -> None:
    """Equal but for rounding: where parameters lie in memory decides how sums are ordered."""
    torch.testing.assert_close(model(TOKENS).logits, other(TOKENS).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_bit_for_bit(tmp_path, layout):
    mesh, names, place, version = LAYOUTS[layout]
    model = tiny_critic()
    source = write_checkpoint(tmp_path / "in", model, 0, mesh, names, place, version)
    manifest = convert(source, tmp_path / "out", "critic", Options(reload=False))
    assert_same(tmp_path / "out", model.state_dict())
    assert manifest["source"]["world_size"] == mesh.numel()
    assert manifest["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_critic_gives_its_values_after_conversion(tmp_path, family, head):
    model = tiny_critic(head, family)
    source = write_checkpoint(tmp_path / "in", model, 2)
    manifest = convert(source, tmp_path / "out", "critic")
    assert manifest["verified"]["values on fixed tokens equal the shards"] is True
    assert_same(tmp_path / "out", model.state_dict())
    loaded = load_value_model(tmp_path / "out").eval()
    assert_same_outputs(loaded, model)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == [f"{family.capitalize()}ForTokenClassification"]
    assert config["num_labels"] == 1 and config["value_head"] == head
    assert config["dtype"] == "float32" and loaded.dropout.p == 0
    assert not (tmp_path / "out/generation_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (
        tokenizer.chat_template
        == AutoTokenizer.from_pretrained(source / "huggingface").chat_template
    )


def test_a_linear_critic_loads_as_transformers_own_class(tmp_path):
    model = tiny_critic()
    source = write_checkpoint(tmp_path / "in", model)
    convert(source, tmp_path / "out", "critic", Options(reload=False))
    loaded, info = AutoModelForTokenClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same_outputs(loaded.eval(), model)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_actor_gives_its_logits_after_conversion(tmp_path, family, tied):
    model = tiny_actor(tied, family)
    manifest = convert(write_checkpoint(tmp_path / "in", model, 3), tmp_path / "out", "actor")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert_same_outputs(loaded, model)
    assert manifest["tied"] == ({"lm_head.weight": "model.embed_tokens.weight"} if tied else {})
    assert (tmp_path / "out/generation_config.json").exists()
    assert manifest["parameters"] == sum(p.numel() for p in model.parameters())


def test_sharded_output_has_an_index(tmp_path):
    model = tiny_critic()
    source = write_checkpoint(tmp_path / "in", model, 4)
    convert(source, tmp_path / "out", "critic", Options(max_shard_size="10KB"))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert_same(tmp_path / "out", model.state_dict())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("asked", [None, "float32", "bfloat16", "float16"])
def test_precision_is_kept_unless_asked_otherwise(tmp_path, stored, asked):
    model = tiny_critic().to(stored)
    source = write_checkpoint(tmp_path / "in", model, 2, place=shard_second)
    manifest = convert(source, tmp_path / "out", "critic", Options(dtype=asked))
    dtype = getattr(torch, asked) if asked else stored
    assert manifest["dtype"] == str(dtype).removeprefix("torch.")
    assert_same(tmp_path / "out", {k: v.to(dtype) for k, v in model.state_dict().items()})


def trl_names(name: str) -> str:
    return f"v_head.summary.{name[6:]}" if name.startswith("score.") else f"pretrained_model.{name}"


def test_trl_names_are_mapped(tmp_path):
    model = tiny_critic()
    expected = model.state_dict()
    state = {trl_names(name): tensor for name, tensor in expected.items()}
    state["pretrained_model.lm_head.weight"] = torch.randn(67, 24)
    model.state_dict = lambda: state
    source = write_checkpoint(tmp_path / "in", model, 2)
    manifest = convert(source, tmp_path / "out", "critic")
    assert_same(tmp_path / "out", expected)
    assert any("lm_head" in note for note in manifest["notes"])


def test_a_critic_with_tied_config_converts(tmp_path):
    model = tiny_critic()
    model.config.tie_word_embeddings = True
    source = write_checkpoint(tmp_path / "in", model, 2)
    convert(source, tmp_path / "out", "critic")
    assert_same(tmp_path / "out", model.state_dict())


def test_world_size_is_inferred_without_fsdp_config(tmp_path):
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    (source / "fsdp_config.json").unlink()
    manifest = convert(source, tmp_path / "out", "critic", Options(reload=False))
    assert any("fsdp_config.json" in note for note in manifest["notes"])


def test_large_tensors_pass_through_in_chunks(tmp_path, monkeypatch):
    """Chunks that end in the middle of a row, for each dimension and precision."""
    monkeypatch.setattr("criticflow.checkpoint.stream.CHUNK_BYTES", 40)
    model = tiny_critic()
    for number, place in enumerate((shard_first, shard_second)):
        source = write_checkpoint(tmp_path / f"in{number}", model, 3, place=place)
        convert(source, tmp_path / f"out{number}", "critic", Options(reload=False))
        assert_same(tmp_path / f"out{number}", model.state_dict())
        convert(source, tmp_path / f"bf{number}", "critic", Options(reload=False, dtype="bfloat16"))
        assert_same(
            tmp_path / f"bf{number}", {k: v.bfloat16() for k, v in model.state_dict().items()}
        )


def test_the_manifest_says_where_the_model_came_from(tmp_path):
    import hashlib

    source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    convert(source, tmp_path / "out", "critic")
    manifest = json.loads((tmp_path / "out/conversion.json").read_text())
    for entry in manifest["source"]["files"]:
        data = (source / entry["name"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["source"]["meshes"] == [{"names": ["fsdp"], "shape": [2]}]
    assert all(manifest["verified"].values())


def test_a_checkpoint_from_gpus_is_read_without_one(tmp_path, monkeypatch):
    """Meshes of device type cuda, and storages that were on a GPU when they were saved."""
    model = tiny_critic()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        source = write_checkpoint(tmp_path / "in", model, 2, device="cuda")
    assert convert(source, tmp_path / "out", "critic")["verified"]["reload"]
    assert_same(tmp_path / "out", model.state_dict())
    reshard(source, tmp_path / "three", 3)
    shard = torch.load(tmp_path / "three/model_world_size_3_rank_0.pt", weights_only=False)
    assert shard["score.bias"].device_mesh.device_type == "cuda"


def test_files_without_checksums_are_read_and_said_so(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    finally:
        torch.serialization.set_crc32_options(True)
    manifest = convert(source, tmp_path / "out", "critic", Options(reload=False))
    assert manifest["verified"]["checksums"] is False
    assert any("checksums" in note for note in manifest["notes"])
