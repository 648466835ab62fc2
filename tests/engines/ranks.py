"""Run a function on several gloo ranks, each a process of its own with the plugin."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
from pathlib import Path
from typing import Any

from forking_python import forking_python

HERE = Path(__file__).parent
PLUGIN = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "criticflow.verl_plugin.plugin",
}


def run_on_ranks(function: str, world_size: int, workdir: Path, **arguments: Any) -> list[Any]:
    """Call ``function`` of ``tests/engines/engine_cases.py`` as ``function(rank, **arguments)``.

    Returns:
        The ranks' results, in order.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call = workdir / f"{function}.call"
    call.write_bytes(pickle.dumps((function, arguments)))
    # Ray is among what is imported. Its workers read variables meanwhile; ranks are none.
    python = forking_python("engine_cases", folder=HERE, variables=(*PLUGIN.items(),))
    env = os.environ | PLUGIN
    env |= {
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    processes = [
        subprocess.Popen(
            [python, str(HERE / "rank.py"), str(call)],
            env=env | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=HERE,
        )
        for rank in range(world_size)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
        assert process.returncode == 0, f"rank {rank}:\n{output[-6000:]}"
    return [pickle.loads(Path(f"{call}.{rank}").read_bytes()) for rank in range(world_size)]
