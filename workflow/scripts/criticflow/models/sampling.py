"""Responses of one model to many prompts, from one vLLM engine."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from criticflow import config
from criticflow.errors import UserError
from criticflow.logs import progress
from criticflow.models.directory import check_model_directory
from criticflow.models.hub import local_copy

Messages = Sequence[dict[str, str]]
"""A chat: ``[{"role": ..., "content": ...}, ...]``."""

MAX_SEQUENCES = 512
"""Sequences that the engine decodes together on the CPU."""

COLUMNS = [
    "prompt_index",
    "sample_index",
    "prompt",
    "prompt_tokens",
    "response",
    "tokens",
    "n_tokens",
    "logprobs",
    "truncated",
]


class Engine:
    """A running vLLM engine; as a context manager it is ended with the block.

    On the CPU it lives in this process (vLLM's default of an engine and a worker process imports
    everything three times, most of the start-up of a small model) and takes the CPU settings of its
    environment: one engine at a time, and only in a process of its own.

    Args:
        model_path: a model directory, checked before anything starts, or the name of a hub model.
        model: precision, and whether code that comes with the model may run.
        max_model_len: tokens of a prompt and its response together, at most.
        resources: the GPUs that the engine spans (``gpu``), or the CPU, and the size of the cache
            there.
        block_size: tokens of a block of the cache. Sequences share the computation of whole blocks
            that they have in common. None: vLLM's choice, on the CPU 128.
        ranks: processes that share the weights (tensor parallelism). None: one for each GPU; on the
            CPU one.

    Raises:
        UserError: the model is missing, broken, or too short for ``max_model_len``.
    """

    def __init__(
        self,
        model_path: Path | str,
        model: config.Model,
        max_model_len: int,
        resources: config.Resources,
        block_size: int | None = None,
        tools: list[dict[str, Any]] | None = None,
        ranks: int | None = None,
    ) -> None:
        model_path = local_copy(str(model_path), model.revision)
        settings = check_model_directory(model_path)
        positions = (settings or {}).get("max_position_embeddings")
        if positions is not None and positions < max_model_len:
            raise UserError(
                f"{model_path} has {positions} positions, but prompt and response may take "
                f"{max_model_len} tokens: lower max_prompt_length or max_response_length"
            )
        self.max_model_len = max_model_len
        ranks = ranks or max(1, resources.gpu)
        self._llm = _start(model_path, model, max_model_len, resources, block_size, ranks)
        self.tokenizer, self.tools = self._llm.get_tokenizer(), tools

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the engine and free its memory."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()

    def render(self, prompts: Sequence[Messages]) -> list[str]:
        """The text of each chat, up to where the model's answer begins.

        Raises:
            UserError: the tokenizer has no chat template, or refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise UserError("the model's tokenizer has no chat template: use an instruct model")
        return [
            self.tokenizer.apply_chat_template(
                list(messages), tools=self.tools, tokenize=False, add_generation_prompt=True
            )
            for messages in prompts
        ]

    def fitting(
        self, problems: pd.DataFrame, max_length: int, source: Path | str
    ) -> tuple[pd.DataFrame, int]:
        """Problems whose ``prompt`` has at most ``max_length`` tokens, and how many have more.

        Counted is what a model is given, the opening of its own turn included. verl drops the same
        prompts from training.

        Args:
            source: the problems' file, for messages.

        Raises:
            UserError: none fits.
        """
        lengths = [len(ids) for ids in self._encode(self.render(list(problems["prompt"])))]
        fits = [length <= max_length for length in lengths]
        too_long = len(fits) - sum(fits)
        if too_long == len(fits):
            raise UserError(
                f"{source}: every prompt is longer than {max_length} tokens, the shortest has "
                f"{min(lengths)}: raise max_prompt_length or shorten the task's prompt"
            )
        if too_long:
            progress(
                f"{source}: {too_long} of {len(fits)} prompts over {max_length} tokens left out"
            )
        return problems[fits].reset_index(drop=True), too_long

    def generate(
        self,
        prompts: Sequence[Messages],
        n: int,
        temperature: float,
        max_tokens: int,
        seed: int,
    ) -> pd.DataFrame:
        """Sample ``n`` responses per prompt; temperature 0 with ``n`` 1 is greedy.

        Each prompt has a seed of its own, drawn from ``seed`` and the prompt's text (see
        :func:`request_seeds`): neither the order of the prompts nor which others there are changes
        it. Sampling is unrestricted (no top-k, top-p or penalties).

        Returns:
            One row per sample, by prompt and sample: ``prompt_index`` (position in ``prompts``),
            ``sample_index``, ``prompt`` and ``response`` (text; the response without special
            tokens), ``prompt_tokens`` (ids that the model was given), ``tokens`` (ids of the
            response, its end of message included), ``n_tokens``, ``logprobs`` (log-probability of
            each of these tokens in nats, under the distribution it was drawn from: after the
            temperature; greedy: the model's own), ``truncated`` (the response ran into
            ``max_tokens``).

        Raises:
            UserError: a prompt leaves no room for ``max_tokens``.
        """
        texts = self.render(prompts)
        encoded = self._encode(texts)
        seeds = request_seeds(texts, seed)
        most = [max_tokens] * len(texts)
        outputs = self.sample(encoded, seeds, n, temperature, most, logprobs=True)
        rows = [
            (
                prompt_index,
                sample.index,
                text,
                ids,
                sample.text,
                list(sample.token_ids),
                len(sample.token_ids),
                list(sample.logprobs.logprobs),
                sample.finish_reason == "length",
            )
            for prompt_index, (text, ids, samples) in enumerate(
                zip(texts, encoded, outputs, strict=True)
            )
            for sample in samples
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def continue_from(
        self,
        states: Sequence[Sequence[int]],
        n: int,
        temperature: float,
        max_tokens: Sequence[int],
        seed: int,
    ) -> list[list[list[int]]]:
        """Sample ``n`` continuations of each state, as :meth:`generate` samples responses.

        Args:
            states: token ids, of a prompt and the part of a response that is there already.
            max_tokens: most tokens of a continuation, by state.
            seed: each state has a seed of its own, drawn from this and its token ids.

        Returns:
            By state and sample: token ids of the continuation, its end of message included.

        Raises:
            UserError: a state leaves no room for its continuations.
        """
        if not len(states):
            return []
        encoded = [list(map(int, state)) for state in states]
        seeds = request_seeds([tuple(ids) for ids in encoded], seed)
        outputs = self.sample(encoded, seeds, n, temperature, max_tokens, logprobs=False)
        return [[list(sample.token_ids) for sample in samples] for samples in outputs]

    def sample(
        self,
        encoded: list[list[int]],
        seeds: list[int],
        n: int,
        temperature: float,
        max_tokens: Sequence[int],
        logprobs: bool,
        stop: list[str] | None = None,
    ) -> list[list[Any]]:
        """vLLM's samples of each list of token ids, in order.

        Args:
            encoded, seeds, max_tokens: by request.
            stop: texts that end a sample, which keeps them.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        for ids, most in zip(encoded, max_tokens, strict=True):
            if len(ids) + most > self.max_model_len:
                raise UserError(
                    f"a prompt of {len(ids)} tokens and a response of {most} exceed the engine's "
                    f"{self.max_model_len}: drop such prompts or raise max_prompt_length"
                )
        params = [
            SamplingParams(
                n=n,
                temperature=temperature,
                max_tokens=most,
                seed=request_seed,
                stop=stop,
                include_stop_str_in_output=stop is not None,
                # 0: of the sampled token alone
                **({"logprobs": 0, "flat_logprobs": True} if logprobs else {}),
            )
            for request_seed, most in zip(seeds, max_tokens, strict=True)
        ]
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in encoded], params, use_tqdm=False
        )
        return [sorted(output.outputs, key=lambda sample: sample.index) for output in outputs]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # The template has written the special tokens that belong there.
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def request_seeds(texts: Sequence[str] | Sequence[tuple[int, ...]], seed: int) -> list[int]:
    """One seed per prompt (its text, or its token ids), from ``seed``, the prompt, and how often
    it came before.

    vLLM gives sample ``i`` of a request the seed ``s + i``; seeds of different prompts are far
    apart.
    """
    seen: Counter[str | tuple[int, ...]] = Counter()
    seeds = []
    for text in texts:
        identity = json.dumps([seed, text, seen[text]]).encode()
        seen[text] += 1
        seeds.append(int.from_bytes(hashlib.sha256(identity).digest()[:8]) >> 2)
    return seeds


def _start(
    model_path: str,
    model: config.Model,
    max_model_len: int,
    resources: config.Resources,
    block_size: int | None,
    ranks: int,
) -> Any:
    import torch._dynamo

    options: dict[str, Any] = {}
    if ranks > 1:  # processes of this machine; Ray's would be another's to end
        options |= {"tensor_parallel_size": ranks, "distributed_executor_backend": "mp"}
    if block_size is not None:
        options["block_size"] = block_size
    if resources.device == "cpu":
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # wins over the option
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # Compiling, even of the one small function that ranks log-probabilities, takes seconds.
        torch._dynamo.config.disable = True
        options |= {
            "enforce_eager": True,
            "kv_cache_memory_bytes": int(resources.kv_cache_gb * 2**30),
            "max_num_seqs": MAX_SEQUENCES,
            # A prompt cut in two would rewind its request's generator; on the CPU torch cannot.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, max_model_len),
        }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    gc.freeze()  # vLLM looks for garbage when an engine starts and ends; among this there is none
    try:
        return LLM(
            model=model_path,
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            max_model_len=max_model_len,
            logprobs_mode="processed_logprobs",
            seed=0,
            **options,
        )
    except (OSError, ValueError) as error:
        # vLLM's own checks of the model and of memory; their first lines say what is the matter.
        raise UserError(f"vLLM cannot load {model_path}: {error}") from error
