"""The models that a training starts from, as directories or as commits of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from criticflow.models import hub


@dataclass(frozen=True)
class Origins:
    """Models by role: ``model`` (actor and reference policy), and ``critic`` if there is one.

    Attributes:
        paths: directory or hub name.
        revisions: commit, of those that are named on the hub.
    """

    paths: dict[str, str]
    revisions: dict[str, str]

    @classmethod
    def find(cls, models: Mapping[str, tuple[str, str | None]]) -> Origins:
        """Ask the hub once for the commit of each model that is named there.

        Args:
            models: directory or hub name, and branch, tag or commit, by role.

        Raises:
            UserError: neither the hub nor the local cache knows one of them.
        """
        commits = {role: hub.commit(path, revision) for role, (path, revision) in models.items()}
        return cls(
            paths={role: path for role, (path, _) in models.items()},
            revisions={role: commit for role, commit in commits.items() if commit},
        )

    @property
    def directories(self) -> dict[str, list[Path]]:
        """Models that were given as a directory."""
        return {
            role: [Path(path)] for role, path in self.paths.items() if role not in self.revisions
        }

    def local(self, role: str) -> str | None:
        """A model's directory, fetched from the hub if need be; None: there is no such model."""
        path = self.paths.get(role)
        return path and hub.local_copy(path, self.revisions.get(role))
