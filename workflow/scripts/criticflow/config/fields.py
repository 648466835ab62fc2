"""What the sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


def _rising(values: list[float], info: ValidationInfo) -> list[float]:
    if values != sorted(set(values)):
        raise ValueError(f"{info.field_name} {values} are not rising")
    return values


Rising = AfterValidator(_rising)
"""Marks a list of numbers each of which is larger than the one before."""


class Strict(BaseModel):
    """A section of the configuration: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def exactly_one(section: Strict, *keys: str) -> None:
    """Raise ValueError unless one of these keys, and no other of them, has a value."""
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(keys)}, not {len(given)}")
