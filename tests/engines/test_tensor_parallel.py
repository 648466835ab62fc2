"""An engine whose ranks share the weights samples what one of a single rank does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


def sampled(model: Path, out: Path, ranks: int) -> pd.DataFrame:
    script = Path(__file__).with_name("sample_over_ranks.py")
    command = [sys.executable, str(script), str(model), str(out), str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return pd.read_parquet(out)


def test_two_ranks_sample_what_one_does(base_model, tmp_path):
    one, two = (sampled(base_model, tmp_path / f"{n}.parquet", n) for n in (1, 2))
    assert list(two["prompt"]) == list(one["prompt"])
    greedy = two.loc["greedy"]
    assert list(greedy["response"]) == list(one.loc["greedy"]["response"])
    # Sums are rounded in another order, and nothing else is different.
    logprobs = [np.concatenate(list(frame["logprobs"])) for frame in (greedy, one.loc["greedy"])]
    np.testing.assert_allclose(*logprobs, atol=1e-4)
    same = two.loc["drawn"]["response"] == one.loc["drawn"]["response"]
    assert same.mean() > 0.9
