"""Memory that this process may still take: the machine's, or what its control groups leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def available(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Bytes that this process can still take without swapping and without being killed.

    Containers and Slurm jobs are limited by control groups, of version 1 or 2, on any level.

    Args:
        groups: the file in which Linux lists the control groups of this process.
        mount: the folder with the files of all control groups.
    """
    left = _left_by_groups(groups, mount) if groups.is_file() else ()
    return max(0, min([psutil.virtual_memory().available, *left]))


def _left_by_groups(groups: Path, mount: Path) -> Iterator[int]:
    """Bytes that each group with a limit leaves; page cache that can be dropped counts as left."""
    for line in groups.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, used, cached = mount, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, cached = mount / controllers, "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inner = root / path.lstrip("/")
        # In a container the path may be the host's, and its files those of the root.
        for group in (inner, *inner.parents):
            if (group / limit).is_file() and (group / limit).read_text().strip() != "max":
                rows = (row.split() for row in (group / "memory.stat").read_text().splitlines())
                dropped = int(dict(rows)[cached])
                yield int((group / limit).read_text()) - int((group / used).read_text()) + dropped
            if group == root:
                break
