"""Responses for a person to look at: which ones, and what stands at each token."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from checkpoint_writers import tiny_tokenizer
from criticflow.stages.shown_responses import EACH, chosen, shown_responses, texts


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8, as byte-level ones fall back to."""

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


def test_cases_are_what_they_say_and_no_response_is_shown_twice():
    draw = np.random.default_rng(0)
    values = [draw.random(5) * 0.01 + mean for mean in np.linspace(0.1, 0.9, 40)]
    values[20] = np.array([0.1, 0.9, 0.1, 0.9, 0.5])
    correct = np.arange(40) % 2 == 0
    cases = chosen(correct, values)
    rows = [row for row, _ in cases]
    assert len(set(rows)) == len(rows) == 5 * EACH
    by_case = {}
    for row, case in cases:
        by_case.setdefault(case, []).append(row)
    assert by_case["right, as the critic expected"] == [38, 36]
    assert by_case["wrong, as the critic expected"] == [1, 3]
    assert by_case["right, to the critic's surprise"] == [0, 2]
    assert by_case["wrong, to the critic's surprise"] == [39, 37]
    assert by_case["the critic changes its mind"][0] == 20


def test_every_token_has_its_value_advantage_and_known_truth():
    responses = pd.DataFrame(
        {
            "prompt_index": [7],
            "sample_index": [1],
            "prompt_tokens": [[5, 6]],
            "tokens": [[10, 11, 12]],
            "score": [1.0],
            "correct": [True],
        }
    )
    values = [np.array([0.2, 0.6, 0.5])]
    truth = {(7, 1, 1): (0.4, 0.05)}
    shown = shown_responses(responses, values, tiny_tokenizer(), 1.0, 1.0, truth)
    assert shown["token"].tolist() == [0, 1, 2]
    assert shown["advantage"].tolist() == pytest.approx([0.8, 0.4, 0.5])  # score - V, lambda 1
    assert shown["v_mc"].isna().tolist() == [True, False, True]
    assert shown.loc[1, ["v_mc", "v_se"]].tolist() == [0.4, 0.05]
    one_step = shown_responses(responses, values, tiny_tokenizer(), 1.0, 0.0)
    assert one_step["advantage"].tolist() == pytest.approx([0.4, -0.1, 0.5])
    assert one_step["v_mc"].isna().all()


def test_texts_of_tokens_make_up_the_response():
    response = "aé→b"
    tokens = list(response.encode())
    found = texts(Bytes(), tokens)
    assert "".join(found) == response
    assert found == ["a", "", "é", "", "", "→", "b"]
