"""Batched rollouts in Ray: whether what is exchanged in a module reaches the actors."""

from __future__ import annotations

import subprocess

import pytest
import ray

from criticflow.verl_plugin.batched_rollouts import BatchedAgentLoopWorker
from criticflow.verl_plugin.rollout_errors import TellingAgentLoopWorker
from forking_python import forking_python

LOOK = """
import inspect, pickle, sys
kind = pickle.load(sys.stdin.buffer)
for name in ("_run_prompt", "_agent_loop_postprocess"):
    method = inspect.unwrap(getattr(kind, name))
    print(method.__module__, method.__globals__ is vars(sys.modules[method.__module__]))
"""


def said(code: str, sent: bytes) -> str:
    """What another process says of what was sent to it."""
    python = forking_python("criticflow.verl_plugin.batched_rollouts")
    done = subprocess.run([python, "-c", code], input=sent, capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.seconds
def test_the_methods_that_write_rollouts_look_names_up_in_their_module():
    # Ray pickles what an actor inherits by value: with a copy of its module's names.
    actor = ray.remote(BatchedAgentLoopWorker).__ray_metadata__.modified_class
    sent = ray.cloudpickle.dumps(actor)
    module = "criticflow.verl_plugin.batched_rollouts"
    assert said(LOOK, sent).splitlines() == [f"{module} True"] * 2


BEGIN = """
import pickle, sys
kind = pickle.load(sys.stdin.buffer)
try:
    kind()
except TypeError as error:
    print(error)
"""


@pytest.mark.seconds
@pytest.mark.parametrize("worker", [BatchedAgentLoopWorker, TellingAgentLoopWorker])
def test_an_actor_begins_as_verls_worker(worker):
    # By value, verl's own __init__ would look for another copy of its class.
    actor = ray.remote(worker).__ray_metadata__.modified_class
    sent = ray.cloudpickle.dumps(actor)
    begun = said(BEGIN, sent)
    assert "missing" in begun and "config" in begun
