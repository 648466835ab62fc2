"""Batched rollouts in Ray: whether what is exchanged in a module reaches the actors."""

from __future__ import annotations

import subprocess
import sys

import ray

from criticflow.verl_plugin.batched_rollouts import BatchedAgentLoopWorker

LOOK = """
import inspect, pickle, sys
kind = pickle.load(sys.stdin.buffer)
for name in ("_run_prompt", "_agent_loop_postprocess"):
    method = inspect.unwrap(getattr(kind, name))
    print(method.__module__, method.__globals__ is vars(sys.modules[method.__module__]))
"""


def test_the_methods_that_write_rollouts_look_names_up_in_their_module():
    # Ray pickles what an actor inherits by value: with a copy of its module's names.
    actor = ray.remote(BatchedAgentLoopWorker).__ray_metadata__.modified_class
    sent = ray.cloudpickle.dumps(actor)
    done = subprocess.run([sys.executable, "-c", LOOK], input=sent, capture_output=True, check=True)
    module = "criticflow.verl_plugin.batched_rollouts"
    assert done.stdout.decode().splitlines() == [f"{module} True"] * 2
