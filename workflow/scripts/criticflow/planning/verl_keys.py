"""Whether the keys under ``train.verl`` are keys of verl's, before anything starts.

A run's settings reach verl with Hydra's ``++``, which adds a misspelt key and says nothing.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from criticflow.config import Config
from criticflow.errors import UserError

OURS = Path(__file__).parents[1] / "verl_plugin" / "config" / "criticflow_trainer.yaml"
OPEN = {"ray_kwargs.ray_init"}
"""Mappings that verl passes on as they are, although its configuration has keys in them. (So it
does with those that are empty there.)"""

# Prints the fields of verl's dataclasses, one JSON list each. In a process of its own, since
# importing verl takes seconds and changes much.
FIELDS = """
import dataclasses, importlib, json, sys
for target in sys.argv[1:]:
    module, _, name = target.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    print("fields:", json.dumps([field.name for field in dataclasses.fields(kind)]))
"""


def check_verl_keys(config: Config) -> None:
    """Compare every key under ``train.verl`` with verl's composed configuration.

    Keys below a mapping that is empty there, or below a null, are not checked: verl or another
    library does that when it reads them.

    Raises:
        UserError: a key that neither the configuration has nor the dataclass that it stands for.
    """
    keys = {key: f"runs.{name}" for name, run in config.runs.items() for key in run.train.verl}
    if not keys:
        return
    whole = verl_configuration()
    doubtful = {key: place for key in keys if (place := _last_known(whole, key)) is not None}
    fields = _fields({_target(whole, place) for place in doubtful.values()} - {None})
    unknown = [
        f"{keys[key]}.train.verl: verl has no key {key!r}{_perhaps(whole, place, key)}"
        for key, place in doubtful.items()
        if _below(place, key) not in fields.get(_target(whole, place), [])
    ]
    if unknown:
        raise UserError(f"configuration: {'; '.join(unknown)}")


def verl_configuration() -> DictConfig:
    """verl's whole configuration with criticflow's keys, unresolved; verl is not imported."""
    (verl,) = importlib.util.find_spec("verl").submodule_search_locations
    with initialize_config_dir(str(Path(verl) / "trainer" / "config"), version_base=None):
        stock = compose("ppo_trainer")
    OmegaConf.set_struct(stock, False)
    ours = OmegaConf.load(OURS)
    del ours["defaults"], ours["hydra"]
    return OmegaConf.merge(stock, ours)


def _last_known(whole: DictConfig, key: str) -> str | None:
    """Dotted name of the mapping that lacks the next part of ``key``; None: none does."""
    node, place = whole, ""
    for part in key.split("."):
        if OmegaConf.is_dict(node):
            if not len(node) or place in OPEN:
                return None
            if part not in node:
                return place
            node, place = node._get_node(part), f"{place}.{part}".lstrip(".")
        else:  # below a null anything may come; below a number nothing
            return None if node._is_none() or node._is_interpolation() else place
    return None


def _below(place: str, key: str) -> str:
    return key.removeprefix(place).lstrip(".").split(".")[0]


def _target(whole: DictConfig, place: str) -> str | None:
    """The dataclass that a mapping stands for, as ``module.Class``."""
    node = OmegaConf.select(whole, place) if place else whole
    return node.get("_target_") if OmegaConf.is_dict(node) else None


def _perhaps(whole: DictConfig, place: str, key: str) -> str:
    node = OmegaConf.select(whole, place) if place else whole
    known = list(node) if OmegaConf.is_dict(node) else []
    close = difflib.get_close_matches(_below(place, key), known, n=1)
    return f" (perhaps {f'{place}.{close[0]}'.lstrip('.')})" if close else ""


def _fields(targets: set[str]) -> dict[str | None, list[str]]:
    if not targets:
        return {}
    ordered = sorted(targets)
    command = [sys.executable, "-Wignore", "-c", FIELDS, *ordered]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("fields:")]
    found = [json.loads(line.removeprefix("fields:")) for line in lines]
    return dict(zip(ordered, found, strict=True))
