"""Where the workflow's own files are: in the project, or beside the package where pip installed it.

The wheel has them in ``criticflow/project``, laid out as in the project.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "project"
PROJECT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parents[2]
WORKFLOW = PROJECT / "workflow"
SNAKEFILE = WORKFLOW / "Snakefile"
SCRIPTS = WORKFLOW / "scripts"
CONFIG = PROJECT / "config"
