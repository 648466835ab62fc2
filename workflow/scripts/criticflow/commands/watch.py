"""``criticflow watch``: a live table of a study that runs, read from its files."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from criticflow.commands.arguments import add_costs_from, add_study, command_parser
from criticflow.commands.plan import duration
from criticflow.planning.costs import Took
from criticflow.planning.study import read_study
from criticflow.training.state import IMPORTED, State, states

_DESCRIPTION = """\
Show how far a study is, training by training: stage, step, score of the last step's rollouts,
newest score on validation, time left. Nothing is locked or written: open and close it as you like
(Ctrl-C), beside a Snakemake at work or without one. Times left follow from the steps of a training
that runs, else from the benchmark tables of earlier jobs.

input:   results/ and logs/ of the working directory
output:  a table on the terminal, until every training is done
"""
_EXAMPLE = """\
example:
  criticflow watch --configfile config/studies/critic-value.yaml --directory studies/critic-value
  criticflow watch --once
"""
ROOM = 8
"""Lines of a terminal that the table's rows leave free."""


def parser() -> argparse.ArgumentParser:
    """Arguments of ``criticflow watch``."""
    result = command_parser("watch", _DESCRIPTION, _EXAMPLE)
    add_study(result)
    add_costs_from(result)
    result.add_argument("--once", action="store_true", help="print one table of all and end")
    result.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="between two looks (default: 5)"
    )
    return result


def main(argv: list[str] | None = None) -> None:
    """Show the table once, or until all is done or Ctrl-C.

    Raises:
        UserError: the configuration is wrong.
    """
    arguments = parser().parse_args(argv)
    config = read_study(arguments.configfile)
    costs = arguments.costs_from or arguments.directory
    console = Console()

    def look(rows: int | None) -> tuple[Group, bool]:
        found = states(config, arguments.directory)
        return table(found, Took(costs), rows), not any(one.left for one in found)

    if arguments.once:
        console.print(look(None)[0])
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                shown, done = look(max(1, console.height - ROOM))
                live.update(shown, refresh=True)
                if done:
                    return
                time.sleep(arguments.every)
    except KeyboardInterrupt:
        return


def table(found: Sequence[State], took: Took, most: int | None = None) -> Group:
    """The table, and what is left in all.

    Args:
        found: states of all trainings (:class:`criticflow.training.state.State`).
        took: what jobs took before (:class:`criticflow.planning.costs.Took`).
        most: rows that there is room for; those at work come first. None: all, in their order.
    """
    result = Table(box=SIMPLE_HEAD)
    result.add_column("run", overflow="fold")
    result.add_column("seed", justify="right")
    result.add_column("stage", no_wrap=True)
    for name in ("step", "score", "validation", "time left"):
        result.add_column(name, justify="right")
    shown = list(found) if most is None else sorted(found, key=_rank)[:most]
    for one in shown:
        result.add_row(
            one.run,
            str(one.seed),
            one.stage,
            f"{one.step}/{one.steps}",
            *("–" if score is None else f"{score:.3f}" for score in (one.score, one.validation)),
            duration(remaining(one, took)) if one.left else "–",
            style="bold" if one.running else "dim" if not one.left else None,
        )
    times = [remaining(one, took) for one in found if one.left]
    known = [seconds for seconds in times if seconds is not None]
    finished = sum(not one.left for one in found)
    imported = sum(one.stage == IMPORTED for one in found)
    said = f"{finished} of {len(found)} trainings are done"
    said += f", {imported} of them imported" if imported else ""
    said += f"; {sum(one.running for one in found)} at work"
    if known:
        said += f"; {duration(sum(known))} left, one after the other"
    if unknown := len(times) - len(known):
        said += f"; no earlier job says what {unknown} take"
    lines = [Text(f"{said}.")]
    if hidden := len(found) - len(shown):
        lines.insert(0, Text(f"and {hidden} more: criticflow watch --once shows all", style="dim"))
    return Group(result, *lines)


def remaining(one: State, took: Took) -> float | None:
    """Seconds until one training and all that follows it is done; None: not known."""
    seconds = 0.0
    for number, rule in enumerate(one.left):
        each = took.training(one.run) if rule == "train_run" else took.rule(rule)
        if rule == "train_run" and one.pace is not None:
            each = one.pace * (one.steps - one.step)
        if each is None and number == 0:
            return None
        seconds += each or 0.0
    return seconds


def _rank(one: State) -> int:
    """At work first, then what was begun, what waits, and what is done."""
    begun = one.step > 0
    return 0 if one.running else 3 if not one.left else 1 if begun else 2
