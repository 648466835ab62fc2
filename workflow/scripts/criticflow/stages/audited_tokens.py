"""Short responses with every token a state: where advantages can be compared with true ones."""

from __future__ import annotations

import pandas as pd


def tokens_of(responses: pd.DataFrame, count: int, longest: int) -> pd.DataFrame:
    """The states before each token of the first ``count`` responses of at most ``longest`` tokens.

    Args:
        responses: ``prompt_index``, ``sample_index``, ``prompt_tokens``, ``tokens`` and ``score``.

    Returns:
        In order: ``state`` (number, from 0), ``trajectory`` (number of the response, from 0),
        ``prompt_index``, ``sample_index``, ``token`` (before which it lies, from 0), ``score`` (of
        the response), ``prefix_tokens`` (of prompt and prefix) and ``prefix_length`` (tokens of the
        response).
    """
    short = responses[responses["tokens"].map(len) <= longest].head(count)
    rows = [
        (
            trajectory,
            response.prompt_index,
            response.sample_index,
            token,
            float(response.score),
            [*map(int, response.prompt_tokens), *map(int, response.tokens[:token])],
            token,
        )
        for trajectory, response in enumerate(short.itertuples())
        for token in range(len(response.tokens))
    ]
    columns = ["trajectory", "prompt_index", "sample_index", "token", "score"]
    found = pd.DataFrame(rows, columns=[*columns, "prefix_tokens", "prefix_length"])
    found.insert(0, "state", range(len(found)))
    return found
