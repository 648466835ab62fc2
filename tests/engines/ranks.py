"""Run a function on several gloo ranks, each a process of its own with the plugin."""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "criticflow.verl_plugin.plugin",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    # A process with one thread can be forked.
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


@functools.cache
def _interpreter() -> str:
    """Starts ranks as forks of one process that has imported verl: that takes most of their time."""
    folder = tempfile.TemporaryDirectory(prefix="ranks")
    holder = subprocess.Popen(
        [sys.executable, str(HERE / "rank_interpreter.py"), folder.name],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    _holders.append((folder, holder))
    interpreter = f"{folder.name}/python"
    while (line := holder.stdout.readline()) and line.strip() != interpreter:
        pass
    return interpreter


_holders: list[Any] = []
"""Kept until the tests end: the server ends with its standard input."""


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
    env = os.environ | ENVIRONMENT
    env |= {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [_interpreter(), __file__, str(call)],
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


if __name__ == "__main__":
    path = Path(sys.argv[1])
    name, kwargs = pickle.loads(path.read_bytes())
    cases = importlib.import_module("engine_cases")
    result = getattr(cases, name)(int(os.environ["RANK"]), **kwargs)
    Path(f"{path}.{os.environ['RANK']}").write_bytes(pickle.dumps(result))
