"""The process in which math-verify runs: ``[gold, answer]`` as JSON lines in, ``1`` or ``0`` out.

math-verify limits itself with ``signal.alarm``, which works in a main thread only and cannot stop
sympy inside one long C call. Here the alarm has its default action: it ends the process.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys

LIMIT_S = 5.0
"""Seconds of wall time per answer."""
MEMORY = 2 * 2**30
"""Bytes of address space."""


def main() -> None:
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it closes our input
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    replies = os.fdopen(os.dup(1), "w")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)  # what the parsers print must not be taken for a reply
    print("ready", file=replies, flush=True)
    os.dup2(devnull, 2)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        gold, answer = (parse(text, parsing_timeout=None) for text in json.loads(line))
        equal = bool(gold and answer) and verify(gold, answer, timeout_seconds=None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(int(equal), file=replies, flush=True)


if __name__ == "__main__":
    main()
