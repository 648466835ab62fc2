"""``criticflow accept RUN``: keep a training although code or libraries have changed since."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from criticflow.errors import UserError
from criticflow.files import write_json
from criticflow.planning.sources import training_files
from criticflow.runtime.run_lock import living_owner, run_lock
from criticflow.training import identity, provenance

_DESCRIPTION = """\
Keep a training although code of this project, or versions of libraries, have changed since it was
made: for changes that cannot have changed its weights, as a renamed variable, or that you do not
mind. With --restore a training that was moved aside takes its place back first; what is there now
is moved aside instead.

input:   results/checkpoints/RUN/seedN
output:  the same, with what was accepted, by whom and when; also in the run's provenance.json and
         in the report
"""
_EXAMPLE = """\
example:
  criticflow accept cold
  criticflow accept cold --seed 0 --restore seed0.replaced-2026-11-21T17-30-00"""
_SEED = re.compile(r"seed(-?\d+)")


def accept(workdir: Path, run: str, seed: int, restore: str | None = None) -> list[str]:
    """Make what is trained belong to the present code and versions.

    Args:
        workdir: where ``results`` is.
        run, seed: which training.
        restore: name of a directory beside the run's checkpoints, to which it was moved.

    Returns:
        What differed; empty: nothing.

    Raises:
        UserError: there is nothing to accept, or it is being trained.
    """
    directory = workdir / "results" / "checkpoints" / run / f"seed{seed}"
    source = directory if restore is None else directory.with_name(restore)
    if other := living_owner(directory):
        raise UserError(f"{directory} is being trained by {other}: {other.how_to_stop} ends that")
    stamp = identity.read_stamp(source)
    if stamp is None or "identity" not in stamp:
        raise UserError(f"{source} holds no training that says what it was made from")
    with run_lock(directory):
        if restore is not None:
            if directory.exists():
                identity.move_aside(directory)
            source.rename(directory)
        made_from = stamp["identity"]
        code = identity.code(training_files(made_from["settings"]["task"]["kind"]))
        versions = identity.only_asked(provenance.versions())
        before = {"code": made_from["code"], "versions": stamp["versions"]}
        differs = identity.differences(before, {"code": code, "versions": versions})
        if differs:
            identity.write_stamp(directory, made_from | {"code": code}, versions)
            provenance.add_accepted(
                directory,
                {
                    "who": getpass.getuser(),
                    "host": socket.gethostname(),
                    "when": provenance.now(),
                    "git": provenance.git_state(),
                    "differs": differs,
                },
                code,
            )
            results = workdir / "results" / "runs" / run / f"seed{seed}"
            if (results / provenance.NAME).is_file():
                write_json(results / provenance.NAME, provenance.read(directory))
    return differs


def parser() -> argparse.ArgumentParser:
    """Arguments of ``criticflow accept``."""
    result = argparse.ArgumentParser(
        prog=identity.ACCEPT,
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("run", help="name of the run")
    result.add_argument("--seed", type=int, help="one seed (default: all that are trained)")
    result.add_argument(
        "--directory", type=Path, default=Path(), help="where results/ is (default: here)"
    )
    result.add_argument(
        "--restore", metavar="NAME", help="take seedN.replaced-DATE back, and accept that"
    )
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Accept one seed of a run, or all.

    Raises:
        UserError: see :func:`accept`.
    """
    options = parser().parse_args(arguments)
    run = options.directory / "results" / "checkpoints" / options.run
    names = os.listdir(run) if run.is_dir() else []
    seeds = sorted(int(match[1]) for name in names if (match := _SEED.fullmatch(name)))
    if options.seed is not None:
        seeds = [options.seed]
    elif options.restore is not None:
        raise UserError("--restore takes one training back: give its --seed as well")
    if not seeds:
        raise UserError(f"{run} holds no training: give a run's name, and --directory if needed")
    for seed in seeds:
        differs = accept(options.directory, options.run, seed, options.restore)
        what = identity.brief(differs) or "neither code nor versions differ"
        print(f"{options.run}, seed {seed}: {'accepted: ' if differs else ''}{what}")
