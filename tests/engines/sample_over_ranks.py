"""Sample from a model with an engine of several ranks: ``python ... MODEL OUT RANKS``."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from criticflow import config
from criticflow.models.sampling import Engine

PROMPTS = [[{"role": "user", "content": f"{a} {b} = {a + b}"}] for a in range(4) for b in range(4)]

if __name__ == "__main__":  # vLLM's ranks import the program again
    model, out, ranks = sys.argv[1:]
    resources = config.Resources(kv_cache_gb=0.25)
    with Engine(model, config.Model(path=model), 64, resources, ranks=int(ranks)) as engine:
        found = {
            "greedy": engine.generate(PROMPTS, 1, 0.0, 24, 0),
            "drawn": engine.generate(PROMPTS, 4, 1.0, 24, 0),
        }
    pd.concat(found, names=["mode", "row"]).to_parquet(Path(out))
