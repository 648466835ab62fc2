"""Which attention a critic or an actor runs: the shell, verl's configuration, or the model's."""

import json

import pytest
from transformers import Qwen3Config

from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.verl_plugin.model_config import ModelConfig, ValueModelConfig


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A function: a model's directory, whose configuration names an attention or none."""
    for variable in ("VERL_ATTN_IMPLEMENTATION", "HF_ATTN_IMPLEMENTATION"):
        monkeypatch.delenv(variable, raising=False)

    def directory(stored: str | None) -> str:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 120}
        Qwen3Config(**sizes, **heads).save_pretrained(tmp_path)
        char_tokenizer(64).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        config["architectures"] = ["Qwen3ForCausalLM"]
        if stored:
            config["attn_implementation"] = stored
        file.write_text(json.dumps(config))
        return str(tmp_path)

    return directory


@pytest.mark.parametrize("kind", [ModelConfig, ValueModelConfig])
@pytest.mark.parametrize(
    ("variables", "configured", "stored", "expected"),
    [
        ({}, None, None, "sdpa"),
        ({}, None, "eager", "eager"),
        ({}, "flex_attention", "eager", "flex_attention"),
        ({"HF_ATTN_IMPLEMENTATION": "eager"}, "sdpa", "sdpa", "eager"),
        (
            {"HF_ATTN_IMPLEMENTATION": "sdpa", "VERL_ATTN_IMPLEMENTATION": "eager"},
            "sdpa",
            "sdpa",
            "eager",
        ),
        ({"HF_ATTN_IMPLEMENTATION": "", "VERL_ATTN_IMPLEMENTATION": ""}, None, "eager", "eager"),
    ],
)
def test_the_first_that_is_given_decides(
    model, monkeypatch, kind, variables, configured, stored, expected
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    override = {"attn_implementation": configured} if configured else {}
    config = kind(path=model(stored), override_config=override)
    assert config.hf_config._attn_implementation == expected
