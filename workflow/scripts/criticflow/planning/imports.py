"""Runs that were trained elsewhere and stand in this study: which count, and where their files lie.

``criticflow study import`` places the files of such a run below ``imported/``, in the folders that
they would have in this working directory, and names them in ``imported/index.json``. Rules read
them in place of what they would make.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from criticflow.config import Config
from criticflow.errors import UserError
from criticflow.files import read_json

FOLDER = "imported"
INDEX = f"{FOLDER}/index.json"
EMPTY: dict[str, Any] = {
    "exports": [],
    "measured": None,
    "runs": {},
    "bases": {},
    "critics": {},
    "verified": [],
}
"""An index of nothing; :mod:`criticflow.exchange.take_in` fills it."""

Settings = Callable[[str], Mapping[str, Any]]
"""Settings of a run that decide its weights, as JSON."""


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def measured(config: Config) -> dict[str, Any]:
    """Settings of what is measured on a trained run: they must be equal in a whole study."""
    # Gradients are a measurement of their own, on the truth that is there without them.
    no_part = {"actors", "across", "steps", "temperature", "gradients"}
    # Those that are off, or what was measured before there were such settings would differ.
    no_part |= {key for key in ("pieces", "audited") if not getattr(config.truth, key)}
    truth = config.truth.model_dump(mode="json", exclude=no_part)
    evaluate = config.evaluate.model_dump(mode="json", exclude={"resamples", "confidence"})
    return {"evaluate": evaluate, "truth": truth}


def critic_seeds(config: Config, name: str) -> list[int]:
    """Seeds of a pretrained critic: those of the runs that start with it, else the study's."""
    used: set[int] = set()
    for run, settings in config.runs.items():
        if settings.critic.pretrained == name:
            seed = settings.critic.from_seed
            used |= set(config.seeds_of(run)) if seed is None else {seed}
    return sorted(used or config.seeds)


def read_index(directory: Path = Path()) -> dict[str, Any]:
    """What was imported into a working directory."""
    path = directory / INDEX
    return EMPTY | (read_json(path) if path.is_file() else {})


def found(directory: Path, path: str) -> Path | None:
    """A file of a run: its own, else an imported one; None: there is neither."""
    places = (directory / path, directory / FOLDER / path)
    return next((place for place in places if place.exists()), None)


