"""A training job that cannot run here says so in a line, before it starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.files import require_space
from criticflow.training import preflight


@pytest.fixture
def model(tmp_path) -> Path:
    """A model directory with 1000 parameters."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"weight": torch.zeros(1000)}, folder / "model.safetensors")
    return folder


def test_a_sound_model_on_this_machine_passes(model, tmp_path):
    preflight.check_training(Resources(cpu_ranks=1), str(model), None, tmp_path)


def test_too_many_ranks_for_the_memory(model):
    with pytest.raises(UserError, match=r"training with 5000 ranks needs about \d+\.\d GiB"):
        preflight.check_training(Resources(cpu_ranks=5000), str(model), None)


def test_weights_count_four_times_in_training(model):
    alone = preflight.needed_gib(Resources(), "owner/name", None)
    state = preflight.needed_gib(Resources(), str(model), None) - alone
    assert state * 2**30 == pytest.approx(2 * 1000 * 16, rel=0.1)  # actor and critic


def test_a_cut_weights_file_is_named(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        preflight.check_training(Resources(), str(model), None)


def test_a_missing_critic_is_named(model, tmp_path):
    with pytest.raises(UserError, match="nowhere/critic"):
        preflight.check_training(Resources(), str(model), str(tmp_path / "nowhere/critic"))


def test_too_little_disk_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no space for {tmp_path}/not made yet"):
        require_space(tmp_path / "not made yet", 10**18)


def test_more_prompts_a_step_than_problems_are_named(tmp_path):
    train = tmp_path / "train.parquet"
    pd.DataFrame({"prompt": range(7)}).to_parquet(train)
    preflight.check_batch(train, 7)
    with pytest.raises(UserError, match=r"8 prompts a step, but .*train\.parquet has 7 problems"):
        preflight.check_batch(train, 8)


def test_an_address_without_ports_is_named():
    with pytest.raises(UserError, match="no free port on 192"):
        preflight.check_port("192.0.2.1")  # an address that no machine has


def test_a_port_in_use_disturbs_nobody():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        preflight.check_port()
