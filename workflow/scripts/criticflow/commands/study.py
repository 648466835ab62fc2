"""``criticflow study export`` and ``import``: raw rows of runs, from machine to machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from criticflow.commands.arguments import add_study, command_parser

_DESCRIPTION = """\
Carry the raw rows of runs from one working directory to another, so that runs made on several
machines, or before a machine is lost, become one study. Rows are what statistics, savings and
report read: scores of each problem, metrics of each step, figures of critics, provenance.

  export DEST    writes a folder, or one file if DEST ends with .zip; it works beside a running
                 Snakemake, and takes what is trained and evaluated by then
  import SOURCE  takes such rows in; the runs stand beside those that are made here, and are not
                 trained. Other settings, another base model, other data, or other rows of a run
                 that is here already are an error, and nothing is taken in

input:   results/ of the working directory (export), a folder or zip file (import)
output:  the folder or zip file (export), imported/ in the working directory (import)
"""
_EXAMPLE = """\
example:
  criticflow study export rows.zip --configfile config/studies/critic-value.yaml \\
      --directory studies/critic-value
  criticflow study import rows.zip --configfile config/studies/critic-value.yaml \\
      --directory studies/critic-value
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of ``criticflow study``."""
    result = command_parser("study", _DESCRIPTION, _EXAMPLE)
    commands = result.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    add_study(common)
    export = commands.add_parser("export", parents=[common], help="write the rows of finished runs")
    export.add_argument("place", type=Path, metavar="DEST", help="folder, or NAME.zip")
    export.add_argument(
        "--critics",
        action="store_true",
        help="also the critics that other runs start from, so that these can be trained where the "
        "rows go, and the responses of the report's value viewer",
    )
    take = commands.add_parser("import", parents=[common], help="take rows in")
    take.add_argument("place", type=Path, metavar="SOURCE", help="what an export wrote")
    return result


def main(argv: list[str] | None = None) -> None:
    """Export or import.

    Raises:
        UserError: see :mod:`criticflow.exchange`.
    """
    arguments = parser().parse_args(argv)
    from criticflow.exchange.export import export
    from criticflow.exchange.take_in import take_in
    from criticflow.planning.study import read_study

    config = read_study(arguments.configfile)
    if arguments.command == "export":
        lines = export(arguments.directory, config, arguments.place, arguments.critics)
    else:
        lines = take_in(arguments.place, arguments.directory, config)
    print("\n".join(lines))
