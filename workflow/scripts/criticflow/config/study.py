"""The configuration, typed: every key of ``config/config.yaml`` is a field here or in a section.

Unknown keys and wrong types are errors. What concerns several keys at once stands in
:mod:`criticflow.config.checks`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from criticflow.config.contrasts import Contrast
from criticflow.config.fields import Fraction, Strict
from criticflow.config.measuring import Evaluate, Probe, Tempered, Truth
from criticflow.config.models import Model
from criticflow.config.names import Name, RunName
from criticflow.config.resources import Resources
from criticflow.config.runs import PretrainedCritic, Run
from criticflow.config.tasks import Task


class Config(Strict):
    """The whole study."""

    models: dict[Name, Model] = Field(description="base models, by name")

    tasks: dict[Name, Task] = Field(description="tasks, by name")

    runs: dict[RunName, Run] = Field(description="what is trained, once per seed, by name")

    critics: dict[Name, PretrainedCritic] = Field(
        {}, description="critics that are pretrained offline, by name"
    )

    seeds: list[int] = Field([0], min_length=1, description="seeds of every run without its own")

    contrasts: list[Contrast] = Field([], description="which runs are compared; the primary first")

    smallest_effect: float | None = Field(
        None,
        gt=0,
        description="smallest difference of interest, in units of the contrasts' metric; fixed "
        "before the study is run",
    )

    validation_threshold: Fraction | None = Field(
        None,
        description="mean score on validation whose cost is compared between arms: steps, tokens, "
        "seconds, FLOPs; fixed before the study is run",
    )

    probe: Probe = Field(Probe(), description="the signal probe, before training")

    evaluate: Evaluate = Field(Evaluate(), description="evaluation on the test split")

    tempered: Tempered = Field(
        Tempered(), description="the base model with the entropy of a trained actor"
    )

    truth: Truth = Field(Truth(), description="true values of states, and who is compared")

    resources: Resources = Field(Resources(), description="what a training job may use")

    def seeds_of(self, run: str) -> list[int]:
        """Seeds that ``run`` is trained with."""
        return self.runs[run].seeds or self.seeds

    def resources_of(self, run: str) -> Resources:
        """What a training of ``run`` may use."""
        return self.resources.with_own(self.runs[run].resources)

    def measures_truth(self, name: str) -> bool:
        """Whether the truth about values is measured for this base model or run."""
        return self._chosen(name, self.truth.actors)

    def has_tempered(self, run: str) -> bool:
        """Whether the base model is evaluated with the entropy of this run's actor."""
        return self._chosen(run, self.tempered.actors)

    def _chosen(self, name: str, actors: str | list[str]) -> bool:
        if actors == "learning":
            return name not in self.runs or self.runs[name].critic_learns
        return actors == "all" or name in actors

    def run_seeds(self) -> list[tuple[str, int]]:
        """Every training of the study: each run with each of its seeds."""
        return [(run, seed) for run in self.runs for seed in self.seeds_of(run)]

    @model_validator(mode="before")
    @classmethod
    def _pretrained_critics_by_name(cls, raw: Any) -> Any:
        """``critic.from: NAME`` means the pretrained critic of that name, if there is one."""
        critics, runs = (raw.get(key) if isinstance(raw, dict) else None for key in _SECTIONS)
        if not isinstance(critics, dict) or not isinstance(runs, dict):
            return raw
        return {**raw, "runs": {name: _named_critic(run, critics) for name, run in runs.items()}}

    def before(self, run: str) -> str | None:
        """The run that this one's critic needs first: its own, or the actor it was fitted to."""
        critic = self.runs[run].critic
        if critic.pretrained is not None:
            return self.critics[critic.pretrained].actor
        return critic.from_run


_SECTIONS = ("critics", "runs")


def _named_critic(run: Any, critics: dict[str, Any]) -> Any:
    """A raw run whose ``critic.from`` names a pretrained critic, with that as ``pretrained``."""
    critic = run.get("critic") if isinstance(run, dict) else None
    if not isinstance(critic, dict):
        return run
    origin = critic.get("from")
    name = origin.get("run") if isinstance(origin, dict) else origin
    if not isinstance(name, str) or name not in critics:
        return run
    parts = {"from": None, "pretrained": name}
    if isinstance(origin, dict):
        parts |= {f"from_{key}": value for key, value in origin.items() if key != "run"}
    return {**run, "critic": {**critic, **parts}}
