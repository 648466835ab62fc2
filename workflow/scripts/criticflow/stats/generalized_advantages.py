"""Generalized advantage estimation on tables of tokens, before whitening."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def advantages(tokens: pd.DataFrame, values: Floats, lam: float, gamma: float = 1.0) -> Floats:
    """GAE of each token (Schulman et al. 2016, equation 16), shape ``(tokens,)``.

    The score is the only reward, paid with the last token; ``lam`` 1 gives ``G - V(s_t)``, 0 gives
    ``gamma V(s_{t+1}) - V(s_t)``.

    Args:
        tokens: one row a token, in order within a ``trajectory`` (whose rows stand together), with
            the trajectory's ``score``.
        values: V(s_t) before each token, shape ``(tokens,)``.
    """
    values = np.asarray(values, dtype=np.float64)
    last = last_tokens(tokens)
    following = np.where(last, 0.0, np.append(values[1:], 0.0))
    reward = np.where(last, tokens["score"].to_numpy(np.float64), 0.0)
    found = reward + gamma * following - values
    if lam:
        for row in range(len(found) - 2, -1, -1):
            if not last[row]:
                found[row] += gamma * lam * found[row + 1]
    return found


def last_tokens(tokens: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each row is its trajectory's last token."""
    return ~tokens["trajectory"].duplicated(keep="last").to_numpy()
