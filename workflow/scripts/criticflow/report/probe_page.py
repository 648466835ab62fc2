"""The probe for a person to read: figures, verdict, and what the model wrote."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from criticflow.files import read_json
from criticflow.report import html

_GROUPS = {"best": "Solved best", "worst": "Solved worst", "divided": "Most divided"}


def write_probe(summaries: list[Path], out: Path) -> None:
    """Every probe: its figures with intervals, its verdict, and the examples of its summary.

    Args:
        summaries: ``.../{model}/{task}/summary.json`` of every probe.
    """
    parts: list[str] = []
    for path in summaries:
        model, task = path.parts[-3:-1]
        parts += [f"<h2>{escape(model)} on {escape(task)}</h2>\n", *_probe(read_json(path))]
    html.write_page(out, "Probe", parts)


def _probe(summary: dict[str, Any]) -> list[str]:
    verdict = summary["verdict"]
    criteria = {
        name: "good" if found["ok"] else "not good" for name, found in verdict["criteria"].items()
    }
    figures = [
        [escape(name.replace("_", " ")), html.estimate(figure), criteria.get(name, "")]
        for name, figure in summary["figures"].items()
    ]
    long, rows = summary["prompts_too_long"], summary["training_prompts"]
    return [
        f"<p>{summary['n_prompts']} prompts, {summary['n_samples']} samples of each. Of the {rows} "
        f"training prompts {long} are too long and left out.</p>\n",
        html.bullets(verdict["advice"]),
        html.table(["figure", "value", "verdict"], figures),
        *(_examples(title, summary["examples"][group]) for group, title in _GROUPS.items()),
    ]


def _examples(title: str, examples: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"<pre>{escape(example['prompt'])}</pre>",
            f"{example['pass_rate']:.0%}",
            "".join(map(_response, example["responses"])),
        ]
        for example in examples
    ]
    return html.table([title, "pass rate", "responses (score)"], rows)


def _response(response: dict[str, Any]) -> str:
    mark = "✓" if response["correct"] else "✗"
    text = escape(response["response"])
    return f"<pre>{mark} {text} <small>({response['score']:.2g})</small></pre>"
