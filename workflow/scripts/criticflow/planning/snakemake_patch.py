"""The one place where functions of Snakemake are replaced, and why none of its features will do.

Written for Snakemake 9.27.1, which ``pyproject.toml`` pins.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from snakemake import common, rules
from snakemake.dag import DAG, ScriptProcessor


@functools.cache  # once, also where one process reads the Snakefile twice
def plan_past_ancient_inputs() -> None:
    """Let a plan contain what is out of date behind an ``ancient`` input.

    Snakemake does not examine jobs downstream of one that will run, since they will run as well. It
    counts among them jobs behind an ``ancient`` input, which will not run for that reason. So with
    the probe out of date a run whose settings had changed would be left as it was (snakemake issue
    4166, open). A Snakemake that plans otherwise is left alone.

    Without such an input the plan could not be drawn: a training waits for a probe that is not
    made yet, and must not follow one that is made again.
    """
    if not passes_over_ancient_inputs():
        return
    update_needrun = DAG.update_needrun

    async def update(dag: DAG, *args: Any, **kwargs: Any) -> None:
        dag.bfs = lambda _direction, job: _triggered(dag, job)
        try:
            await update_needrun(dag, *args, **kwargs)
        finally:
            del dag.bfs

    DAG.update_needrun = update


def passes_over_ancient_inputs() -> bool:
    """Whether this Snakemake leaves out all that is downstream, whatever kind of input is between.

    Its own code tells: the version with the mend is not known yet.
    """
    return "masked.update(self.bfs(self.depending, job))" in inspect.getsource(DAG.update_needrun)


@functools.cache
def plan_each_rule_once() -> None:
    """Find out once what is the same for all jobs of a rule; Snakemake does so for each job.

    These are the parameters of an input function (by ``inspect``), and whether a rule's script is
    there (by reading it): a fifth of the time in which a study of thousands of jobs is planned.
    No script here has a wildcard in its name.
    """
    common.get_function_params = functools.lru_cache(10_000)(common.get_function_params)
    rules.get_function_params = common.get_function_params
    process_job = ScriptProcessor.process_job
    seen = set()

    def process_rule(processor: ScriptProcessor, job: Any) -> None:
        if (processor.script_type, job.rule.name) not in seen:
            process_job(processor, job)
            seen.add((processor.script_type, job.rule.name))

    ScriptProcessor.process_job = process_rule


def _triggered(dag: DAG, job: Any) -> Iterator[Any]:
    """``job`` and the jobs that run because it does."""
    found, queue = {job}, [job]
    while queue:
        job = queue.pop()
        yield job
        for other, files in dag.depending[job].items():
            if other not in found and not all(file.is_ancient for file in files):
                found.add(other)
                queue.append(other)
