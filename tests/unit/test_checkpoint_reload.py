"""The reload: what transformers loads of a converted directory, against the shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForTokenClassification
from transformers.modeling_outputs import TokenClassifierOutput

from checkpoint_writers import LAYOUTS, tiny_actor, tiny_critic, write_checkpoint
from criticflow.checkpoint import reload
from criticflow.checkpoint.convert import Options, convert
from criticflow.checkpoint.layout import assemble
from criticflow.checkpoint.reload import check_reload
from criticflow.checkpoint.shards import read_shards
from criticflow.errors import UserError
from criticflow.files import read_json


@pytest.mark.parametrize("layout", ["8 ranks, uneven and empty", "two dimensions"])
def test_reload_check_agrees_with_the_layouts(tmp_path, layout):
    mesh, names, place, version = LAYOUTS[layout]
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 0, mesh, names, place, version)
    assert convert(source, tmp_path / "out", "critic")["verified"]["reload"]


def reload_and_compare(source: Path, folder: Path) -> None:
    shards = read_shards(source)
    check_reload(folder, "critic", shards.files, assemble(shards), trust_remote_code=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_changed_element_fails_the_reload_check(tmp_path, layout):
    """Whichever rank holds it, and though the tokens of the check do not use it."""
    mesh, names, place, version = LAYOUTS[layout]
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 0, mesh, names, place, version)
    convert(source, tmp_path / "out", "critic", Options(reload=False))
    reload_and_compare(source, tmp_path / "out")
    weights = load_file(tmp_path / "out/model.safetensors")
    weights["model.embed_tokens.weight"][-1, -1] += 1e-6
    save_file(weights, tmp_path / "out/model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"embed_tokens\.weight of .* is not what the shards hold"):
        reload_and_compare(source, tmp_path / "out")


def test_values_that_differ_from_the_shards_are_refused(tmp_path, monkeypatch):
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    honest = Qwen3ForTokenClassification.forward

    def random(self, *args, **kwargs):
        output = honest(self, *args, **kwargs)
        output.logits += torch.randn_like(output.logits)
        return output

    monkeypatch.setattr(Qwen3ForTokenClassification, "forward", random)
    with pytest.raises(UserError, match="other values on fixed tokens"):
        convert(source, tmp_path / "out", "critic")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["critic", "actor"])
def test_the_second_computation_takes_every_tensor_from_the_shards(tmp_path, monkeypatch, kind):
    model = tiny_critic("mlp") if kind == "critic" else tiny_actor(tied=True)
    assembled, left_over = [], []
    assemble_one = reload._FromShards._assemble
    monkeypatch.setattr(
        reload._FromShards,
        "_assemble",
        lambda self, name: assembled.append(name) or assemble_one(self, name),
    )
    monkeypatch.setattr(
        reload._FromShards, "compare_unused", lambda self: left_over.extend(self._unused)
    )
    convert(write_checkpoint(tmp_path / "in", model, 2), tmp_path / "out", kind)
    assert set(assembled) == {name for name, _ in model.named_parameters()}
    assert not left_over


def test_a_tensor_that_no_computation_uses_is_compared_too(tmp_path, monkeypatch):
    model = tiny_critic()
    source = write_checkpoint(tmp_path / "in", model, 2)
    convert(source, tmp_path / "out", "critic", Options(reload=False))
    monkeypatch.setattr(Qwen3ForTokenClassification, "forward", without_backbone)
    reload_and_compare(source, tmp_path / "out")
    weights = load_file(tmp_path / "out/model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 1e-6
    save_file(weights, tmp_path / "out/model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"up_proj\.weight of .* is not what the shards hold"):
        reload_and_compare(source, tmp_path / "out")


def without_backbone(self, input_ids, **_):
    hidden = self.model.embed_tokens(input_ids)
    return TokenClassifierOutput(logits=self.score(hidden))


def test_a_model_that_does_not_fit_is_not_reloaded_and_that_is_said(tmp_path):
    """The size that is asked for is a petabyte; the machine's memory is its own."""
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    arguments = ["--local_dir", str(source), "--target_dir", str(tmp_path / "out")]
    code = (
        "from criticflow.checkpoint import convert; from criticflow.commands.convert import main; "
        "fits = convert.fits_in_memory; "
        "convert.fits_in_memory = lambda nbytes: fits(nbytes + (1 << 50)); "
        f"main({arguments!r}, 'critic')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "note: reload check left out" in done.stderr
    verified = read_json(tmp_path / "out/conversion.json")["verified"]
    assert {key for key, value in verified.items() if not value} == {
        "reload",
        "reloaded tensors equal the shards",
        "values on fixed tokens equal the shards",
    }
