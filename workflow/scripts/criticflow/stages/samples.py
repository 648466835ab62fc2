"""Problems of a prepared split, and sampled responses with their scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from criticflow.errors import UserError
from criticflow.tasks import get_task

PROBLEM_COLUMNS = ["data_source", "prompt", "reward_model", "extra_info"]


def read_problems(parquet: Path | str) -> pd.DataFrame:
    """A prepared split: ``data_source``, ``prompt`` (messages), ``ground_truth`` and ``key``.

    Raises:
        UserError: the file is no prepared split, or holds no problem.
    """
    try:
        frame = pd.read_parquet(parquet, columns=PROBLEM_COLUMNS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{parquet} is no prepared split ({error}): prepare the data again"
        ) from error
    if frame.empty:
        raise UserError(f"{parquet} holds no problem: see the manifest beside it for the reasons")
    return pd.DataFrame(
        {
            "data_source": frame["data_source"],
            "prompt": [list(messages) for messages in frame["prompt"]],
            "ground_truth": [reward["ground_truth"] for reward in frame["reward_model"]],
            "key": [extra["key"] for extra in frame["extra_info"]],
        }
    ).reset_index(drop=True)


def add_scores(samples: pd.DataFrame, problems: pd.DataFrame) -> pd.DataFrame:
    """Samples with ``key``, ``score``, ``correct`` and ``format_ok``, by ``prompt_index``.

    Dialogues with a search engine also get ``f1`` and, where the gold documents are known,
    ``gold_retrieved``.
    """
    tasks = {kind: get_task(kind) for kind in problems["data_source"].unique()}
    kinds, truths = list(problems["data_source"]), list(problems["ground_truth"])
    scores = [
        tasks[kinds[index]].score(response, truths[index])
        for index, response in zip(samples["prompt_index"], samples["response"], strict=True)
    ]
    keys = problems["key"].to_numpy()
    # Of dialogues with a search engine there is more to say.
    parts = ("f1", "gold_retrieved") if "searches" in samples else ()
    return samples.assign(
        key=keys[samples["prompt_index"].to_numpy()],
        score=[score.score for score in scores],
        correct=[score.correct for score in scores],
        format_ok=[score.format_ok for score in scores],
        **{
            part: [score.parts[part] for score in scores]
            for part in parts
            if all(part in score.parts for score in scores)
        },
    )
