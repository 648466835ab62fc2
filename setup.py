"""Puts the workflow's own files into the wheel, beside the package; all else is in pyproject.toml.

An installed package (not an editable one) has them in ``criticflow/project``, laid out as in the
project, without a second copy of the package (``criticflow.planning.project``).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = (
    "config/*.yaml",
    "config/README.md",
    "config/schema.json",
    "config/experiments/*.yaml",
    "config/studies/*.yaml",
    "workflow/Snakefile",
    "workflow/profiles/*/config.yaml",
    "workflow/report/*.rst",
    "workflow/rules/*.smk",
    "workflow/scripts/*.py",
)


class BuildWithWorkflow(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        here = Path(__file__).parent
        for pattern in FILES:
            for file in here.glob(pattern):
                target = Path(self.build_lib, "criticflow/project", file.relative_to(here))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


setup(cmdclass={"build_py": BuildWithWorkflow})
