"""Which files of this package a rule depends on, read from the imports in the code.

A rule lists them as inputs, so editing a module reruns the rules that use it and no others. They
are named by a link in Snakemake's own folder: Snakemake runs a rule again whose inputs have other
names, and these stay the same wherever results and project lie.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "criticflow"
VLLM_PLUGIN = ("criticflow.verl_plugin.vllm_cpu",)
"""Modules that vLLM loads by their entry point, so that no import names them."""
TRAINING = (
    "criticflow.commands.train",
    "criticflow.verl_plugin.reward",
    "criticflow.verl_plugin.plugin",
    "criticflow.verl_plugin.weight_sender",
    *VLLM_PLUGIN,
)
"""The same for a training: what verl runs, and loads by name."""
LINK = Path(".snakemake") / "scripts"
_ROOT = Path(__file__).parents[2]


def link_sources() -> None:
    """Make the link through which rules name their sources, in the working directory."""
    if LINK.is_symlink() and os.readlink(LINK) == str(_ROOT):
        return
    LINK.parent.mkdir(exist_ok=True)
    partial = LINK.with_name(f"{LINK.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(_ROOT, target_is_directory=True)
    os.replace(partial, LINK)


def sources(*roots: str) -> list[str]:
    """Files of the package that ``roots`` import, directly or not, themselves included.

    Args:
        roots: module names (``criticflow.stages.probe``), or names of scripts beside the package
            (``probe_signal.py``), which are read but not listed: Snakemake watches a rule's script
            itself.

    Returns:
        Names of the files as inputs of a rule, by way of :func:`link_sources`, sorted.
    """
    return _named(_reached(*roots))


def training_sources(task_kind: str) -> list[str]:
    """The same for a training, Hydra's YAML included.

    Args:
        task_kind: the module of ``criticflow.tasks`` that scores its responses.
    """
    return _named(training_files(task_kind))


def training_files(task_kind: str) -> list[Path]:
    """Where the files of :func:`training_sources` are.

    Less the statistics: the trainer logs them, and no weight follows from what is logged.
    """
    folder = _ROOT / PACKAGE
    data = (folder / "verl_plugin" / "config").glob("*.yaml")
    code = _reached("train_run.py", f"{PACKAGE}.tasks.{task_kind}", *TRAINING)
    return sorted([*(path for path in code if folder / "stats" not in path.parents), *data])


def _named(files: Iterable[Path]) -> list[str]:
    return sorted(str(LINK / path.relative_to(_ROOT)) for path in files)


def _reached(*roots: str) -> set[Path]:
    found: set[Path] = set()
    scripts = {_ROOT / root for root in roots if root.endswith(".py")}
    waiting = [*scripts, *(_file_of(root) for root in roots if not root.endswith(".py"))]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported_files(path)
    return found - scripts


def package_data(folder: str, pattern: str) -> list[str]:
    """Files in a folder of the package that are read, not imported (templates)."""
    return _named((_ROOT / PACKAGE / folder).glob(pattern))


@cache
def imported_files(path: Path) -> list[Path]:
    """Files of the package that one file imports, with the packages above them."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    modules = {name for node in _runtime_nodes(tree) for name in _modules(node)}
    parents = {
        name.rsplit(".", depth)[0] for name in modules for depth in range(name.count(".") + 1)
    }
    return sorted({_file_of(name) for name in modules | parents})


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, less what stands under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _runtime_nodes(child)


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
    base = _ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


@cache
def _file_of(module: str) -> Path:
    base = _ROOT.joinpath(*module.split("."))
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if base.is_dir():  # a package without __init__.py has no file of its own
        return _ROOT / PACKAGE / "__init__.py"
    raise ModuleNotFoundError(f"{module}: neither {candidates[0]} nor {candidates[1]}")
