"""``results/report.html``: one page that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from criticflow.files import replacing
from criticflow.report import charts, health, imported, provenance, tables
from criticflow.report.answer import answer
from criticflow.report.charts import Figure
from criticflow.report.description import describe_runs
from criticflow.report.figures import comparison, costs, critics, curves
from criticflow.report.figures.probe import panels
from criticflow.report.results import Probe, Results
from criticflow.report.viewer import viewer


def sections(results: Results) -> dict[str, list[Figure]]:
    """All figures, by the section of the page that shows them."""
    styles, effect = results.styles, results.config.smallest_effect
    return {
        "contrasts": [comparison.forest(results.contrasts, effect)] if results.contrasts else [],
        "arms": [comparison.arms(results.arms, results.metric, styles)] if results.arms else [],
        "learning": [
            *curves.validation(results.metrics, styles, results.speed["threshold"]),
            *curves.drawn(curves.LEARNING, results.metrics, styles),
        ],
        "health": curves.drawn(curves.HEALTH, results.metrics, styles),
        "critics": [
            *critics.compared(results.critics, styles),
            *critics.by_position(results.critics, styles),
            *critics.stale(results.critics, styles),
            *critics.held_out(results.evaluations, styles),
        ],
        "costs": costs.step_times(results.metrics),
        "probe": [figure for probe in results.probes for figure in _panels(probe)],
    }


def _panels(probe: Probe) -> list[Figure]:
    """A probe's figures."""
    by_prompt = probe.samples.groupby("prompt_index")
    found = panels(
        by_prompt["correct"].mean().to_numpy(),
        by_prompt["score"].var(ddof=0).to_numpy(),
        probe.samples["n_tokens"].to_numpy(),
        int(by_prompt.size().iloc[0]),
        f"probe-{probe.model}-{probe.task}".replace(".", "-"),
    )
    return [replace(figure, chart=charts.finished(figure.chart)) for figure in found]


def write(results: Results, installed: Mapping[str, str], page: Path, figures: Path) -> None:
    """Write the page, and its figures as SVG, PNG and CSV to a folder beside it.

    Args:
        installed: versions of libraries now.
    """
    found = sections(results)
    charts.save([figure for part in found.values() for figure in part], figures)
    text = _environment().get_template("page.html.jinja").render(_words(results, installed, found))
    with replacing(page) as partial:
        partial.write_text(text, encoding="utf-8")


def _words(
    results: Results, installed: Mapping[str, str], found: dict[str, list[Figure]]
) -> dict[str, Any]:
    """What the template shows."""
    config, responses = results.config, viewer(results.responses)
    return {
        "answer": answer(config, results.contrasts, results.arms),
        "warnings": health.warnings(results),
        "notes": provenance.notes(results.provenance, installed),
        "imported": imported.told(results),
        "speed": results.speed,
        "facts": provenance.facts(results.provenance),
        "descriptions": describe_runs(config),
        "styles": results.styles,
        "sections": found,
        "specs": _json({figure.name: figure.spec() for part in found.values() for figure in part}),
        "tables": {
            "contrasts": tables.contrasts(results.contrasts),
            "arms": tables.arms(results),
            "models": tables.models(results.summary),
            "critics": tables.critics(results.critics),
            "advantages": tables.advantages(results.critics),
            "evaluations": tables.evaluations(results.evaluations),
            "savings": tables.savings(results.savings),
            "speed": tables.speed(results.speed),
            "tempered": tables.tempered(results.tempered),
            "speed_contrasts": tables.speed_contrasts(results.speed),
        },
        "probes": [(probe, _panels(probe)) for probe in results.probes],
        "responses": responses,
        "viewer": _json(responses),
        "vega": Markup(charts.javascript()),
        "estimate": tables.estimate,
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("criticflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    return environment


def shown(content: Any) -> str:
    """A plain value as text: numbers to four places, None empty."""
    if content is None or content == []:
        return ""
    return f"{content:.4g}" if isinstance(content, float) else str(content)


def _json(content: Any) -> Markup:
    """JSON, escaped so that it can stand within a script element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", " ").replace("\u2029", " "))
