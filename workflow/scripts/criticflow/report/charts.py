"""Charts of a report: Vega-Lite by Altair, for the page, and as SVG, PNG and CSV beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from criticflow.files import replacing
from criticflow.report.palette import Style

HIDDEN = "hidden"
"""Vega parameter with the arms that a reader has switched off."""
HEIGHT = 230
_FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
THEME = {
    "background": "white",
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "#e6e6e6",
        "domainColor": "#888",
        "tickColor": "#888",
        "labelLimit": 220,
    },
    "legend": {"labelFontSize": 12, "labelLimit": 260, "symbolStrokeWidth": 2},
    "text": {"font": _FONT},
}
_LEGEND = {"orient": "bottom", "columns": 4, "title": None}


@dataclass(frozen=True)
class Figure:
    """A chart with its texts and its numbers.

    Attributes:
        name: of its files and its anchor.
        title: what it shows, in a few words.
        caption: how to read it.
        chart: drawn to the width of the page.
        data: the numbers, a row a mark.
    """

    name: str
    title: str
    caption: str
    chart: alt.TopLevelMixin
    data: pd.DataFrame

    def spec(self) -> dict[str, Any]:
        """Vega-Lite, without legends: the page has one for all of its figures."""
        return self.chart.to_dict(validate=False)

    def spec_alone(self, width: int = 640) -> dict[str, Any]:
        """The same for a file of its own, with its legends."""
        return with_legends(self.spec()) | {"width": width}


def finished(chart: alt.TopLevelMixin, height: int = HEIGHT) -> alt.TopLevelMixin:
    """A chart with the width of the page and the look of all charts."""
    return chart.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    ).configure(**THEME)


def frame(table: pd.DataFrame) -> alt.InlineData:
    """A table as data within a chart: the page must not need another file."""
    return alt.InlineData(values=json.loads(table.to_json(orient="records")))


def arm_encodings(styles: Mapping[str, Style], shape: bool = False) -> dict[str, Any]:
    """Colour and stroke, or colour and shape, of the field ``arm``."""
    names = list(styles)
    color = alt.Color(
        "arm:N",
        scale=alt.Scale(domain=names, range=[style.color for style in styles.values()]),
        legend=None,
    )
    if shape:
        scale = alt.Scale(domain=names, range=[style.mark for style in styles.values()])
        return {"color": color, "shape": alt.Shape("arm:N", scale=scale, legend=None)}
    scale = alt.Scale(domain=names, range=[list(style.dash) for style in styles.values()])
    return {"color": color, "strokeDash": alt.StrokeDash("arm:N", scale=scale, legend=None)}


def switchable(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """A chart whose arms a reader can switch on and off (:data:`HIDDEN`)."""
    return chart.add_params(alt.param(name=HIDDEN, value=[]))


SHOWN = f"indexof({HIDDEN}, datum.arm) < 0"
"""Filter of the arms that are on."""


def with_legends(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification with a legend of its arms."""
    if isinstance(spec, dict):
        return {
            key: dict(_LEGEND) if key == "legend" and value is None else with_legends(value)
            for key, value in spec.items()
        }
    return [with_legends(item) for item in spec] if isinstance(spec, list) else spec


def save(figures: Sequence[Figure], folder: Path) -> None:
    """``NAME.svg``, ``NAME.png`` and ``NAME.csv`` of every figure; the folder is made anew."""
    with replacing(folder) as partial:
        partial.mkdir()
        for figure in figures:
            spec = figure.spec_alone()
            svg = vl_convert.vegalite_to_svg(spec)
            (partial / f"{figure.name}.svg").write_text(svg, encoding="utf-8")
            png = vl_convert.vegalite_to_png(spec, scale=2)
            (partial / f"{figure.name}.png").write_bytes(png)
            figure.data.to_csv(partial / f"{figure.name}.csv", index=False)


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script that asks for no network."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", "<\\/script"
    )
