"""``criticflow truth``: measure the true values of a model's states, for any model vLLM loads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from criticflow import config
from criticflow.commands.arguments import add_sampling, command_parser, model_settings, resources

_DESCRIPTION = """\
Measure the true values of states: continue held-out responses from several places, many times.

input:   an actor that vLLM loads, and a split as the workflow prepares it
output:  OUT/states.parquet (V of each state, by Monte Carlo), OUT/continuations.parquet,
         OUT/responses.parquet and OUT/summary.json, which `criticflow judge` reads; with --pieces
         and --audited OUT/pieces.parquet and OUT/tokens.parquet, each with its continuations,
         with --gradients OUT/token_products.npz
"""
_EXAMPLE = """\
example:
  criticflow truth --model results/runs/cold/seed0/actor \\
      --data results/data/countdown-mini/test.parquet --problems 20 --out truth
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    default = config.Truth()
    result = command_parser("truth", _DESCRIPTION, _EXAMPLE)
    add_sampling(result)
    add = result.add_argument
    add("--out", required=True, type=Path, help="directory for states and continuations")
    add("--name", help="the actor's name in tables (default: --model)")
    add(
        "--problems",
        type=int,
        default=default.problems,
        help="the first ones of the split (default: %(default)s)",
    )
    add(
        "--continuations",
        type=int,
        default=default.continuations,
        help="from each state (default: %(default)s)",
    )
    add(
        "--positions",
        type=float,
        nargs="+",
        default=default.positions,
        help="states, as shares of a response (default: %(default)s)",
    )
    add(
        "--pieces",
        type=int,
        default=default.pieces,
        help="next pieces of each state, among which critics choose (default: %(default)s, none)",
    )
    add(
        "--audited",
        type=int,
        default=default.audited,
        help="responses with a truth before every token, where advantages of critics are compared "
        "with true ones (default: %(default)s)",
    )
    add(
        "--gradients",
        action="store_true",
        help="on the audited responses gradients of the policy too, for small models: one backward "
        "pass a token, and again for each GiB of all their gradients",
    )
    add("--gamma", type=float, default=1.0, help="discount per token (default: 1.0)")
    add("--seed", type=int, default=0, help="of responses and continuations (default: 0)")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one actor.

    Raises:
        UserError: see :func:`criticflow.stages.value_truth.measure_truth`.
    """
    given = parser().parse_args(arguments)
    if min(given.problems, given.max_prompt_length, given.max_response_length) < 1:
        parser().error("--problems and lengths are at least 1")
    if given.continuations < 2 or given.temperature <= 0 or not 0 <= given.gamma <= 1:
        parser().error("--continuations is at least 2, --temperature above 0, --gamma in [0, 1]")
    if min(given.pieces, given.audited) < 0:
        parser().error("--pieces and --audited are at least 0")
    if given.gradients and given.audited < 2:
        parser().error("--gradients are taken on audited responses: --audited is at least 2 then")
    if any(not 0 <= position <= 1 for position in given.positions):
        parser().error("--positions are shares from 0 to 1")
    from criticflow.stages import token_gradients, value_truth  # only now: --help is quick

    settings = model_settings(given, given.model)
    (given.out / token_gradients.FILE).unlink(missing_ok=True)  # of another truth

    job = value_truth.Measurement(
        given.model,
        settings,
        given.data,
        given.max_prompt_length,
        given.max_response_length,
        config.Truth(
            problems=given.problems,
            positions=sorted(set(given.positions)),
            continuations=given.continuations,
            pieces=given.pieces,
            audited=given.audited,
            gradients=given.gradients,
            seed=given.seed,
        ),
        given.temperature,
        given.gamma,
        resources(given),
    )
    actor = {"actor": given.name or given.model, "actor_seed": None, "actor_step": None}
    value_truth.measure_truth(job, {**actor, "task": given.data.parent.name}, given.out)
    if given.gradients:
        device = resources(given).device
        token_gradients.measure_token_products(
            given.model, settings, given.temperature, device, given.out
        )
