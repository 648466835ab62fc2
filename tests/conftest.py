"""Of all tests: those that run side by side share the cores."""

import os


def pytest_configure() -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:
        import torch

        # Else each starts a thread on every core, and threads that wait for others' keep it busy.
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
