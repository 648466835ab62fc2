"""``criticflow evaluate``: a model on prepared problems, without the workflow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from criticflow import config
from criticflow.commands.arguments import add_sampling, command_parser, model_settings, resources

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
    result = command_parser("evaluate", _DESCRIPTION, _EXAMPLE)
    add_sampling(result)
    add = result.add_argument
    add("--out", required=True, type=Path, help="directory for summary.json and samples.parquet")
    add("--limit", type=int, help="only the first problems")
    add("--n", type=int, default=4, help="samples per prompt beside the greedy one (default: 4)")
    add("--seed", type=int, default=0, help="of the samples and the bootstrap (default: 0)")
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
    # Only now, so that --help is quick.
    from criticflow.stages.evaluate import Evaluation, Subject, evaluate_model

    evaluate = config.Evaluate(
        n=given.n,
        prompts=given.limit,
        temperature=given.temperature,
        k=sorted({1, given.n}),
        seed=given.seed,
    )
    job = Evaluation(
        given.model,
        model_settings(given, given.model),
        given.data,
        given.max_prompt_length,
        given.max_response_length,
        evaluate,
        resources(given),
    )
    subject = Subject(given.model, "base", None, given.model, str(given.data))
    evaluate_model(job, subject, given.out)
