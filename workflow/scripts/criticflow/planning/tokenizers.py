"""Whether a critic that one run trains reads what another run's actor writes.

Where both models are directories this is known at planning time; hub models are compared when the
second run starts (``verl_plugin.critic_model``).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from criticflow.config import Config
from criticflow.errors import UserError
from criticflow.files import read_json


def check_critics_tokenizers(config: Config) -> None:
    """Compare the tokenizers of every two models of which one gets the other's critic.

    Raises:
        UserError: the runs and models whose vocabularies differ.
    """
    for name, run in config.runs.items():
        if run.critic.from_run is None:
            continue
        models = config.runs[run.critic.from_run].model, run.model
        paths = [config.models[model].path for model in models]
        first, second = (_vocabulary(Path(path)) if path else None for path in paths)
        if first and second and first != second:
            raise UserError(
                f"configuration: runs.{name}.critic.from: {run.critic.from_run} trains "
                f"{models[0]}, {name} trains {models[1]}, whose tokenizers differ: the critic "
                "would read other tokens than the actor writes; use models of one family"
            )


@cache
def _vocabulary(model: Path) -> Any:
    """Tokens and their numbers in a model directory's ``tokenizer.json``; None: there is none."""
    file = model / "tokenizer.json"
    if not file.is_file():
        return None
    tokenizer = read_json(file)
    added = [(token["content"], token["id"]) for token in tokenizer.get("added_tokens", [])]
    return tokenizer["model"].get("vocab"), added
