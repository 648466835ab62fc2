"""A training job that cannot run here says so in a line, before it starts."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pandas as pd
import pytest
from toy_model import write_toy_model

from criticflow.config import Model, Resources, Run, Source, Task
from criticflow.errors import UserError
from criticflow.files import require_space
from criticflow.runtime import memory
from criticflow.runtime.gpus import installed_gpus
from criticflow.training import preflight
from criticflow.training.footprint import MICRO_BATCHES, Part, total

RUN = Run(model="base", task="problems")
TASK = Task(kind="countdown", source=Source(files={"train": "train.jsonl"}))


@pytest.fixture
def model(tmp_path) -> Path:
    """A model directory with 1000 parameters."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_toy_model(folder)
    return folder


def check(model: Path, critic: Path | None = None, out: Path | None = None, **resources: int | str):
    critic_dir = str(critic) if critic else None
    base = Model(path=str(model))
    used = Resources(**resources)
    return preflight.check_training(RUN, TASK, base, used, str(model), critic_dir, out)


def test_a_sound_model_on_this_machine_passes_and_its_memory_is_told(model, tmp_path, capsys):
    parts = check(model, out=tmp_path, cpu_ranks=1)
    told = capsys.readouterr().out
    assert f"training takes about {total(parts):.1f} GiB of memory at most" in told
    assert all(part.name in told for part in parts)


@pytest.mark.skipif(bool(installed_gpus()), reason="for machines without a GPU")
def test_the_gpus_of_a_ray_elsewhere_are_not_asked_of_this_machine(model):
    with pytest.raises(UserError, match="0 here, a training takes 8"):
        check(model, gpu=8)
    assert check(model, gpu=8, ray_address="10.0.0.1:6379") == []


def test_too_many_ranks_for_the_memory(model):
    with pytest.raises(UserError, match=r"\d+\.\d GiB of memory .* lower .*resources.cpu_ranks"):
        check(model, cpu_ranks=5000)


@pytest.mark.parametrize("devices", [{"gpu": 8}, {"cpu_ranks": 5000}])
def test_what_this_machine_has_says_nothing_of_a_ray_cluster_elsewhere(model, devices):
    with pytest.raises(UserError):
        check(model, **devices)
    assert check(model, ray_address="10.0.0.9:6379", **devices) == []


def test_what_fits_with_short_trajectories_alone_is_warned_of(capsys):
    free = memory.available() / preflight.GIB
    batches = Part(MICRO_BATCHES, free, "size")
    preflight.check_memory([Part("processes", free / 4, "ranks"), batches])
    assert "warning: it may run out of memory: lower size" in capsys.readouterr().out
    with pytest.raises(UserError, match="lower ranks, size"):
        preflight.check_memory([Part("processes", 2 * free, "ranks"), batches])


def test_too_little_shared_memory_says_how_to_get_more():
    with pytest.raises(UserError, match=r"/dev/shm has \d+ MiB free.*--shm-size="):
        preflight.check_shared_memory(10**15, 2**29)


def test_rays_objects_need_shared_memory_where_ray_would_put_them_there(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    preflight.check_shared_memory(2**20, 2 * free, tmp_path)  # more than there is: to the disk
    with pytest.raises(UserError, match="shm-size"):
        preflight.check_shared_memory(free // 2, free // 4 * 3, tmp_path)


def test_a_cut_weights_file_is_named(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        check(model)


def test_a_missing_critic_is_named(model, tmp_path):
    with pytest.raises(UserError, match="nowhere/critic"):
        check(model, tmp_path / "nowhere/critic")


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
