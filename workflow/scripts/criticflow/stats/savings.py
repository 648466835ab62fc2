"""What a reused critic saves, what it cost, and which share of the possible gain it captures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from criticflow.stats import crossed
from criticflow.stats.intervals import CONFIDENCE, Figure, figure
from criticflow.stats.threshold import paired_seeds

Floats = NDArray[np.float64]

_WIDEST = 1e6  # times the estimate's size: beyond it a bound counts as none


def ledger(
    own: Mapping[str, Mapping[int, float]],
    reused: Mapping[str, Mapping[int, float]],
    charge: Mapping[str, float],
    reuses: int = 1,
) -> list[dict[str, Any]]:
    """Per unit: what one reuse saves, what the critic cost, and after how many reuses it pays.

    - ``saving``: cost of a run with its own critic less that of a run that reuses one, paired by
      seed, to the same end (the same steps, or the same threshold)
    - ``charge``: cost of training the reused critic, once
    - ``net``: ``reuses * saving - charge``
    - ``pays_after``: reuses after which it pays, ``ceil(charge / saving)``; its ``low`` from the
      upper bound of the saving, its ``high`` from the lower; None where no number does

    Args:
        own, reused: by unit (``steps``, ``tokens``, ``seconds``, ``flops``; ``memory_bytes`` and
            ``optimizer_bytes`` have no charge), one figure by seed.
        charge: by unit. A unit without one (memory) is only held while training lasts: its charge
            is 0.
        reuses: for ``net``.
    """
    rows = []
    for unit in own:
        if unit not in reused:
            continue
        compared = paired_seeds(own[unit], reused[unit])
        saving, cost = compared["difference"], float(charge.get(unit, 0.0))
        rows.append(
            {
                "unit": unit,
                "seeds": compared["seeds"],
                "saving": saving,
                "charge": cost,
                "net": {
                    name: None if bound is None else reuses * bound - cost
                    for name, bound in saving.items()
                },
                "pays_after": {
                    "value": _pays(cost, saving["value"]),
                    "low": _pays(cost, saving["high"]),
                    "high": _pays(cost, saving["low"]),
                },
            }
        )
    return rows


def share_of_oracle(
    reused: ArrayLike, oracle: ArrayLike, confidence: float = CONFIDENCE
) -> Figure | None:
    """Share of the oracle's gain over the constant that a critic captures, with Fieller's bounds.

    ``mean(critic - constant) / mean(oracle - constant)``. The interval holds the shares r for which
    the crossed model (``crossed.py``) cannot tell ``mean((critic - constant) - r (oracle -
    constant))`` from zero (Fieller 1954); so numerator and denominator may vary together. All three
    arms need the same lambda, else the share has no meaning.

    Args:
        reused: critic minus constant, paired, shape ``(seeds, problems)``.
        oracle: oracle minus constant on the same seeds and problems.

    Returns:
        None where the interval of oracle minus constant does not lie above zero: there is then no
        gain that could be shared.

    Raises:
        ValueError: the two have other shapes.
    """
    part, whole = np.asarray(reused, np.float64), np.asarray(oracle, np.float64)
    if part.shape != whole.shape:
        raise ValueError(f"not the same seeds and problems: {part.shape} and {whole.shape}")
    gain = crossed.mean(whole)
    low = gain.figure(confidence)["low"]
    if low is None or not low > 0:
        return None
    share = float(part.mean() / whole.mean())

    def beyond(r: float) -> float:
        """Above 0 where the share r is excluded."""
        found = crossed.mean(part - r * whole)
        edge = stats.t.ppf((1 + confidence) / 2, found.df)
        return float(found.value**2 - (edge * found.error) ** 2)

    if crossed.mean(part - share * whole).error == 0:
        return figure(share, share, share)
    return figure(share, _bound(beyond, share, -1), _bound(beyond, share, 1))


def _bound(beyond: Callable[[float], float], inside: float, side: int) -> float:
    """The nearest excluded share on one side; nan where none is found."""
    step = 0.01 * max(1.0, abs(inside))
    last = inside
    while step < _WIDEST * max(1.0, abs(inside)):
        there = inside + side * step
        if beyond(there) > 0:
            return float(optimize.brentq(beyond, last, there, xtol=1e-9))
        last, step = there, 1.5 * step
    return float("nan")


def _pays(charge: float, saving: float | None) -> int | None:
    return None if saving is None or not saving > 0 else ceil(charge / saving - 1e-9)
