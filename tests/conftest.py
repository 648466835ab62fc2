"""Of all tests: those that run side by side share the cores."""

import os

from criticflow.collection import collect_seldom


def pytest_configure() -> None:
    collect_seldom()
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:
        # Else threads that wait for each other keep a core busy that other tests want. Read when
        # torch is imported.
        os.environ["OMP_WAIT_POLICY"] = "passive"
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
