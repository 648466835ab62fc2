"""``criticflow judge``: compare any HuggingFace critic with the truth of any actor."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from criticflow.commands.arguments import add_loading, command_parser, model_settings, resources

_DESCRIPTION = """\
Compare a critic's values with the true values of actors' states.

input:   a critic that transformers loads (a token classifier with one label), and directories that
         `criticflow truth` or the workflow wrote
output:  OUT/rows.json (bias, error, share explained, ... per actor), OUT/values.parquet (V of each
         state) and OUT/responses.parquet (some responses, token by token)
"""
_EXAMPLE = """\
example:
  criticflow judge --critic results/runs/cold/seed0/critic --truth truth --out judged
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    result = command_parser("judge", _DESCRIPTION, _EXAMPLE)
    add = result.add_argument
    add("--critic", required=True, help="critic: model directory or hub name")
    add("--truth", required=True, type=Path, nargs="+", help="directories of states.parquet")
    add("--out", required=True, type=Path, help="directory for values.parquet and rows.json")
    add("--name", help="the critic's name in tables (default: --critic)")
    add(
        "--gamma",
        type=float,
        default=1.0,
        help="discount that the critic learned with (default: 1.0)",
    )
    add(
        "--masked",
        type=float,
        default=0.0,
        help="share of trajectories whose reward was 0 while it learned (default: 0.0)",
    )
    add("--attention", help="attention implementation (default: the critic's own)")
    add_loading(result)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge one critic.

    Raises:
        UserError: see :func:`criticflow.stages.judge.judge_critic`.
    """
    given = parser().parse_args(arguments)
    if not (0 <= given.gamma <= 1 and 0 <= given.masked < 1):
        parser().error("--gamma is in [0, 1], --masked in [0, 1)")
    from criticflow.models.saved_critic import SavedCritic  # only now, so that --help is quick
    from criticflow.stages import judge

    model = model_settings(given, given.critic, attn_implementation=given.attention)
    name = given.name or given.critic
    judge.judge_critic(
        SavedCritic(given.critic, model, given.gamma),
        {"critic": name, "kind": "run", "critic_seed": None, "critic_step": None},
        given.truth,
        resources(given).device,
        given.out,
        masked=given.masked,
    )
