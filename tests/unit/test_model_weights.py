"""Parameters are counted from headers: of every precision, in one file or several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from criticflow.errors import UserError
from criticflow.models.weights import Weights, model_weights


def fill(folder: Path, dtype: torch.dtype, files: int) -> None:
    """An embedding of 100 x 16 and a vector of 16, in one file or two with an index."""
    tensors = {"embed": torch.zeros(100, 16, dtype=dtype), "norm": torch.zeros(16, dtype=dtype)}
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = {name: f"model-{number}.safetensors" for number, name in enumerate(tensors)}
    for name, tensor in tensors.items():
        save_file({name: tensor}, folder / names[name])
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("files", [1, 2])
def test_precision_and_number_of_files_change_nothing(tmp_path, dtype, files):
    fill(tmp_path, dtype, files)
    assert model_weights(tmp_path) == Weights(parameters=1616, largest=1600)


def test_a_directory_without_weights_is_an_error(tmp_path):
    with pytest.raises(UserError, match="has no weights"):
        model_weights(tmp_path)
