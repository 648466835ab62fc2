"""How much memory is left where a container's or Slurm's control groups limit it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from criticflow.runtime import memory

MB = 1 << 20


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


def groups(folder: Path, line: str) -> Path:
    path = folder / "cgroup"
    path.write_text(f"12:cpu,cpuacct:/elsewhere\n{line}\n")
    return path


def test_the_narrowest_group_of_version_2_counts_and_dropped_cache_does_not(tmp_path):
    job, stat = tmp_path / "slurm/job_7", "anon 5\ninactive_file {}"
    group(job, max=200 * MB, current=120 * MB, stat=stat.format(20 * MB))
    group(job / "step_0", max="max", current=90 * MB, stat=stat.format(0))
    group(tmp_path / "slurm", max=900 * MB, current=150 * MB, stat=stat.format(0))
    found = memory.available(groups(tmp_path, "0::/slurm/job_7/step_0"), tmp_path)
    assert found == 100 * MB


def test_a_group_of_version_1(tmp_path):
    stat = f"inactive_file 1\ntotal_inactive_file {8 * MB}"
    files = {"limit_in_bytes": 64 * MB, "usage_in_bytes": 32 * MB, "stat": stat}
    group(tmp_path / "memory/job", **files)
    assert memory.available(groups(tmp_path, "4:memory:/job"), tmp_path) == 40 * MB


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    group(tmp_path, max=64 * MB, current=MB, stat="inactive_file 0")
    assert memory.available(groups(tmp_path, "0::/docker/not/here"), tmp_path) == 63 * MB


def test_without_a_limit_it_is_what_the_machine_has(tmp_path):
    group(tmp_path, max="max")
    left = memory.available(groups(tmp_path, "0::/"), tmp_path)
    assert left == pytest.approx(psutil.virtual_memory().available, rel=0.1)
    assert memory.available(tmp_path / "no such file", tmp_path) == pytest.approx(left, rel=0.1)


def test_a_real_limit(request):
    """A group of version 1 or 2 made here; most machines let only root do that."""
    mount = Path("/sys/fs/cgroup")
    v1 = (mount / "memory").is_dir()
    made = mount / ("memory" if v1 else "") / f"criticflow-{os.getpid()}"
    limit = made / ("memory.limit_in_bytes" if v1 else "memory.max")
    try:
        made.mkdir()
        request.addfinalizer(made.rmdir)
        limit.write_text(str(512 * MB))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    code = (
        f"import os; open('{made}/cgroup.procs', 'w').write(str(os.getpid())); "
        "from criticflow.runtime import memory; print(memory.available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 256 * MB < int(done.stdout) <= 512 * MB
