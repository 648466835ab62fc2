"""Critics of other programs here, and ours there: the same values, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from checkpoint_writers import LAYOUTS, tiny_actor, tiny_critic, write_checkpoint
from criticflow.commands.convert import main
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


def in_shape(folder: Path, *shape: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["value_head.weight"] = tensors["value_head.weight"].reshape(shape)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_head_in_rows_is_read_row_after_row(tmp_path):
    """As Open-Reasoner-Zero's critics have it (its issue 63)."""
    expected = foreign(tmp_path, "value_head", False)
    in_shape(tmp_path, 8, -1)
    critic = load_value_model(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(values(critic), expected)
    assert {name for name, _ in critic.score.named_parameters()} == {"weight", "bias"}


def test_a_head_of_another_shape_is_refused_by_name(tmp_path):
    foreign(tmp_path, "value_head", False)
    in_shape(tmp_path, -1)
    with pytest.raises(UserError, match=r"score\.weight"):
        load_value_model(tmp_path)


def test_a_critic_of_ours_that_lacks_its_bias_is_still_refused(tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("score.bias")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks score\.bias"):
        load_value_model(tmp_path)


def exported(folder: Path, loader: str, bias: float | None = None, head: str = "linear"):
    """A critic with this bias (None: another than 0), and where ``criticflow convert`` put it."""
    model = tiny_critic(head)
    if bias is not None:
        torch.nn.init.constant_(model.score.bias, bias)
    mesh, names, place, version = LAYOUTS["4 ranks"]
    source = write_checkpoint(folder / "in", model, 0, mesh, names, place, version)
    target = folder / "out"
    main(["critic", "--local_dir", str(source), "--target_dir", str(target), "--loader", loader])
    return model, target


@pytest.mark.parametrize("loader", ["openrlhf", "trl"])
def test_a_bias_that_a_loader_would_drop_is_refused_in_one_line(tmp_path, loader):
    with pytest.raises(UserError, match=r"score\.bias is [0-9.-]+, but .* without bias") as error:
        exported(tmp_path, loader)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("loader", ["openrlhf", "trl"])
def test_an_export_that_is_there_is_refused_too(tmp_path, loader):
    _, target = exported(tmp_path, "verl")
    main(["critic", "--check", str(target)])
    with pytest.raises(UserError, match=r"score\.bias is .* without bias"):
        main(["critic", "--check", str(target), "--loader", loader])


def test_no_other_loader_has_a_head_of_layers(tmp_path):
    with pytest.raises(UserError, match="a linear head, this critic has an mlp head"):
        exported(tmp_path, "trl", head="mlp")


def test_an_actor_has_no_head_to_ask_about(tmp_path):
    with pytest.raises(UserError, match="--loader is about a critic's head"):
        main(["actor", "--check", str(tmp_path), "--loader", "trl"])


def test_verls_loader_keeps_the_bias(tmp_path):
    ours, target = exported(tmp_path, "verl", bias=0.25)
    theirs = AutoModelForTokenClassification.from_pretrained(target, num_labels=1)
    torch.testing.assert_close(values(theirs), values(ours))


def test_without_bias_a_sequence_classifier_has_the_same_values(tmp_path):
    """The class that TRL's example loads a value model with."""
    ours, target = exported(tmp_path, "trl", bias=0.0)
    main(["critic", "--check", str(target), "--loader", "trl"])
    other = AutoModelForSequenceClassification.from_pretrained(target, num_labels=1).eval()
    with torch.no_grad():
        theirs = other.score(other.model(TOKENS).last_hidden_state)
    torch.testing.assert_close(theirs, values(ours))


@pytest.mark.parametrize(
    ("loaded", "loader", "bias"),
    [
        (AutoModelForSequenceClassification, "trl", 0.0),
        (AutoModelForTokenClassification, "verl", 0.25),
    ],
)
def test_trls_own_wrapper_has_the_same_values(tmp_path, loaded, loader, bias):
    ppo = pytest.importorskip("trl.experimental.ppo.ppo_trainer", reason="TRL is not installed")
    ours, target = exported(tmp_path, loader, bias)
    wrapper = ppo.PolicyAndValueWrapper(
        tiny_actor(), loaded.from_pretrained(target, num_labels=1)
    ).eval()
    with torch.no_grad():
        _, theirs = wrapper(
            input_ids=TOKENS,
            attention_mask=torch.ones_like(TOKENS),
            return_dict=True,
            output_hidden_states=True,
        )
    torch.testing.assert_close(theirs, values(ours))


@pytest.mark.parametrize(("loader", "bias"), [("openrlhf", 0.0), ("verl", 0.25)])
def test_openrlhfs_own_loader_has_the_same_values_and_no_bias(tmp_path, loader, bias):
    """Which is why an export for it is refused unless the bias is 0."""
    models = pytest.importorskip("openrlhf.models", reason="OpenRLHF is not installed")
    ours, target = exported(tmp_path, loader, bias)
    critic = models.get_llm_for_sequence_regression(
        str(target), "critic", attn_implementation="sdpa"
    ).eval()
    responses = torch.ones(2, TOKENS.shape[1] - 1)
    with torch.no_grad():
        theirs = critic(TOKENS, responses, torch.ones_like(TOKENS))
    torch.nn.init.zeros_(ours.score.bias)
    expected = values(ours.bfloat16())[:, :-1, 0]  # it loads half precision alone
    torch.testing.assert_close(theirs, expected.float(), rtol=0, atol=0.02)
