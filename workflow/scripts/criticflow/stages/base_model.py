"""The base model of the CPU default: a small Qwen3, fine-tuned until it is partly competent.

It is trained for a short time only, on purpose: a model that solves some of the held-out problems
and not most, and whose entropy is not yet low, can gain from PPO. It may also learn a bad habit,
from solutions that leave out a number: PPO has something to unlearn then that colder sampling would
not cure.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from criticflow.config import Build, Sft, Task
from criticflow.errors import UserError
from criticflow.files import replacing
from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.models.corpora import open_retriever
from criticflow.models.word_tokenizer import word_tokenizer
from criticflow.retrieval import protocol
from criticflow.retrieval.corpus import DOCUMENTS, read_documents
from criticflow.retrieval.protocol import FORMATS
from criticflow.retrieval.settings import limits
from criticflow.stages.solved_dialogues import solved_dialogue, without_searches
from criticflow.tasks.countdown import without_last_number

log = logging.getLogger(__name__)

HEAD_MULTIPLE = 32
"""vLLM's attention on the CPU takes heads of 32, 64, 96, ... dimensions."""

IGNORE = -100
"""Label of a position that the loss leaves out (PyTorch's convention)."""


def build(
    build: Build,
    train_parquet: Path,
    out: Path,
    task: Task | None = None,
    corpus: Path | None = None,
) -> None:
    """Make the model and write it, with its tokenizer, to the directory ``out``.

    Args:
        task, corpus: of a task with search: the searches of its solved problems are really made.

    The same settings and data give the same weights on one machine.

    Raises:
        UserError: vLLM has no attention for such heads; the data has no worked solutions, or they
            don't fit ``max_positions``.
    """
    if build.hidden_size % (HEAD_MULTIPLE * build.num_heads):
        raise UserError(
            f"build: hidden_size {build.hidden_size} / num_heads {build.num_heads} must be a "
            f"multiple of {HEAD_MULTIPLE}, or vLLM cannot run the model on a CPU"
        )
    problems = solved_problems(train_parquet, build.sft.problems, build.seed)
    problems = with_habit(problems, build.sft.careless, build.sft.careless_from, build.seed)
    if build.tokenizer == "words":
        tokenizer = word_tokenizer(_texts(train_parquet, corpus), build.max_positions)
    else:
        tools = task is not None and task.search is not None and task.search.format != "tags"
        tokenizer = char_tokenizer(build.max_positions, tools)
    second: list[tuple[list[int], list[int]]] = []
    if task is not None and task.search is not None:
        retriever = open_retriever(task.search.service, corpus)
        bounds = limits(task.search, task.max_response_length)
        searched = (tokenizer, bounds, retriever, task.search.topk, FORMATS[task.search.format])
        examples = [solved_dialogue(*problem, *searched) for problem in problems]
        if (hasty := build.sft.hasty) is not None:
            early = [
                (prompt, without_searches(solution, hasty.share, build.seed))
                for prompt, solution in problems
            ]
            second = [solved_dialogue(*problem, *searched) for problem in early]
    else:
        examples = [encode(prompt, solution, tokenizer) for prompt, solution in problems]
    longest = max(len(tokens) for tokens, _ in examples)
    if longest > build.max_positions:
        raise UserError(
            f"{train_parquet}: prompt and solution take up to {longest} tokens, more than "
            f"build.max_positions {build.max_positions}: raise it or shorten the prompt"
        )
    model = initial_model(build, tokenizer)
    count = sum(parameter.numel() for parameter in model.parameters())
    log.info("Qwen3 with %.2fM parameters, %d solved problems", count / 1e6, len(examples))
    with _deterministic():
        fine_tune(model, examples, build.sft, build.seed, pad=tokenizer.pad_token_id)
        if second:
            shorter = {"steps": hasty.steps, "learning_rate": hasty.learning_rate}
            sft = build.sft.model_copy(update=shorter)
            fine_tune(model, second, sft, build.seed + 1, pad=tokenizer.pad_token_id)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
    )
    with replacing(out) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def solved_problems(train_parquet: Path, limit: int, seed: int) -> list[tuple[list[dict], str]]:
    """Prompts (chat messages) and worked solutions of at most ``limit`` training problems.

    Raises:
        UserError: no row has a worked solution (``extra_info.solution``).
    """
    frame = pd.read_parquet(train_parquet, columns=["prompt", "extra_info"])
    rows = [
        (list(prompt), extra["solution"])
        for prompt, extra in zip(frame["prompt"], frame["extra_info"], strict=True)
        if extra.get("solution")
    ]
    if not rows:
        raise UserError(
            f"{train_parquet}: no row has a worked solution (extra_info.solution) to fine-tune on: "
            "use a task whose source gives them"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[index] for index in order[:limit]]


