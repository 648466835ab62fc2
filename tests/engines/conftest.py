from pathlib import Path

import pytest
import whole_runs

from criticflow.config import Build
from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.stages.base_model import initial_model


@pytest.fixture(scope="session")
def base_model(tmp_path_factory) -> Path:
    """An untrained tiny Qwen3 with tokenizer, as a HuggingFace directory."""
    path = tmp_path_factory.mktemp("model") / "base"
    build = Build(task="none", hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4)
    tokenizer = char_tokenizer(build.max_positions)
    initial_model(build, tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """What whole runs need, and where they are."""
    path = tmp_path_factory.mktemp("runs")
    whole_runs.materials(path)
    return path
