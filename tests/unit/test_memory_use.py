"""A training that runs out of memory is told from others, and so is what it used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from criticflow.training.endings import out_of_memory
from criticflow.training.footprint import Part
from criticflow.training.memory_use import MemoryUse, killed_by_kernel

RAY = (
    "(raylet) ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on "
    "memory. Memory on the node was 22.80GB / 23.97GB (0.951), which exceeds the memory usage "
    "threshold of 0.95."
)
TORCH = (
    "(WorkerDict pid=3) RuntimeError: [enforce fail] . DefaultCPUAllocator: can't allocate memory"
)


@pytest.mark.parametrize("line", [RAY, TORCH, "(WorkerDict pid=3) MemoryError"])
def test_who_ran_out_of_memory_says_so_and_what_to_lower(tmp_path, line):
    log = tmp_path / "log"
    log.write_text(f"step:1\n{line}\nexit\n", encoding="utf-8")
    how = out_of_memory(MemoryUse(), log, 0, [Part("actor", 2.0, "the model's size")])
    assert how is not None
    assert how.startswith("ran out of memory: at its peak it used 0.0 GiB")
    assert "lower the model's size, or end other programs" in how


def test_another_end_is_not_blamed_on_memory(tmp_path):
    log = tmp_path / "log"
    # Ray says this of whatever ends without a word.
    log.write_text("The process is killed by SIGKILL by OOM killer due to high memory usage.\n")
    assert out_of_memory(MemoryUse(), log, 0, []) is None


def test_an_earlier_attempt_that_ran_out_of_memory_is_over(tmp_path):
    log = tmp_path / "log"
    log.write_text(f"{RAY}\n")
    said = log.stat().st_size
    with open(log, "a") as stream:
        stream.write("ValueError: something else\n")
    assert out_of_memory(MemoryUse(), log, said, []) is None


def test_the_kernels_count_of_killed_processes(tmp_path):
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 5\noom_kill 7\n")
    assert killed_by_kernel(counters) == 7
    assert killed_by_kernel(tmp_path / "none") == 0


def test_the_peak_names_the_processes_that_made_it_up():
    code = "x = bytearray(500 * 2**20); print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    use = MemoryUse()
    child.stdout.readline()
    use()
    child.communicate(b"\n")
    use.next_look = 0.0
    use()  # it has gone; the peak stays
    assert "python" in use.described()
    assert float(use.described().split(" GiB")[0]) >= 0.5
