"""``criticflow doctor``: whether this machine can run a study, and the line that mends it.

Nothing is changed. A study that trains on GPUs is judged where its jobs run: in a job, not on the
login node.

    criticflow doctor --configfile config/experiments/qwen3-0.6b-gsm8k-ppo.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from criticflow.commands.arguments import add_study, command_parser
from criticflow.config import Config, Resources
from criticflow.doctor.finding import Finding, checked, warning, wrong
from criticflow.errors import UserError, run_program

_DESCRIPTION = """\
Say whether this machine can run a study: driver, torch, GPUs, attention, compiler, CPUs, memory,
ports, file systems, models on the hub, Slurm. Nothing is changed.

input:   config/config.yaml and the files that are given, and the machine itself
output:  standard output: a line for each thing, ok, warning or wrong, with what mends it;
         exit code 1 if something is wrong
"""
_EXAMPLE = """\
examples:
  criticflow doctor
  criticflow doctor --configfile config/experiments/qwen3-0.6b-gsm8k-ppo.yaml
  srun --nodes=1 --gpus=4 criticflow doctor --configfile mine.yaml     # on a node of the cluster
"""
_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def main(argv: list[str] | None = None) -> None:
    """Print what is found.

    Raises:
        UserError: the study's configuration is wrong.
        SystemExit: with 1, if something is wrong here.
    """
    parser = command_parser("doctor", _DESCRIPTION, _EXAMPLE)
    add_study(parser)
    arguments = parser.parse_args(argv)
    from criticflow.planning.study import read_study  # slow to import, with all below it

    console = Console(highlight=False, soft_wrap=True)
    bad = 0
    for finding in examine(read_study(arguments.configfile), arguments.directory):
        console.print(line(finding))
        bad += finding.state == "wrong"
    if bad:
        print(f"{bad} {'thing is' if bad == 1 else 'things are'} wrong.", file=sys.stderr)
        sys.exit(1)


def line(finding: Finding) -> Text:
    """State, what it is about, what was found; below it what mends it."""
    text = Text(f"{finding.state:8}", style=_COLOURS[finding.state])
    text.append(f" {finding.about}: {finding.said}", style="default not bold")
    if finding.mend:
        text.append(f"\n{'':8}   -> {finding.mend}", style="default not bold")
    return text


def examine(config: Config, directory: Path) -> Iterable[Finding]:
    """Everything, the quick and basic first.

    Args:
        config: the study.
        directory: in which its results are, or will be.
    """
    from criticflow.doctor import hub, machine, places, slurm, tools
    from criticflow.models.hub import is_name
    from criticflow.training.overrides import ray_cpus
    from criticflow.training.preflight import check_port

    resources = _here(config)
    elsewhere = config.resources.ray_address is not None
    trained = {run.model for run in config.runs.values()}
    models = {name: model for name, model in config.models.items() if name in trained}
    yield from _gpus(config)
    yield from tools.judge_attention(
        {f"models.{name}.attn_implementation": m.attn_implementation for name, m in models.items()}
    )
    yield tools.judge_compiler(*tools.own_compiler(), needed=resources.gpu > 0)
    if not resources.gpu:
        yield tools.judge_library("libnuma.so.1", "libnuma1")
    needed = None if elsewhere else _memory(config)
    cpus = ray_cpus(resources.gpu) if resources.gpu and not elsewhere else 0
    yield machine.judge_cpus(*machine.own_cpus(), cpus)
    if resources.gpu and slurm.elsewhere():
        yield machine.judge_memory(machine.own_memory(), None)
    else:
        yield machine.judge_memory(machine.own_memory(), needed)
    yield checked("shared memory", lambda: _shared_memory(config))
    yield checked("ports", lambda: check_port() or "free ones on 127.0.0.1")
    yield places.judge_results(places.place(directory / "results"), _checkpoints(config))
    if resources.gpu:
        yield from places.own_caches()
    for model in models.values():
        if model.path and is_name(model.path):
            yield hub.own_model(model.path, model.revision)
    yield from slurm.own_slurm(resources.gpu, needed)


def _gpus(config: Config) -> Iterable[Finding]:
    from criticflow.doctor import slurm
    from criticflow.doctor.cuda import installed_torch, judge_torch
    from criticflow.runtime.gpus import visible_gpus
    from criticflow.training.gpu_preflight import judge_gpus

    torch = installed_torch()
    try:
        gpus = visible_gpus()
    except UserError as error:
        yield wrong("driver", str(error), "nvidia-smi by hand shows whether it is mended")
        return
    resources = _here(config)
    if resources.gpu and not gpus and slurm.elsewhere():
        yield judge_torch(torch, 0, needed=True)
        said = "none on this machine, whose jobs run elsewhere"
        mend = f"judge a node: srun --nodes=1 --gpus={resources.gpu} criticflow doctor ..."
        yield warning("GPUs", said, mend)
        return
    dtypes = {f"models.{name}.dtype": model.dtype for name, model in config.models.items()}
    dtypes |= {f"runs.{name}.train.dtype": run.train.dtype for name, run in config.runs.items()}
    users = [key for key, dtype in dtypes.items() if dtype == "bfloat16"]
    yield from judge_gpus(gpus, torch, resources, users)


def _memory(config: Config) -> float | None:
    """GiB of main memory of the largest training, as far as shapes are known; None: none is."""
    from criticflow.models.shape import known_shape
    from criticflow.training.footprint import total
    from criticflow.training.gpu_footprint import host_memory

    if not config.resources.gpu:
        return None  # a training on the CPU says so itself, from the weights of its models
    sizes = [
        total(host_memory(run, config.resources_of(name), shape))
        for name, run in config.runs.items()
        if (shape := known_shape(config.models[run.model]))
    ]
    return max(sizes, default=None)


def _most(config: Config) -> Resources:
    """The most that any of the study's trainings takes of a node."""
    every = [config.resources_of(run) for run in config.runs]
    every += [config.resources] if config.critics else []
    most = {key: max(getattr(one, key) for one in every) for key in ("gpu", "cpu_ranks")}
    return config.resources.model_copy(update=most)


def _here(config: Config) -> Resources:
    """The most that any job of the study takes of this machine, or of one like it: an engine's GPUs
    where trainings run on a Ray cluster elsewhere, and a critic is not fitted here."""
    most = _most(config)
    if config.resources.ray_address is None or config.critics:
        return most
    from criticflow.training.sampling_gpus import sampled_models, sampling_gpus

    engines = max((sampling_gpus(config, model) for model in sampled_models(config)), default=0)
    return most.model_copy(update={"gpu": engines})


def _shared_memory(config: Config) -> str:
    from criticflow.models.shape import known_shape
    from criticflow.training.overrides import OBJECT_STORE, bucket_megabytes
    from criticflow.training.preflight import SHARED_MEMORY, check_shared_memory

    largest = max(
        (shape.embedding for model in config.models.values() if (shape := known_shape(model))),
        default=0,
    )
    buckets = _most(config).ranks_per_node * bucket_megabytes(largest) * 2**20
    check_shared_memory(buckets if config.resources.device == "cpu" else 0, OBJECT_STORE)
    return f"enough in {SHARED_MEMORY}"


def _checkpoints(config: Config) -> int:
    """Bytes of the two checkpoints that a training has at a time, the largest one; 0: not known."""
    from criticflow.models.shape import known_shape

    sizes = [0]
    for run in config.runs.values():
        if shape := known_shape(config.models[run.model]):
            sizes.append(2 * 12 * shape.parameters * (2 if run.algorithm == "ppo" else 1))
    return max(sizes)


if __name__ == "__main__":
    run_program(main)
