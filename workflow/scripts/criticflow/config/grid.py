"""``grid``: runs as combinations of factors, written once instead of run by run.

A grid names factors (``critic``, ``mask``), and for each its levels: partial settings of a run.
Every combination of levels is a run named after them, in the order of the factors
(``warm-frozen/m0.5``). What comes out are plain entries of ``runs``; nothing after
:meth:`Grids.runs` knows that there was a grid, apart from the ``factors`` that each run remembers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from criticflow.config.fields import Strict
from criticflow.config.merging import merge, without_null
from criticflow.config.names import Name, RunName
from criticflow.errors import UserError

Settings = dict[str, Any]
Match = dict[Name, Name | list[Name]]


class Override(Strict):
    """Settings of some runs only."""

    where: Match = Field(
        min_length=1, description="factor: level, or a list of levels; all of them must match"
    )
    settings: Settings = Field(min_length=1, description="merged over the settings of these runs")


class Grid(Strict):
    """Runs that are the combinations of some factors."""

    like: RunName | None = Field(None, description="a run whose settings those of the grid inherit")
    settings: Settings = Field({}, description="settings of every run of the grid")
    factors: dict[Name, dict[Name, Settings]] = Field(
        min_length=1,
        description="factor: its levels, each with the settings of a run that make it; `{factor}` "
        "in critic.from stands for the run's own level of that factor",
    )
    exclude: list[Match] = Field([], description="combinations that are left out")
    override: list[Override] = Field([], description="settings of single runs")

    @model_validator(mode="after")
    def _factors_have_levels(self) -> Grid:
        for factor, levels in self.factors.items():
            if not levels:
                raise ValueError(f"factors.{factor}: has no levels")
            for level, settings in levels.items():
                _no_like(settings, f"factors.{factor}.{level}")
        _no_like(self.settings, "settings")
        for override in self.override:
            _no_like(override.settings, "override.settings")
        for match in [*self.exclude, *(override.where for override in self.override)]:
            self._known(match)
        return self

    @model_validator(mode="after")
    def _a_setting_has_one_factor(self) -> Grid:
        owner: dict[str, str] = {}
        for factor, levels in self.factors.items():
            for key in {key for settings in levels.values() for key in _leaves(settings)}:
                if key in owner:
                    raise ValueError(f"factors {owner[key]} and {factor} both set {key}")
                owner[key] = factor
        return self

    @model_validator(mode="after")
    def _matches_match(self) -> Grid:
        combinations = list(self._combinations())
        for match in self.exclude:
            if not any(_fits(levels, match) for levels in combinations):
                raise ValueError(f"exclude: no run is {_said(match)}")
        kept = list(self._kept())
        if not kept:
            raise ValueError("exclude: no run is left")
        for override in self.override:
            if not any(_fits(levels, override.where) for levels in kept):
                raise ValueError(f"override.where: no run is {_said(override.where)}")
        return self

    def runs(self) -> dict[str, Settings]:
        """Entries of ``runs``, by name: one for each combination that is not excluded."""
        return {"/".join(levels.values()): self._run(levels) for levels in self._kept()}

    def _run(self, levels: dict[str, str]) -> Settings:
        run = self.settings
        for factor, level in levels.items():
            run = merge(run, self.factors[factor][level])
        for override in self.override:
            if _fits(levels, override.where):
                run = merge(run, override.settings)
        return {"like": self.like, **_with_origin(run, levels), "factors": levels}

    def _kept(self) -> Iterator[dict[str, str]]:
        for levels in self._combinations():
            if not any(_fits(levels, match) for match in self.exclude):
                yield levels

    def _combinations(self) -> Iterator[dict[str, str]]:
        """The level of every factor, by its name; the last factor changes fastest."""
        for levels in itertools.product(*self.factors.values()):
            yield dict(zip(self.factors, levels, strict=True))

    def _known(self, match: Match) -> None:
        for factor, levels in match.items():
            if factor not in self.factors:
                raise ValueError(f"no factor named {factor!r}; there is {', '.join(self.factors)}")
            for level in _listed(levels):
                if level not in self.factors[factor]:
                    raise ValueError(
                        f"{factor} has no level {level!r}; there is "
                        f"{', '.join(self.factors[factor])}"
                    )


class Grids(Strict):
    """All grids of a study. A null grid, factor or level is left out, as a null run is."""

    grid: dict[Name, Grid] = Field(description="runs as combinations of factors, by name")

    @field_validator("grid", mode="before")
    @classmethod
    def _less_what_is_null(cls, raw: Any) -> Any:
        grids = without_null(raw)
        if not isinstance(grids, Mapping):
            return grids
        return {
            name: {**grid, "factors": without_null(grid["factors"], depth=2)}
            if isinstance(grid, Mapping) and "factors" in grid
            else grid
            for name, grid in grids.items()
        }

    def runs(self) -> dict[str, Settings]:
        """Entries of ``runs`` of all grids, by name.

        Raises:
            UserError: two grids have a run of the same name.
        """
        found: dict[str, Settings] = {}
        for name, grid in self.grid.items():
            runs = grid.runs()
            if twice := sorted(found.keys() & runs):
                raise UserError(
                    f"configuration: grid.{name}: another grid has a run {twice[0]} too: "
                    "give a factor of one level to tell them apart"
                )
            found |= runs
        return found


def _listed(levels: str | list[str]) -> list[str]:
    return [levels] if isinstance(levels, str) else levels


def _fits(run_levels: Mapping[str, str], match: Match) -> bool:
    return all(run_levels[factor] in _listed(levels) for factor, levels in match.items())


def _said(match: Match) -> str:
    return ", ".join(f"{factor} {'|'.join(_listed(levels))}" for factor, levels in match.items())


def _no_like(settings: Settings, where: str) -> None:
    if "like" in settings:
        raise ValueError(f"{where}: 'like' belongs beside 'factors', for all runs at once")


def _leaves(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Dotted keys of all values."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _with_origin(run: Settings, levels: Mapping[str, str]) -> Settings:
    """``run`` with its levels filled into the name of the run that its critic comes from."""
    critic = run.get("critic")
    origin = critic.get("from") if isinstance(critic, Mapping) else None
    if isinstance(origin, str):
        return merge(run, {"critic": {"from": _filled(origin, levels)}})
    if isinstance(origin, Mapping) and isinstance(origin.get("run"), str):
        return merge(run, {"critic": {"from": {"run": _filled(origin["run"], levels)}}})
    return run


def _filled(name: str, levels: Mapping[str, str]) -> str:
    return re.sub(r"\{([^{}]*)\}", lambda found: levels.get(found[1], found[0]), name)
