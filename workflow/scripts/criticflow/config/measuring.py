"""What is measured beside training: the signal probe, evaluation, the truth about values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from criticflow.config.fields import Fraction, NotNegative, Positive, Rising, Strict
from criticflow.config.names import RunName

Actors = Literal["all", "learning"] | list[RunName]
"""Those of all runs, of the runs whose critic learns, or by name."""


class Probe(Strict):
    """The signal probe: is there something to learn for this model on this task?"""

    n: Annotated[int, Field(ge=2)] = Field(16, description="samples per prompt")
    prompts: Positive = Field(128, description="training prompts to probe")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    gate: Literal["off", "warn", "fail"] = Field("warn", description="what a bad verdict does")
    filter: Literal["mixed"] | list[Fraction] | None = Field(
        None, description="keep training prompts with mixed outcomes, or with a pass rate in [a, b]"
    )
    accuracy: list[Fraction] = Field(
        [0.1, 0.8], min_length=2, max_length=2, description="good range of the mean pass rate"
    )
    variance_min: Fraction = Field(
        0.05, description="least good mean variance of the rewards of one prompt"
    )
    entropy: list[float] = Field(
        [0.2, 0.8],
        min_length=2,
        max_length=2,
        description="good range of the mean entropy, nats a token",
    )
    seed: int = Field(0, description="of prompts and samples")

    @field_validator("filter")
    @classmethod
    def _filter_is_a_range(cls, rule: str | list[float] | None) -> str | list[float] | None:
        if isinstance(rule, list) and (len(rule) != 2 or rule[0] > rule[1]):
            raise ValueError(f"write mixed, or a range [a, b] with a <= b, not {rule}")
        return rule


class Evaluate(Strict):
    """Evaluation on the test split: greedy, and sampled."""

    n: Positive = Field(4, description="samples per prompt")
    prompts: Positive | None = Field(None, description="at most this many; null: all")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    k: list[Positive] = Field([1, 4], description="pass@k for these k, at most n")
    resamples: Positive = Field(2000, description="bootstrap resamples")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="level of the intervals"
    )
    seed: int = Field(0, description="of samples and bootstrap")

    @model_validator(mode="after")
    def _k_within_n(self) -> Evaluate:
        if max(self.k) > self.n:
            raise ValueError(f"k={max(self.k)} needs n >= {max(self.k)} samples, n is {self.n}")
        return self


class Truth(Strict):
    """The truth about values: Monte-Carlo estimates from states of held-out responses."""

    actors: Actors = Field(
        "all",
        description="whose truth: base models and runs by name; all; learning: base models and the "
        "runs whose critic learns; or [] for nobody's",
    )
    across: bool = Field(
        False, description="compare every critic with every actor, not with its own alone"
    )
    steps: dict[RunName, list[Positive]] = Field(
        {}, description="by run: steps besides the last whose actor and critic are compared too"
    )
    problems: Positive = Field(64, description="problems of the test split, its first ones")
    positions: Annotated[list[Fraction], Rising] = Field(
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        min_length=1,
        description="states of a response, as shares of its way from the prompt to its last token",
    )
    continuations: Annotated[int, Field(ge=2)] = Field(32, description="samples from each state")
    pieces: NotNegative = Field(
        0,
        description="next pieces (tokens, or lines of long responses) sampled from each state, "
        "among which critics choose; each is continued as often as a state; 0: none",
    )
    audited: NotNegative = Field(
        0,
        description="responses, the first ones of at most lines_above tokens, with a truth before "
        "every token: there the advantages of critics are compared with true ones; 0: none",
    )
    gradients: bool = Field(
        False,
        description="compare on the audited responses the policy gradient with a critic's "
        "advantages to that with true ones too: one backward pass of the actor a token, and again "
        "for each GiB of all their gradients together, so for models of some million parameters",
    )
    lines_above: Positive | None = Field(
        256, description="a response of more tokens has its states at line ends; null: none has"
    )
    temperature: float = Field(
        1.0, gt=0, description="of a base model; a run's actor has that of its own rollouts"
    )
    seed: int = Field(0, description="of responses and continuations")

    @model_validator(mode="after")
    def _gradients_are_of_audited_responses(self) -> Truth:
        if self.gradients and self.audited < 2:
            raise ValueError(
                "gradients are taken on audited responses: set audited to the number of these, "
                f"2 or more (it is {self.audited}), or gradients to false"
            )
        return self


class Tempered(Strict):
    """The base model beside trained actors, at the temperature that gives it their entropy."""

    actors: Actors = Field(
        [],
        description="beside whose actors: runs by name; `all`; `learning`: the runs whose critic "
        "learns; `[]` for none",
    )
    temperatures: Annotated[list[Annotated[float, Field(gt=0)]], Rising] = Field(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        min_length=2,
        description="at which the entropy of the base model is measured, on validation; between "
        "them it is interpolated",
    )
    seed: int = Field(0, description="of those samples")
