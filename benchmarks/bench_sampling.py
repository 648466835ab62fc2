"""Start-up and throughput of an engine: ``python benchmarks/bench_sampling.py MODEL TEST_PARQUET``.

Throughput is compared with bare ``vllm.LLM.generate`` on the same prompts, samples and seeds; ours
includes rendering, scoring and the data frame. Both alternate; the best of three counts.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from criticflow import config
from criticflow.models.sampling import Engine, request_seeds
from criticflow.stages.samples import add_scores, read_problems


def seconds(work: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    tokens = work()
    return time.perf_counter() - start, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("parquet")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=40)
    arguments = parser.parse_args()
    n, max_tokens = arguments.n, arguments.max_tokens
    problems = read_problems(arguments.parquet)
    prompts = list(problems["prompt"])

    importing, _ = seconds(lambda: len(__import__("vllm").LLM.__name__))
    start = time.perf_counter()
    engine = Engine(
        arguments.model, config.Model(path=arguments.model), 64 + max_tokens, config.Resources()
    )
    starting = time.perf_counter() - start

    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    def bare() -> int:
        texts = engine.render(prompts)
        params = [
            SamplingParams(
                n=n, temperature=1.0, max_tokens=max_tokens, seed=s, logprobs=0, flat_logprobs=True
            )
            for s in request_seeds(texts, 0)
        ]
        ids = engine.tokenizer(texts, add_special_tokens=False)["input_ids"]
        inputs = [TokensPrompt(prompt_token_ids=row) for row in ids]
        nonlocal bare_start
        bare_start = time.perf_counter()
        outputs = engine._llm.generate(inputs, params, use_tqdm=False)
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

    def ours() -> int:
        samples = engine.generate(prompts, n, 1.0, max_tokens, 0)
        return int(add_scores(samples, problems)["n_tokens"].sum())

    bare_start = 0.0
    first, _ = seconds(lambda: len(engine.generate(prompts[:4], 1, 1.0, max_tokens, 1)))
    ours_best = bare_best = 0.0
    for _ in range(3):
        elapsed, tokens = seconds(ours)
        ours_best = max(ours_best, tokens / elapsed)
        tokens = bare()
        bare_best = max(bare_best, tokens / (time.perf_counter() - bare_start))
    engine.close()
    figures = {
        "import_s": importing,
        "engine_start_s": starting,
        "first_batch_s": first,
        "tokens_per_s": ours_best,
        "bare_tokens_per_s": bare_best,
        "ratio": ours_best / bare_best,
        "samples": len(prompts) * n,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
