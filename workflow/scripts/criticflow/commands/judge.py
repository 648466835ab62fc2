"""``criticflow judge``: compare any HuggingFace critic with the truth of any actor."""

from __future__ import annotations

import argparse
from pathlib import Path

from criticflow import config
from criticflow.errors import run_program


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="criticflow judge",
        description="Compare a critic's values with the truth that `criticflow truth` measured.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--critic", required=True, help="critic: model directory or hub name")
    add("--truth", required=True, type=Path, nargs="+", help="directories of states.parquet")
    add("--out", required=True, type=Path, help="directory for values.parquet and rows.json")
    add("--name", help="the critic's name in tables (default: --critic)")
    add("--gamma", type=float, default=1.0, help="discount that the critic learned with")
    add("--masked", type=float, default=0.0, help="share of rewards that were 0 as it learned")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="precision")
    add("--attention", help="attention implementation (default: the critic's own)")
    add("--trust-remote-code", action="store_true", help="run code that comes with the critic")
    add("--gpu", action="store_true", help="run on a GPU")
    given = parser.parse_args()
    if not (0 <= given.gamma <= 1 and 0 <= given.masked < 1):
        parser.error("--gamma is in [0, 1], --masked in [0, 1)")
    from criticflow.stages import judge  # after the arguments: it takes seconds to import

    name = given.name or given.critic
    judge.judge_critic(
        given.critic,
        config.Model(
            path=given.critic,
            dtype=given.dtype,
            attn_implementation=given.attention,
            trust_remote_code=given.trust_remote_code,
        ),
        given.truth,
        {"critic": name, "kind": "run", "critic_seed": None, "critic_step": None},
        given.gamma,
        config.Resources(gpu=int(given.gpu)),
        given.out,
        masked=given.masked,
    )


if __name__ == "__main__":
    run_program(main)
