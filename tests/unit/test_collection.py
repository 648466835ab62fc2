"""Programs that import much: cycles are collected seldom, and what is done at the end is done."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import atexit, gc, weakref
from criticflow.collection import BY_DEFAULT, collect_as_usual, collect_seldom

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

atexit.register(lambda: print("frozen at the end:", gc.get_freeze_count() > 0))
collect_seldom()
atexit.register(lambda: print("said at the end"))
kept = cycle()
_ = [[] for _ in range(10 * BY_DEFAULT[0])]
print("a cycle stays:", kept() is not None)
gc.collect()
print("until it is collected:", kept() is None)
collect_as_usual()
print("as usual:", gc.get_threshold() == BY_DEFAULT)
open("/dev/stdout", "w").write("not flushed")
"""


def test_a_program_collects_seldom_and_ends_as_others_do():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "a cycle stays: True",
        "until it is collected: True",
        "as usual: True",
        "not flushedsaid at the end",
        "frozen at the end: True",
    ]
