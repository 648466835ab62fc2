"""One colour, one stroke and one mark for every arm, the same in all figures.

Colours are those of Okabe and Ito (2008, Color Universal Design), less the yellow that is too light
for a line on paper: people of every colour vision can tell them apart, and so can grey prints with
the strokes. The first factor of a grid decides the colour, the others the stroke, so that arms
which share a critic look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
"""Colour of base models and references, which are not arms."""

DASHES = ((1, 0), (6, 3), (2, 2), (9, 3, 2, 3), (12, 4), (4, 2, 1, 2))
MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


@dataclass(frozen=True)
class Style:
    """How an arm is drawn.

    Attributes:
        color: of Okabe and Ito's, as ``#rrggbb``.
        dash: lengths of dash and gap, in pixels.
        mark: Vega's name of a shape.
    """

    color: str
    dash: tuple[int, ...]
    mark: str


def styles(arms: Mapping[str, Mapping[str, str]]) -> dict[str, Style]:
    """A style for each arm; no two are equal up to 42 arms, beyond that they repeat.

    Args:
        arms: by name, in order, the levels of the grid's factors that made it; none: a run that is
            written out.
    """
    groups: dict[str, int] = {}
    variants: dict[tuple[str, ...], int] = {}
    taken: set[tuple[int, int]] = set()
    found = {}
    for arm, factors in arms.items():
        first, *others = factors.values() or (arm,)
        color = groups.setdefault(first, len(groups)) % len(COLORS)
        wanted = variants.setdefault(tuple(others), len(variants)) % len(DASHES)
        turns = [(wanted + turn) % len(DASHES) for turn in range(len(DASHES))]
        dash = next((turn for turn in turns if (color, turn) not in taken), wanted)
        if len(taken) == len(COLORS) * len(DASHES):
            taken.clear()
        taken.add((color, dash))
        found[arm] = Style(COLORS[color], DASHES[dash], MARKS[dash])
    return found
