"""Whether what is here is what imported runs were made from, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from criticflow.errors import UserError
from criticflow.exchange.origin import different, origin_here, recorded_origin
from criticflow.files import read_json, write_json
from criticflow.planning.imports import FOLDER
from criticflow.training.identity import brief


def compare_with_imports(
    records: Sequence[Path],
    model: str,
    revision: str | None,
    data: Path,
    filtered: bool,
    out: Path,
) -> None:
    """Write what base model and data are, if they are those of the imported runs.

    Args:
        records: ``provenance.json`` of imported runs.
        model, revision: base model, directory or name on the hub.
        data: folder with ``train.parquet`` and ``val.parquet``.
        filtered: the runs learned from a part of the training problems, so these are not compared.

    Raises:
        UserError: they are not; what differs.
    """
    here = origin_here(model, revision, data)
    if filtered:
        here.pop("data/train.parquet", None)
    for record in records:
        if found := different(recorded_origin(read_json(record)), here):
            raise UserError(
                f"{record.parent.relative_to(FOLDER)} was imported, and was trained from another "
                f"base model or other data than are here ({brief(found)}): runs of one study need "
                "the same. Copy results/models and results/data of the machine that trained it, "
                f"or remove {FOLDER}/"
            )
    write_json(out, here)
