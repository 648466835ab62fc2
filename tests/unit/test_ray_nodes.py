"""Several nodes: what is asked of Slurm, Ray and verl, and what is said where that cannot work."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from criticflow.config import Resources
from criticflow.errors import UserError
from criticflow.runtime import slurm
from criticflow.training.cluster import Client, ray_for
from criticflow.training.environment import environment
from criticflow.training.ray_node import (
    Node,
    free_port,
    interface_address,
    interface_of,
    start_command,
    wait_for_head,
)
from criticflow.training.ray_room import lacks
from criticflow.verl_plugin import FORK

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
HEAD = Node("a", "10.0.0.1:6400", "10.0.0.1", "", True, cpus=8, gpus=1, object_store=2**29)
OTHER = Node("b", "10.0.0.1:6400", "10.0.0.2", "", False, cpus=8, gpus=None, object_store=None)


def test_ranks_are_those_of_all_nodes():
    resources = Resources(gpu=8, nodes=4)
    assert (resources.ranks, resources.ranks_per_node) == (32, 8)


def test_a_step_is_asked_for_without_what_the_present_one_was_started_with(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = slurm.step_command("far2", ["hostname"])
    assert command[0] == "srun" and command[-1] == "hostname"
    assert {"--overlap", "--nodes=1", "--ntasks=1", "--nodelist=far2"} <= set(command)
    assert command[command.index("--jobid") + 1] == "7"
    env = {
        "SLURM_NTASKS": "2",
        "SLURM_CPU_BIND": "q",
        "SRUN_X": "1",
        "SLURM_CONF": "c",
        "HOME": "h",
    }
    assert slurm.outside_of_step(env) == {"SLURM_CONF": "c", "HOME": "h"}


def test_a_node_is_told_who_it_is():
    told = Node(**json.loads(HEAD.as_json()))
    assert told == HEAD
    head = start_command(HEAD, "127.0.0.1", "/tmp/x")
    assert head[:2] == [sys.executable, "-m"]
    assert head[head.index("--port") + 1] == "6400"
    assert head[head.index("--num-gpus") + 1] == "1"
    other = start_command(OTHER, "10.0.0.2", "/tmp/x")
    assert other[other.index("--address") + 1] == "10.0.0.1:6400"
    assert "--head" not in other
    assert "--num-gpus" not in other  # Ray counts those that are there
    for command in (head, other):
        assert "--block" in command
        assert command[command.index("--max-worker-port") + 1] == "0"


def test_an_interface_has_an_address_and_an_address_its_interface():
    assert interface_address("lo") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(UserError, match=r"no interface 'ib7'.*it has .*lo"):
        interface_address("ib7")
    with pytest.raises(UserError, match=r"no interface with the address 203\.0\.113\.1"):
        interface_of("203.0.113.1")


def test_a_head_that_cannot_be_reached_is_named():
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    with pytest.raises(UserError, match=f"does not reach Ray's head at {address}"):
        wait_for_head(address, seconds=-1)


def test_several_nodes_need_a_slurm_job(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with (
        pytest.raises(UserError, match=r"resources.nodes: 2 nodes .* this is no Slurm job"),
        ray_for(Resources(nodes=2), {}, tmp_path),
    ):
        pass
    assert not [*tmp_path.iterdir()]


def test_one_node_stays_on_loopback_and_several_do_not():
    metrics = Path("metrics/1.jsonl")
    assert environment(Resources(), metrics)[LOOPBACK] == "0"
    several = environment(Resources(nodes=2), metrics)
    assert LOOPBACK not in several
    assert several[FORK]


def test_a_ray_of_somebody_elses_gets_the_environment_and_nothing_is_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("KEPT", "as it is")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")  # which the cluster may lack all the same
    resources = Resources(ray_address="10.0.0.9:6379")
    env = environment(resources, tmp_path / "1.jsonl")
    assert FORK not in env and LOOPBACK not in env
    ray = Client("10.0.0.9:6379", env)
    assert ray.overrides[0] == "ray_kwargs.ray_init.address=10.0.0.9:6379"
    sent = [one for one in ray.overrides if "runtime_env.env_vars.VERL_PLATFORM" in one]
    assert sent == ['+ray_kwargs.ray_init.runtime_env.env_vars.VERL_PLATFORM="cpu"']
    assert not any("KEPT" in one for one in ray.overrides)
    ray()


def node(gpus: float, cpus: float) -> dict[str, float]:
    return {"GPU": gpus, "CPU": cpus}


@pytest.mark.parametrize(
    ("nodes", "resources", "told"),
    [
        ([node(8, 64), node(8, 64)], {"gpu": 8, "nodes": 2}, None),
        ([node(0, 4), node(8, 24), node(8, 64)], {"gpu": 8, "nodes": 2}, None),
        ([node(8, 64)], {"gpu": 8, "nodes": 2}, "2 nodes with 8 GPUs and 24 CPUs each"),
        ([node(4, 64)] * 4, {"gpu": 8, "nodes": 2}, "it has: 4 GPUs and 64 CPUs; 4 GPUs"),
        ([], {"gpu": 1}, "1 node with 1 GPUs .*resources.gpu.*it has: none"),
        ([node(2, 8)], {"gpu": 2}, "too few CPUs: .* 9 in all; it has: 2 GPUs and 8 CPUs"),
        ([node(2, 9)], {"gpu": 2}, None),
        ([node(8, 20), node(0, 64)], {"gpu": 8}, "too few CPUs"),  # none of another node's
        ([node(0, 16)], {"cpu_ranks": 2}, "resources.cpu_ranks: ray start --num-gpus"),
        ([node(2, 8)], {"cpu_ranks": 2}, None),
    ],
)
def test_what_a_ray_elsewhere_lacks_is_named(nodes, resources, told):
    found = lacks(nodes, Resources(ray_address="10.0.0.9:6379", **resources))
    assert found is None if told is None else re.search(told, found)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:{port}", "127.0.0.1:{port}", "127.0.0.1"])
def test_a_ray_elsewhere_that_nobody_reaches_is_named_at_once(address, tmp_path):
    address = address.format(port=free_port("127.0.0.1"))
    resources = Resources(gpu=8, ray_address=address)
    with (
        pytest.raises(UserError, match=rf"ray_address: {address} is not reached from .*HOST:PORT"),
        ray_for(resources, {}, tmp_path),
    ):
        pass
