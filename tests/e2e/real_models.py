"""Models of real shapes with random weights, and a study of them: what a laptop must carry.

Real in everything but the values: architecture, number and size of the layers, vocabulary, and a
byte-level BPE tokenizer with a chat template, which is trained here on the project's own texts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

PROJECT = Path(__file__).parents[2]
START, END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LEARNED = 4000
"""Tokens that the tokenizer learns from text; the rest of its vocabulary is there for its size."""

PROMPT_TOKENS, RESPONSE_TOKENS = 416, 128
EXAMPLE = "With 3, 5 and 7 the target 1 is reached by <answer>3 + 5 - 7</answer>. "
PROMPT = (
    "Use each of the numbers once, with + - * / and parentheses, to reach the target. "
    + 16 * EXAMPLE
    + "Now the numbers are {numbers} and the target is {target}."
)
"""About 400 tokens."""


def smollm2_135m(layers: int = 30) -> LlamaConfig:
    """The shape of SmolLM2-135M."""
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def qwen2_5_500m(layers: int = 24) -> Qwen2Config:
    """The shape of Qwen2.5-0.5B."""
    return Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )


def bpe_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with exactly ``vocabulary`` tokens and a chat template."""
    texts = [path.read_text(encoding="utf-8") for path in (PROJECT / "config").glob("*.md")]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNED,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, PROMPT], trainer)
    bpe.decoder = decoders.ByteLevel()
    state = json.loads(bpe.to_str())
    vocab = state["model"]["vocab"]
    vocab |= {f"Ġfiller{index}": index for index in range(len(vocab), vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token=END,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def build(config: PreTrainedConfig, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Random weights of this shape and a tokenizer of its vocabulary, as a model directory."""
    tokenizer = bpe_tokenizer(config.vocab_size)
    config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    config.bos_token_id = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


class Shape(NamedTuple):
    """A model's shape, and how its study trains."""

    config: PreTrainedConfig
    dtype: str = "float32"
    ranks: int = 2
    steps: int = 2


def study(model: Path, shape: Shape) -> dict[str, Any]:
    """Two runs, trained for some steps of batch 8: a critic that learns, and a warm start of it."""
    return {
        "models": {
            "tiny": None,
            "real": {"path": str(model), "dtype": shape.dtype, "attn_implementation": "sdpa"},
        },
        "tasks": {
            "countdown-mini": None,
            "countdown": {
                "kind": "countdown",
                "prompt": PROMPT,
                "source": {"generate": {"numbers": [3], "problems": 64, "high": 9}},
                "split": {"val": 8, "test": 8},
                "max_prompt_length": PROMPT_TOKENS,
                "max_response_length": RESPONSE_TOKENS,
            },
        },
        "probe": {"n": 2, "prompts": 4},
        "contrasts": [],
        "runs": {
            "cold": {"model": "real", "task": "countdown"},
            "constant": None,
            "warm-frozen": None,
            "constant-m50": None,
            "warm-frozen-m50": {"train": {"steps": 1}},
        },
        "train": {
            "steps": shape.steps,
            "batch_size": 8,
            "mini_batch_size": 8,
            "micro_batch_size": 1,
            "actor_lr": 1.0e-6,
            "critic_lr": 1.0e-5,
            "critic_warmup": 0,
            "save_every": 100,
            "dtype": shape.dtype,
        },
        "truth": {"actors": []},
        "evaluate": {"n": 1, "k": [1], "prompts": 4, "resamples": 50},
        "resources": {"cpu_ranks": shape.ranks, "kv_cache_gb": 0.25},
    }


def command(workdir: Path, model: Path, shape: Shape) -> list[str]:
    """What makes the study in ``workdir``; to be started from :data:`PROJECT`."""
    settings = workdir / "real.yaml"
    settings.write_text(yaml.safe_dump(study(model, shape)), encoding="utf-8")
    snakefile = PROJECT / "workflow" / "Snakefile"
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "all", "--snakefile", str(snakefile)]
    return [*snakemake, "--directory", str(workdir), "--configfile", str(settings)]