@dataclass(frozen=True)
class Imports:
    """What of the imported counts in a study.

    Attributes:
        files: by run and seed, the files that it brought.
        bases: files of base models, by model and task, where no run of the two is trained here.
        critics: files of pretrained critics, by name and seed, where no run here starts with them.
        unverified: pairs of model and task whose content was not here to be compared when they were
            imported.
        notes: what does not count, and why.
    """

    files: Mapping[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    bases: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    critics: Mapping[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    unverified: frozenset[tuple[str, str]] = frozenset()
    notes: tuple[str, ...] = ()

    def has(self, run: str, seed: int) -> bool:
        """Whether this training was made elsewhere."""
        return (run, seed) in self.files

    def weights(self, run: str, seed: int) -> bool:
        """Whether an imported run brought its critic."""
        return _weights(run, seed, self.files.get((run, seed), ()))

    def place(self, path: str) -> str:
        """Where a file is, or will be made."""
        return f"{FOLDER}/{path}" if path in self._all else path

    def lacks(self, run: str, seed: int, path: str) -> bool:
        """Whether an imported run came without this file."""
        return self.has(run, seed) and path not in self._all

    @cached_property
    def _all(self) -> frozenset[str]:
        parts = (*self.files.values(), *self.bases.values(), *self.critics.values())
        return frozenset().union(*parts)


def critic_folder(run: str, seed: int) -> str:
    """Where the critic of a run's last step lies."""
    return f"results/runs/{run}/seed{seed}/critic"


def _weights(run: str, seed: int, files: Iterable[str]) -> bool:
    folder = f"{critic_folder(run, seed)}/"
    return any(file.startswith(folder) and file.endswith(".safetensors") for file in files)


def read_imports(config: Config, settings: Settings, directory: Path = Path()) -> Imports:
    """What counts of ``imported/``.

    A run counts that has the settings of the study. It does not if a run that is trained here needs
    its critic, and it came without: it is then trained here as well.

    Args:
        settings: :func:`criticflow.training.deciding.deciding` of this study.

    Raises:
        UserError: imported runs were measured in another way than this study measures.
    """
    index = read_index(directory)
    if not index["runs"]:
        return Imports()
    check_measured(index["measured"], measured(config))
    notes, fitting = [], {}
    for run in sorted(index["runs"].keys() & config.runs.keys()):
        wanted = digest(settings(run))
        for seed in config.seeds_of(run):
            entry = index["runs"][run].get(str(seed))
            if entry is None:
                continue
            if entry["settings"] == wanted:
                fitting[run, seed] = frozenset(entry["files"])
            else:
                notes.append(
                    f"{run}, seed {seed}: imported with other settings than it has now, so it is "
                    "trained here"
                )
    while lost := _needed_here(config, fitting):
        for run, seed in sorted(lost):
            del fitting[run, seed]
            notes.append(
                f"{run}, seed {seed}: imported without the weights that another run here needs, so "
                "it is trained here"
            )
    critics = _critics(config, index, fitting)
    bases = _bases(config, index, fitting, critics)
    pairs = {(config.runs[run].model, config.runs[run].task) for run, _ in fitting}
    verified = {tuple(pair) for pair in index["verified"]}
    return Imports(fitting, bases, critics, frozenset(pairs - verified), tuple(notes))


def check_measured(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Whether imported runs were measured as this study measures.

    Raises:
        UserError: they were not; what differs.
    """
    different = [
        f"{section}.{key} is {theirs[section].get(key)} there and {value} here"
        for section, settings in ours.items()
        for key, value in settings.items()
        if theirs[section].get(key) != value
    ]
    if different:
        raise UserError(
            f"imported runs were measured in another way: {'; '.join(different)}: make these "
            f"settings equal, or remove {FOLDER}/ and import again"
        )


def _needed_here(
    config: Config, imported: Mapping[tuple[str, int], frozenset[str]]
) -> set[tuple[str, int]]:
    """Imported runs whose weights a training here starts from, and that came without."""
    needed = set()
    for run, seed in config.run_seeds():
        critic = config.runs[run].critic
        from_seed = seed if critic.from_seed is None else critic.from_seed
        if (run, seed) in imported:
            continue
        if critic.pretrained and (actor := config.critics[critic.pretrained].actor):
            needed.add((actor, from_seed))
        elif origin := critic.from_run:
            last = critic.from_step in (None, config.runs[origin].train.steps)
            files = imported.get((origin, from_seed), ())
            if not last or not _weights(origin, from_seed, files):
                needed.add((origin, from_seed))
    return needed & imported.keys()


def _critics(
    config: Config,
    index: Mapping[str, Any],
    imported: Mapping[tuple[str, int], frozenset[str]],
) -> dict[tuple[str, int], frozenset[str]]:
    found = {}
    for name, critic in config.critics.items():
        wanted = digest(critic.model_dump(mode="json"))
        started = [run for run in config.runs if config.runs[run].critic.pretrained == name]
        here = {
            seed if config.runs[run].critic.from_seed is None else config.runs[run].critic.from_seed
            for run in started
            for seed in config.seeds_of(run)
            if (run, seed) not in imported
        }
        for seed in critic_seeds(config, name):
            entry = index["critics"].get(name, {}).get(str(seed))
            if entry and entry["settings"] == wanted and seed not in here:
                found[name, seed] = frozenset(entry["files"])
    return found


def _bases(
    config: Config,
    index: Mapping[str, Any],
    imported: Mapping[tuple[str, int], frozenset[str]],
    critics: Mapping[tuple[str, int], frozenset[str]],
) -> dict[tuple[str, str], frozenset[str]]:
    """Base models that nothing is done with here: else they are probed and evaluated here."""
    users = [
        ((config.runs[run].model, config.runs[run].task), (run, seed) in imported)
        for run, seed in config.run_seeds()
    ]
    if config.truth.actors != []:
        users += [
            ((critic.model, critic.task), (name, seed) in critics)
            for name, critic in config.critics.items()
            for seed in critic_seeds(config, name)
        ]
    found = {}
    for pair in dict.fromkeys(pair for pair, _ in users):
        model, task = pair
        entry = index["bases"].get(model, {}).get(task)
        if entry and all(there for other, there in users if other == pair):
            found[pair] = frozenset(entry["files"])
    return found
