"""``criticflow evaluate``: a model on prepared problems, without the workflow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

_DESCRIPTION = """\
Evaluate a model on prepared problems, greedy and sampled; each is scored by its own task.

input:   a model directory that vLLM loads (or a hub name), and a split as the workflow prepares it
output:  OUT/summary.json (pass@1, pass@k, entropy, ... with intervals over problems) and
         OUT/samples.parquet (every response with its log-probabilities and its score)
"""
_EXAMPLE = """\
example:
  criticflow evaluate --model results/runs/cold/seed0/actor \\
      --data results/data/countdown-mini/test.parquet --limit 50 --out evaluation
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    result = argparse.ArgumentParser(
        prog="criticflow evaluate",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--model", required=True, help="model directory or hub name")
    add("--data", required=True, type=Path, help="prepared split: results/data/TASK/test.parquet")
    add("--out", required=True, type=Path, help="directory for summary.json and samples.parquet")
    add("--limit", type=int, help="only the first problems")
    add(
        "--n",
        type=int,
        default=4,
        help="samples per prompt beside the greedy one (default: 4)",
    )
    add("--temperature", type=float, default=1.0, help="of the samples (default: 1.0)")
    add("--seed", type=int, default=0, help="of the samples and the bootstrap (default: 0)")
    add("--max-prompt-length", type=int, default=512, help="tokens (default: 512)")
    add("--max-response-length", type=int, default=1024, help="tokens (default: 1024)")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="default: float32")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    add("--gpu", action="store_true", help="run on a GPU")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate one model.

    Raises:
        UserError: see :func:`criticflow.stages.evaluate.evaluate_model`.
    """
    given = parser().parse_args(arguments)
    counts = (given.n, given.max_prompt_length, given.max_response_length)
    if min(counts) < 1 or (given.limit is not None and given.limit < 1) or given.temperature <= 0:
        parser().error("--n, --limit and lengths are at least 1, --temperature is above 0")
    from criticflow import config  # only now, so that --help is quick
    from criticflow.stages.evaluate import Evaluation, Subject, evaluate_model

    model = config.Model(
        path=given.model, dtype=given.dtype, trust_remote_code=given.trust_remote_code
    )
    evaluate = config.Evaluate(
        n=given.n,
        prompts=given.limit,
        temperature=given.temperature,
        k=sorted({1, given.n}),
        seed=given.seed,
    )
    job = Evaluation(
        given.model,
        model,
        given.data,
        given.max_prompt_length,
        given.max_response_length,
        evaluate,
        config.Resources(gpu=int(given.gpu)),
    )
    subject = Subject(given.model, "base", None, given.model, str(given.data))
    evaluate_model(job, subject, given.out)
