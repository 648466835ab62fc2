"""The real data files beside the checkout, for tests that read them when they are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_real_data = pytest.mark.skipif(
    not ROOT.is_dir(), reason="the real data is not beside the checkout"
)


def read(name: str) -> list[dict[str, Any]]:
    """The rows of one file, by its name relative to the data's root."""
    return [json.loads(line) for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]


def files(train: str, test: str) -> dict[str, str]:
    """``source.files`` of a task."""
    return {"train": str(ROOT / train), "test": str(ROOT / test)}
