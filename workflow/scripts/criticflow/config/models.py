"""Base models: where they come from, and how the workflow makes a small one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from criticflow.config.fields import Fraction, Positive, Strict, exactly_one
from criticflow.config.names import Name


class Hasty(Strict):
    """A second fine-tuning, on dialogues that answer before they can know (tasks with search)."""

    share: Fraction = Field(0.4, description="of the dialogues: searches left out, from one on")
    steps: Positive = Field(120, description="optimizer steps")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak rate of a cosine schedule")


class Sft(Strict):
    """Supervised fine-tuning that makes the base model partly competent."""

    problems: Positive = Field(3500, description="solved training problems to learn from")
    steps: Positive = Field(450, description="optimizer steps")
    batch_size: Positive = Field(64, description="problems per step")
    learning_rate: float = Field(3e-3, gt=0, description="peak rate of a cosine schedule")
    hasty: Hasty | None = Field(
        None, description="then learn to answer too early as well (tasks with search); null: no"
    )
    label_smoothing: Fraction = Field(
        0.025, description="probability spread over all tokens: keeps entropy for PPO to explore"
    )
    careless: Fraction = Field(
        0.0,
        description="share of the solutions that it learns without their last number: a habit that "
        "PPO can break",
    )
    careless_from: Annotated[int, Field(ge=2)] = Field(
        3, description="numbers that such a solution has at least"
    )


class Build(Strict):
    """A Qwen3 made by the workflow, with a small tokenizer of its own."""

    task: Name = Field(description="task whose solved training problems it is fine-tuned on")
    hidden_size: Positive = Field(128, description="width of the hidden states")
    intermediate_size: Positive = Field(768, description="width of the feed-forward layers")
    num_layers: Positive = Field(3, description="transformer layers")
    num_heads: Positive = Field(4, description="attention heads of the queries")
    num_kv_heads: Positive = Field(2, description="attention heads of keys and values")
    max_positions: Positive = Field(128, description="longest prompt and response together, tokens")
    tokenizer: Literal["characters", "words"] = Field(
        "characters", description="a token for each character, or for each word of the task"
    )
    seed: int = Field(0, description="of the weights and of the order of problems")
    sft: Sft = Field(Sft(), description="supervised fine-tuning")


class Shape(Strict):
    """What a decoder's size follows from, under the names that ``build`` has too."""

    hidden_size: Positive = Field(description="width of the hidden states")
    intermediate_size: Positive = Field(description="width of the feed-forward layers")
    num_layers: Positive = Field(description="transformer layers")
    num_heads: Positive = Field(description="attention heads of the queries")
    num_kv_heads: Positive = Field(description="attention heads of keys and values")
    head_size: Positive = Field(description="width of one attention head")
    vocab_size: Positive = Field(description="rows of the embedding")
    tied_embeddings: bool = Field(description="whether the output layer is the embedding itself")

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, the largest tensor of most models."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Parameters of a decoder with a gated MLP and grouped-query attention (Llama, Qwen),
        norms and biases left out: they are less than a thousandth."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads
        layer = self.hidden_size * (heads * self.head_size + 3 * self.intermediate_size)
        return self.num_layers * layer + self.embedding * (1 if self.tied_embeddings else 2)


class Model(Strict):
    """A base model: a directory or hub name, or one that the workflow builds."""

    path: str | None = Field(None, description="directory, or name on the Hugging Face hub")
    revision: str | None = Field(
        None, description="branch, tag or commit of a hub model; null: what its main branch is now"
    )
    build: Build | None = Field(None, description="a model that the workflow makes")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of sampling")
    attn_implementation: str | None = Field(
        None, description="attention of actors and critics; null lets the model's config decide"
    )
    trust_remote_code: bool = Field(
        False, description="whether Python code that comes with the model may run"
    )
    # Concerns what a training is expected to take alone, so no copy of the settings holds it.
    shape: Shape | None = Field(
        None, exclude=True, description="of a hub model that is not in the local cache: for memory"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        exactly_one(self, "path", "build")
        if self.build and self.revision:
            raise ValueError("revision belongs to a model on the hub: give path, or leave it out")
        return self
