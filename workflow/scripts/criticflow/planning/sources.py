"""Which files of this package a rule depends on, read from the imports in the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from criticflow.code import children
from criticflow.planning.project import SCRIPTS

PACKAGE = "criticflow"
VLLM_PLUGIN = ("criticflow.verl_plugin.vllm_cpu",)
"""Modules that vLLM loads by their entry point: no import leads to them."""
TRAINING = (
    "criticflow.commands.train",
    "criticflow.verl_plugin.reward",
    "criticflow.verl_plugin.plugin",
    "criticflow.verl_plugin.weight_sender",
    *VLLM_PLUGIN,
)
"""Modules that a training runs, or that verl loads by name: no import leads to them."""
SETTLED = ("checks", "contrasts", "grid", "json_schema", "load", "measuring", "study")
"""Modules of ``criticflow.config`` that make, check or compare settings. A training is given those
of its own run, which are part of its identity."""
PLANNING = Path(__file__).parent
ROOT = PLANNING.parents[1]
"""The folder that the package lies in."""


def source_files(*roots: str) -> list[Path]:
    """Files of the package that ``roots`` import, directly or not, themselves included.

    Args:
        roots: module names (``criticflow.stages.probe``), or names of the rules' scripts
            (``probe_signal.py``), which are read but not listed: Snakemake watches a rule's script
            itself.

    The files of this folder (planning) are left out: how files are found changes no result.
    """
    found: set[Path] = set()
    scripts = {SCRIPTS / root for root in roots if root.endswith(".py")}
    waiting = [*scripts, *(_file_of(root) for root in roots if not root.endswith(".py"))]
    while waiting:
        path = waiting.pop()
        if path not in found and path.parent != PLANNING:
            found.add(path)
            waiting += imported_files(path)
    return sorted(found - scripts)


def training_files(task_kind: str) -> list[Path]:
    """Files of the package that can change a training's weights, Hydra's YAML included.

    Statistics and the doctor are left out: the trainer logs the ones, the other looks at the
    machine, and no weight follows from either. So is what only leads to a run's settings.

    Args:
        task_kind: the module of ``criticflow.tasks`` that scores its responses.
    """
    folder = ROOT / PACKAGE
    data = (folder / "verl_plugin" / "config").glob("*.yaml")
    code = source_files("train_run.py", f"{PACKAGE}.tasks.{task_kind}", *TRAINING)
    without = {folder / "stats", folder / "doctor"}
    settled = {folder / "config" / f"{name}.py" for name in SETTLED}
    kept = [path for path in code if not {*path.parents} & without and path not in settled]
    return sorted([*kept, *data])


@cache
def imported_files(path: Path) -> list[Path]:
    """Files of the package that one file imports, with the packages above them."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    modules = {name for node in _at_runtime(tree) for name in _modules(node)}
    parents = {
        name.rsplit(".", depth)[0] for name in modules for depth in range(name.count(".") + 1)
    }
    return sorted({_file_of(name) for name in modules | parents})


def _at_runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All statements, less what stands under ``if TYPE_CHECKING``."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    yield node
    for child in children(node):
        yield from _at_runtime(child)


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        # ``from package import x``: x may be a module or a name defined in the package.
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return
    for name in names:
        if name.split(".")[0] == PACKAGE and _exists(name):
            yield name


@cache
def _exists(module: str) -> bool:
    base = ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


@cache
def _file_of(module: str) -> Path:
    base = ROOT.joinpath(*module.split("."))
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if base.is_dir():  # a package without __init__.py has no file of its own
        return ROOT / PACKAGE / "__init__.py"
    raise ModuleNotFoundError(f"{module}: neither {candidates[0]} nor {candidates[1]}")
