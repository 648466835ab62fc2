"""Loading value models: complete, or not at all."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_writers import tiny_actor, tiny_critic
from criticflow.errors import UserError
from criticflow.models.value_head import load_value_model


@pytest.fixture
def actor(tmp_path):
    tiny_actor(tied=True).save_pretrained(tmp_path / "actor")
    return tmp_path / "actor"


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_trained_critic_loads_whole(tmp_path, head):
    model = tiny_critic(head)
    model.save_pretrained(tmp_path)
    loaded = load_value_model(tmp_path, dtype=torch.float32)
    assert type(loaded).__name__ == "Qwen3ForTokenClassification"
    assert loaded.config.value_head == head and loaded.config.num_labels == 1
    state = loaded.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert loaded(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 1)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_fresh_head_must_be_allowed_and_is_seeded(actor, head):
    with pytest.raises(UserError, match="lacks score"):
        load_value_model(actor, head=head)
    torch.manual_seed(1)
    first = load_value_model(actor, head=head, allow_untrained=True)
    torch.manual_seed(2)
    again = load_value_model(actor, head=head, allow_untrained=True)
    other = load_value_model(actor, head=head, allow_untrained=True, seed=1)
    for one, two, three in zip(
        first.score.parameters(), again.score.parameters(), other.score.parameters(), strict=True
    ):
        assert torch.equal(one, two)
        assert one.abs().max() < 0.2
        assert one.ndim == 1 or not torch.equal(one, three)


@pytest.mark.parametrize(("stored", "asked"), [("linear", "mlp"), ("mlp", "linear")])
@pytest.mark.parametrize("allow", [False, True])
def test_another_head_than_the_stored_one_is_refused(tmp_path, stored, asked, allow):
    tiny_critic(stored).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"score"):
        load_value_model(tmp_path, head=asked, allow_untrained=allow)


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("name", ["score.bias", "model.layers.1.mlp.up_proj.weight"])
def test_a_part_missing_is_refused(tmp_path, name, allow):
    tiny_critic().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[name]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=name):
        load_value_model(tmp_path, allow_untrained=allow)


def test_another_shape_is_refused(tmp_path):
    tiny_critic().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["score.weight"] = torch.zeros(2, 24)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"other shapes for score\.weight"):
        load_value_model(tmp_path)


def test_unknown_head_and_missing_directory(tmp_path):
    tiny_critic().save_pretrained(tmp_path / "critic")
    with pytest.raises(UserError, match="choose linear or mlp"):
        load_value_model(tmp_path / "critic", head="quadratic")
    config = tiny_critic().config
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_value_model(tmp_path / "empty", config=config)


def test_attention_and_config_arguments(tmp_path):
    model = tiny_critic()
    model.save_pretrained(tmp_path)
    config = tiny_critic().config
    loaded = load_value_model(tmp_path, attn_implementation="eager", config=config)
    assert loaded.config._attn_implementation == "eager"
    assert config.architectures == ["Qwen3ForCausalLM"], "the caller's configuration was changed"
