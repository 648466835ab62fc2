"""Does a value mean what it says? Regression of the truth on the values, and bins of the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticflow.stats import truth_table, value_truth
from criticflow.stats.intervals import (
    UNDEFINED,
    Figure,
    cluster_sums,
    figure,
    jackknife,
)

Floats = NDArray[np.float64]

BINS = 10


def line(states: pd.DataFrame, values: Floats) -> dict[str, Figure]:
    """Slope and intercept of v_mc on the critic's values, by least squares over states.

    A calibrated critic has slope 1 and intercept 0: ``E[V^pi | V] = V``. A slope under 1 says that
    the values vary more than the true ones (overconfident), over 1 that they vary less. Noise of
    v_mc widens the intervals and moves neither figure, since the values have none. Undefined where
    all values are equal.
    """
    values = value_truth.checked(states, values)
    if np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())):
        return {"slope": dict(UNDEFINED), "intercept": dict(UNDEFINED)}
    truth = states["v_mc"].to_numpy(np.float64)
    centre = values.mean()  # against cancellation
    moved = values - centre
    columns = [np.ones(len(states)), moved, moved**2, truth, moved * truth]
    sums = cluster_sums(truth_table.clusters(states), columns)

    def moments(totals: Floats) -> Floats:
        value, square, outcome, product = np.moveaxis(totals[..., 1:] / totals[..., :1], -1, 0)
        spread, common = square - value**2, product - value * outcome
        # Without spread (all other problems left out) there is no line.
        slope = common / np.where(spread > 0, spread, np.nan)
        return np.stack([common, spread, outcome - slope * (value + centre)], axis=-1)

    found = jackknife(sums, moments)
    intercept = found.linear([0, 0, 1]) if np.all(np.isfinite(found.mean)) else dict(UNDEFINED)
    return {"slope": found.ratio([1, 0, 0], [0, 1, 0]), "intercept": intercept}


def bins(states: pd.DataFrame, values: Floats, count: int = BINS) -> list[dict[str, Any]]:
    """Mean value and mean truth of states with similar values: bins of about equal size.

    Each has ``states, problems, mean_value`` and ``mean_truth`` ``{value, low, high}``, in
    ascending order of values. Equal values share a bin.
    """
    values = value_truth.checked(states, values)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1))[1:-1])
    place = np.searchsorted(edges, values, side="left")
    return [_bin(states[place == number], values[place == number]) for number in np.unique(place)]


def _bin(states: pd.DataFrame, values: Floats) -> dict[str, Any]:
    truth = states["v_mc"].to_numpy(np.float64)
    mean = figure(float(truth.mean()))
    if states["prompt_index"].nunique() > 1:
        sums = cluster_sums(truth_table.clusters(states), [np.ones(len(states)), truth])
        mean = jackknife(sums, lambda totals: totals[..., 1:] / totals[..., :1]).linear([1])
    return {
        **value_truth.sizes(states),
        "mean_value": float(values.mean()),
        "mean_truth": mean,
    }
