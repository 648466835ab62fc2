"""What every rule's script does around its one action: log, owned processes, readable errors."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from criticflow.collection import collect_seldom
from criticflow.errors import UserError
from criticflow.logs import open_terminal, progress, terminal_fds
from criticflow.runtime.devices import take
from criticflow.runtime.processes import STOP_SECONDS, run_owned

_INSIDE = "CRITICFLOW_STAGE"


def run_stage(snakemake: Any, work: Callable[[Any], None], grace: float = STOP_SECONDS) -> NoReturn:
    """Run ``work(snakemake)`` and exit; 0 on success, 2 on a :class:`UserError`, else 1.

    The script runs itself a second time as an owned process
    (:mod:`criticflow.runtime.processes`), whose output, and that of all its children, is the rule's
    log; it begins anew with each attempt. An error ends up in the log with its traceback and as one
    line on the terminal. SIGTERM leaves the work ``grace`` seconds to end well. The rule's resource
    ``gpu`` says how many GPUs it holds meanwhile (:mod:`criticflow.runtime.devices`).
    """
    if os.environ.pop(_INSIDE, None):
        collect_seldom()
        sys.exit(_work(snakemake, work))
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # not emptied: another job may still write to what has this name
    stage = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
    env = open_terminal(stage) | {_INSIDE: "1"}
    try:
        with take(snakemake.resources.get("gpu", 0), tell=_tell(stage)) as gpus:
            code = run_owned(
                [sys.executable, *sys.argv],
                env | gpus.environment,
                log,
                grace=grace,
                pass_fds=[*terminal_fds(), *gpus.fds],
            )
    except UserError as error:
        _tell(stage)(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:  # a Ctrl-C before the process was there, for instance without a GPU
        code = 128 + signal.SIGINT
    if code > 128:
        why = ", perhaps because memory ran out" if code == 128 + signal.SIGKILL else ""
        print(f"[{stage}] ended by signal {code - 128}{why}: see {log}", file=sys.stderr)
    sys.exit(code)


def _tell(stage: str) -> Callable[[str], None]:
    """Writes lines of a stage that has no process of its own yet to the terminal."""
    return lambda text: print(f"[{stage}] {text}", file=sys.stderr, flush=True)


def _work(snakemake: Any, work: Callable[[Any], None]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        work(snakemake)
    except UserError as error:
        progress(f"error: {error}")
        return 2
    except Exception as error:  # noqa: BLE001
        # Not swallowed: the exit code fails the rule, the log has the traceback.
        traceback.print_exc()
        summary = " ".join(traceback.format_exception_only(error)[-1].split())
        progress(f"error: {summary} (traceback in {snakemake.log[0]})")
        return 1
    except KeyboardInterrupt:  # where the work was then is nothing to mend
        print("stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0
