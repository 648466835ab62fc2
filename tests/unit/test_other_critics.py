"""Critics that other programs saved, with their own names for the value head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from checkpoint_writers import tiny_actor, tiny_critic
from criticflow.errors import UserError
from criticflow.models.value_head import load_value_model

TOKENS = torch.arange(3, 23).reshape(2, 10)


def values(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def foreign(folder: Path, name: str, bias: bool, language_model: bool = False) -> torch.Tensor:
    """Save a critic whose head has another maker's name; the values that it has."""
    model = tiny_critic()
    if not bias:
        torch.nn.init.zeros_(model.score.bias)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{name}.weight"] = tensors.pop("score.weight")
    found = tensors.pop("score.bias")
    if bias:
        tensors[f"{name}.bias"] = found
    if language_model:
        tensors["lm_head.weight"] = tiny_actor().state_dict()["lm_head.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("value_head", None)
    (folder / "config.json").write_text(json.dumps(config))
    return values(model)


@pytest.mark.parametrize(
    ("name", "bias", "language_model"),
    [("v_head.summary", True, True), ("value_head", False, False), ("score", False, False)],
    ids=["TRL", "OpenRLHF, value_head", "OpenRLHF, score"],
)
def test_a_critic_of_another_maker_has_its_values(tmp_path, name, bias, language_model):
    expected = foreign(tmp_path, name, bias, language_model)
    torch.testing.assert_close(values(load_value_model(tmp_path)), expected)


def test_a_head_of_another_shape_is_refused_by_name(tmp_path):
    foreign(tmp_path, "value_head", False)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["value_head.weight"] = tensors["value_head.weight"].reshape(-1)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"score\.weight"):
        load_value_model(tmp_path)


def test_a_critic_of_ours_that_lacks_its_bias_is_still_refused(tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("score.bias")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks score\.bias"):
        load_value_model(tmp_path)


def test_a_loader_without_bias_differs_by_that_number_alone(tmp_path):
    """As docs/verl.md says of TRL's value model, which is a sequence classifier, and OpenRLHF's."""
    ours = tiny_critic()
    torch.nn.init.constant_(ours.score.bias, 0.25)
    ours.save_pretrained(tmp_path)
    other, told = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=1, output_loading_info=True
    )
    assert set(told["unexpected_keys"]) == {"score.bias"}
    assert not told["missing_keys"]
    with torch.no_grad():
        theirs = other.eval().score(other.model(TOKENS).last_hidden_state)
    torch.testing.assert_close(values(ours), theirs + 0.25)
