"""``criticflow truth``: measure the true values of a model's states, for any model vLLM loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from criticflow import config
from criticflow.errors import run_program


def main() -> None:
    default = config.Truth()
    parser = argparse.ArgumentParser(
        prog="criticflow truth",
        description="Sample continuations of states of held-out responses and write their scores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="the actor: model directory or hub name")
    add("--data", required=True, type=Path, help="prepared split: results/data/TASK/test.parquet")
    add("--out", required=True, type=Path, help="directory for states and continuations")
    add("--name", help="the actor's name in tables (default: --model)")
    add("--problems", type=int, default=default.problems, help="the first ones of the split")
    add("--continuations", type=int, default=default.continuations, help="from each state")
    add("--positions", type=float, nargs="+", default=default.positions, help="shares of the way")
    add("--temperature", type=float, default=1.0, help="of the actor's rollouts")
    add("--gamma", type=float, default=1.0, help="discount per token")
    add("--seed", type=int, default=0, help="of responses and continuations")
    add("--max-prompt-length", type=int, default=512, help="tokens")
    add("--max-response-length", type=int, default=1024, help="tokens")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="precision")
    add("--trust-remote-code", action="store_true", help="run code that comes with the model")
    add("--gpu", action="store_true", help="run on a GPU")
    given = parser.parse_args()
    if min(given.problems, given.max_prompt_length, given.max_response_length) < 1:
        parser.error("--problems and lengths are at least 1")
    if given.continuations < 2 or given.temperature <= 0 or not 0 <= given.gamma <= 1:
        parser.error("--continuations is at least 2, --temperature above 0, --gamma in [0, 1]")
    if any(not 0 <= position <= 1 for position in given.positions):
        parser.error("--positions are shares from 0 to 1")
    from criticflow.stages import value_truth  # after the arguments: it takes seconds to import

    value_truth.measure_truth(
        given.model,
        config.Model(
            path=given.model, dtype=given.dtype, trust_remote_code=given.trust_remote_code
        ),
        given.data,
        given.max_prompt_length,
        given.max_response_length,
        config.Truth(
            problems=given.problems,
            positions=sorted(set(given.positions)),
            continuations=given.continuations,
            seed=given.seed,
        ),
        given.temperature,
        given.gamma,
        config.Resources(gpu=int(given.gpu)),
        given.out,
        {
            "actor": given.name or given.model,
            "actor_seed": None,
            "actor_step": None,
            "task": given.data.parent.name,
        },
    )


if __name__ == "__main__":
    run_program(main)
