"""``criticflow init``: a folder of one's own in which the installed workflow runs.

criticflow init my-study
cd my-study && snakemake --cores all
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from criticflow.errors import UserError, run_program

SNAKEFILE = """\
# The workflow is criticflow's, as it is installed in this environment.
from criticflow.planning import project


configfile: f"{workflow.basedir}/../config/config.yaml"


module critic:
    snakefile:
        str(project.SNAKEFILE)
    config:
        config


use rule * from critic


onstart:
    critic.onstart()


onsuccess:
    critic.onsuccess()


onerror:
    critic.onerror()
"""
"""Snakemake hands the messages of a module on to nobody: whoever uses it calls them."""

_DESCRIPTION = """\
Lay out a folder in which the installed workflow runs: configuration, profiles, and a Snakefile that
uses the workflow as a module.

input:   the installed package
output:  DIR/config, DIR/workflow/profiles, DIR/workflow/Snakefile; what is there stays, and is an
         error
"""
_EXAMPLE = """\
example:
  criticflow init my-study
  cd my-study && snakemake --cores all
"""


def main(argv: list[str] | None = None) -> None:
    """Lay out the folder.

    Raises:
        UserError: something of it is there already.
    """
    parser = argparse.ArgumentParser(
        prog="criticflow init",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="made if it is not there")
    lay_out(parser.parse_args(argv).directory)


def lay_out(directory: Path) -> None:
    """See :func:`main`."""
    from criticflow.planning import project

    profiles = Path("workflow/profiles")
    if there := [name for name in ("config", "workflow") if (directory / name).exists()]:
        raise UserError(
            f"{directory / there[0]} is there already: name a folder without it, or move it away"
        )
    shutil.copytree(project.CONFIG, directory / "config")
    shutil.copytree(project.PROJECT / profiles, directory / profiles)
    (directory / "workflow/Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    print(
        f"{directory}: config/ (config.yaml is the study, README.md explains it) and workflow/\n"
        f"  cd {directory} && snakemake --cores all"
    )


if __name__ == "__main__":
    run_program(main)