def with_habit(
    problems: list[tuple[list[dict], str]], share: float, fewest: int, seed: int
) -> list[tuple[list[dict], str]]:
    """The problems, some of whose solutions leave out the last number.

    Args:
        problems: prompts and worked solutions.
        share: of the solutions with ``fewest`` or more numbers; drawn from ``seed``, each apart.
    """
    draws = np.random.default_rng([seed, 2]).random(len(problems))
    return [
        (prompt, (draw < share and without_last_number(solution, fewest)) or solution)
        for (prompt, solution), draw in zip(problems, draws, strict=True)
    ]


def _texts(train_parquet: Path, corpus: Path | None) -> Iterator[str]:
    """All words that a model of this task may meet, and those that surround documents."""
    frame = pd.read_parquet(train_parquet, columns=["prompt", "extra_info"])
    for prompt, extra in zip(frame["prompt"], frame["extra_info"], strict=True):
        yield from (message["content"] for message in prompt)
        yield extra["solution"] or ""
    if corpus is not None:
        for document in read_documents(corpus / DOCUMENTS):
            yield document.contents
    yield from (protocol.shown(["", "\n"] * 5), protocol.shown([]), FORMATS["tags"].hint)


def encode(
    prompt: list[dict], solution: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int]]:
    """Token ids of prompt, solution and end of message; and 1 where a token is the model's own."""
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    before = tokenizer.encode(text, add_special_tokens=False)
    after = tokenizer.encode(solution, add_special_tokens=False)
    own = [*after, tokenizer.eos_token_id]
    return [*before, *own], [*[0] * len(before), *[1] * len(own)]


def initial_model(build: Build, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 in float32 with random weights drawn from ``build.seed``."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=build.hidden_size,
        intermediate_size=build.intermediate_size,
        num_hidden_layers=build.num_layers,
        num_attention_heads=build.num_heads,
        num_key_value_heads=build.num_kv_heads,
        head_dim=build.hidden_size // build.num_heads,
        max_position_embeddings=build.max_positions,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    # transformers draws initial weights from the global generator: lend it a seed, then restore it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(build.seed)
        model = Qwen3ForCausalLM(config)
    return model.to(torch.float32)


def fine_tune(
    model: Qwen3ForCausalLM,
    examples: list[tuple[list[int], list[int]]],
    sft: Sft,
    seed: int,
    pad: int,
) -> None:
    """Minimise the cross-entropy of the responses, in place, for ``sft.steps`` steps of AdamW."""
    tokens, labels = as_tensors(examples, pad)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=sft.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, foreach=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, sft.steps))
    batches = _batches(len(tokens), sft.batch_size, seed)
    model.train()
    for step in range(1, sft.steps + 1):
        batch = torch.from_numpy(next(batches))
        rows, targets = tokens[batch], labels[batch]
        width = int((rows != pad).sum(1).max())
        logits = model(rows[:, :width]).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1),
            targets[:, 1:width].flatten(),
            ignore_index=IGNORE,
            label_smoothing=sft.label_smoothing,
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == sft.steps:
            log.info("step %d/%d: loss %.3f nats a token", step, sft.steps, loss.item())
    model.eval()


def as_tensors(
    examples: list[tuple[list[int], list[int]]], pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and labels, both ``(examples, longest)``; only what the model writes is
    labelled, neither prompts nor what it reads.

    Attention needs no mask: it is causal, and what follows a response is padding without label.
    """
    longest = max(len(tokens) for tokens, _ in examples)
    tokens = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), IGNORE)
    for row, (ids, own) in enumerate(examples):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.where(
            torch.tensor(own) > 0, tokens[row, : len(ids)], IGNORE
        )
    return tokens, labels


def cosine(step: int, steps: int, warmup: float = 0.05, floor: float = 0.05) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine down to ``floor``."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _batches(count: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless mini-batches of row numbers, every row once per epoch (the last batch is dropped)."""
    generator = np.random.default_rng([seed, 1])
    size = min(size, count)
    while True:
        order = generator.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


@contextmanager
def _deterministic() -> Iterator[None]:
    """One thread, so that weights do not depend on the number of cores, and fixed algorithms."""
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)
