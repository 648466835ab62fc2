"""One dictionary of settings on top of another."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, dictionary by dictionary; anything else is replaced.

    As Snakemake merges configuration files (``snakemake.utils.update_config``), which a process of
    verl should not have to import. OmegaConf would refuse some texts (``${``) and drop others.
    """
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = merge(below, value) if both else copy.deepcopy(value)
    return merged


def without_null(named: Any, depth: int = 1) -> Any:
    """``named`` less the entries that are null, down to ``depth`` levels.

    So an overlay takes away what the file below it defines. What is no dictionary stays as it is.
    """
    if not depth or not isinstance(named, Mapping):
        return named
    return {
        name: without_null(value, depth - 1) for name, value in named.items() if value is not None
    }
