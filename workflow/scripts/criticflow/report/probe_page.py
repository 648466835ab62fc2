"""The page of the probe: figures, verdict, and responses of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from criticflow.files import read_json
from criticflow.report import html

_COUNTS = ("n_prompts", "n_samples", "training_prompts", "prompts_too_long")
_GROUPS = {"best": "Solved best", "worst": "Solved worst", "divided": "Most divided"}


def write_probe(summaries: list[Path], out: Path) -> None:
    """Every probe: its figures with intervals, its verdict, and the examples of its summary.

    Args:
        summaries: ``.../{model}/{task}/summary.json`` of every probe.
    """
    parts: list[Markup] = []
    for path in summaries:
        model, task = path.parts[-3:-1]
        heading = Markup("<h2>{} on {}</h2>").format(model, task)
        parts += [heading, *_probe(read_json(path))]
    html.write_page(out, "Probe", parts)


def _probe(summary: dict[str, Any]) -> list[Markup]:
    verdict = summary["verdict"]
    criteria = {
        name: "good" if found["ok"] else "not good" for name, found in verdict["criteria"].items()
    }
    figures = [
        [name.replace("_", " "), html.estimate(figure), criteria.get(name, "")]
        for name, figure in summary["figures"].items()
    ]
    return [
        Markup(
            "<p>{n_prompts} prompts, {n_samples} samples of each. Of the {training_prompts} "
            "training prompts {prompts_too_long} are too long and left out.</p>"
        ).format(**{key: summary[key] for key in _COUNTS}),
        html.bullets(verdict["advice"]),
        html.table(["figure", "value", "verdict"], figures),
        *(_examples(title, summary["examples"][group]) for group, title in _GROUPS.items()),
    ]


def _examples(title: str, examples: list[dict[str, Any]]) -> Markup:
    rows = [
        [
            Markup("<pre>{}</pre>").format(example["prompt"]),
            f"{example['pass_rate']:.0%}",
            html.responses(example["responses"]),
        ]
        for example in examples
    ]
    return html.table([title, "pass rate", "responses (score)"], rows)
