"""How often a process looks for garbage among its objects.

What libraries such as torch, transformers and vLLM make when they are imported, a million objects,
lives as long as the process. By default Python's collector looks through all of it again and again
meanwhile, a quarter of the time of the imports, and at the end of the process, a third as long.
"""

from __future__ import annotations

import atexit
import gc

BY_DEFAULT = gc.get_threshold()
SELDOM = (100_000, 50, 100)
"""For ``gc.set_threshold``: new objects are looked through when there are so many, and older ones
after so many times."""


def collect_seldom() -> None:
    """Collect garbage less often from now on, and none of it when this process ends.

    For programs that import much and end soon. What is in no cycle goes as soon as nothing refers
    to it, as ever.
    """
    gc.set_threshold(*SELDOM)
    # Registered first, it is the last that happens before modules are cleared.
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """For a fork of such a process, which may live long."""
    gc.set_threshold(*BY_DEFAULT)
