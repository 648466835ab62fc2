"""Tells of a Ray cluster's nodes and actors, one line of JSON every other second.

``python -m criticflow.training.ray_state HOST:PORT``. It is a process of its own since Ray's client
for its tables ends the process that it runs in when the cluster does not answer. It ends with its
standard input.
"""

from __future__ import annotations

import json
import select
import sys
from typing import Any

PAUSE = 2.0
"""Seconds between two lines."""


def tables(address: str) -> dict[str, Any]:
    """What each line says: GPUs of every living node by its name, ``GPU`` and ``CPU`` of each of
    them, and all actors with their state.

    Args:
        address: of Ray's head.
    """
    import ray._private.state as ray_state
    from ray._raylet import GcsClientOptions

    state = ray_state.state
    if state.gcs_options is None:
        options = GcsClientOptions.create(
            address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
        )
        state._initialize_global_state(options)
    living = [one for one in state.node_table() if one["Alive"]]
    nodes = {one["NodeName"]: one["Resources"].get("GPU", 0) for one in living}
    capacities = [{key: one["Resources"].get(key, 0) for key in ("GPU", "CPU")} for one in living]
    actors = [(one["ActorClassName"], one["State"]) for one in state.actor_table(None).values()]
    return {"nodes": nodes, "capacities": capacities, "actors": actors}


if __name__ == "__main__":
    while True:
        print(json.dumps(tables(sys.argv[1])), flush=True)
        if select.select([0], [], [], PAUSE)[0]:
            sys.exit(0)
