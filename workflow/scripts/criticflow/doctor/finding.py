"""One line of the doctor's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from criticflow.errors import UserError


class Finding(NamedTuple):
    """What was looked at, what was found, and what to do about it."""

    about: str
    state: Literal["ok", "warning", "wrong"]
    said: str
    mend: str = ""
    """A command or a setting; empty where all is well."""


def ok(about: str, said: str) -> Finding:
    """All is well."""
    return Finding(about, "ok", said)


def warning(about: str, said: str, mend: str) -> Finding:
    """It works, but slowly, or only for some of the work."""
    return Finding(about, "warning", said, mend)


def wrong(about: str, said: str, mend: str) -> Finding:
    """A training would fail."""
    return Finding(about, "wrong", said, mend)


def checked(about: str, check: Callable[[], str | None]) -> Finding:
    """A check that raises :class:`UserError` (found, and what to do), as a finding.

    Args:
        check: returns what to say where all is well.
    """
    try:
        return ok(about, check() or "")
    except UserError as error:
        said, _, mend = str(error).rpartition(": ")
        return wrong(about, said or mend, mend if said else "")


def refuse(findings: Iterable[Finding]) -> None:
    """Raise :class:`UserError` with everything that is wrong, if anything is."""
    if bad := [finding for finding in findings if finding.state == "wrong"]:
        told = "; ".join(f"{one.about}: {one.said} ({one.mend})" for one in bad)
        raise UserError(f"this machine cannot do it: {told}")
