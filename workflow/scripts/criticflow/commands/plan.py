"""``criticflow plan``: what a study holds, what of it is done, and what the rest costs.

Nothing is run. Seconds come from the benchmark tables of earlier jobs in the working directory, or
in another one (``--costs-from``), and are meant for the machine that made them.

    criticflow plan --configfile config/studies/critic-value.yaml
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from criticflow.commands.arguments import add_costs_from, add_study, command_parser
from criticflow.config import Config
from criticflow.config.contrasts import Contrast, actor_updates, differs_in, settings_difference
from criticflow.errors import run_program
from criticflow.planning import imports
from criticflow.planning.costs import Stage, Took, planned, stages
from criticflow.planning.detect import assumed, common_seeds, problems, smallest_difference
from criticflow.planning.study import here, read_study
from criticflow.stages.seed_scores import seed_scores
from criticflow.stats.crossed import components, paired
from criticflow.training.gpu_footprint import card_gib, check_runs
from criticflow.training.gpu_table import gpu_tables, missing
from criticflow.training.sampling_gpus import check_sampling, sampled_models, sampling_gpus

FEWEST_SEEDS = 3
"""Fewer seeds than this do not say how much seeds vary."""


_DESCRIPTION = """\
Print what a study holds, what of it is done, and what the rest costs. Nothing is run.

input:   config/config.yaml and the files that are given, results/ of a study that has begun
output:  standard output: runs, contrasts, jobs that are left, time, memory of trainings on GPUs;
         exit code 2 if one cannot fit
"""
_EXAMPLE = """\
example:
  criticflow plan --configfile config/studies/critic-value.yaml
"""


def main(argv: list[str] | None = None) -> None:
    """Print the plan of a study.

    Raises:
        UserError: its configuration is wrong.
    """
    parser = command_parser("plan", _DESCRIPTION, _EXAMPLE)
    add_study(parser)
    add_costs_from(parser)
    arguments = parser.parse_args(argv)
    config = read_study(arguments.configfile)
    took = Took(arguments.costs_from or arguments.directory)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    found = stages(*planned(here()[0], arguments.directory, arguments.configfile), took)
    console = Console()
    console.print(runs_table(config, arguments.directory, took))
    if config.contrasts:
        console.print(contrasts_text(config, arguments.directory), highlight=False, soft_wrap=True)
    console.print(stages_table(found))
    console.print(total(found), highlight=False)
    if config.resources.gpu:
        print_gpu_memory(console, config)
        check_runs(config, config.runs)
        check_sampling(config, sampled_models(config))


def print_gpu_memory(console: Console, config: Config) -> None:
    """What trainings are expected to take of each GPU and of a machine's memory."""
    if unknown := missing(config):
        console.print(
            f"Memory of {', '.join(unknown)} is not known: criticflow fetch brings the model, or "
            "models.NAME.shape states its sizes.",
            highlight=False,
        )
    if (card := card_gib(config.resources)) is None:
        where = "No GPU here" if config.resources.ray_address is None else "Trainings run elsewhere"
        console.print(
            f"{where}: resources.gpu_memory_gb says what the GPUs of the site have.",
            highlight=False,
        )
        return
    for table in gpu_tables(config, card):
        console.print(table)
    spanned = {model: sampling_gpus(config, model) for model in sampled_models(config)}
    if several := [f"{model} {gpus}" for model, gpus in spanned.items() if gpus > 1]:
        console.print(
            f"Probe, evaluation, truth and judging take several GPUs: {', '.join(several)}.",
            highlight=False,
        )


def runs_table(config: Config, directory: Path, took: Took) -> Table:
    """One row a run: its seeds and how many are trained, updates of its actor, time of one."""
    table = _table("Runs")
    table.add_column("run", no_wrap=True)
    table.add_column("critic", overflow="fold")
    for name in ("seeds", "trained", "updates", "a training"):
        table.add_column(name, justify="right")
    for name in config.runs:
        folders = [f"results/runs/{name}/seed{n}/metrics.parquet" for n in config.seeds_of(name)]
        table.add_row(
            name,
            critic(config, name),
            str(len(folders)),
            str(len([1 for path in folders if imports.found(directory, path)])),
            str(actor_updates(config.runs[name])),
            duration(took.training(name)),
        )
    return table


def critic(config: Config, name: str) -> str:
    """A run's critic in a few words."""
    run = config.runs[name]
    if run.algorithm == "grpo":
        return "none (grpo)"
    if run.critic.constant is not None:
        return f"constant {run.critic.constant:g}"
    if run.critic.oracle:
        return f"oracle, {run.critic.oracle.continuations} continuations"
    origin = run.critic.from_run or run.critic.pretrained or run.critic.path or "base model"
    return f"{origin}, {'frozen' if run.critic.freeze else 'learning'}"


def contrasts_text(config: Config, directory: Path) -> str:
    """What is compared: factors in which the runs differ, and each setting in ``a`` and ``b``."""
    lines = ["[bold]Contrasts[/bold]"]
    for contrast in config.contrasts:
        a, b = config.runs[contrast.a], config.runs[contrast.b]
        seeds = len(common_seeds(config, contrast))
        lines += [
            f"  [bold]{contrast.name}[/bold], {contrast.kind}: {contrast.a} minus {contrast.b} by "
            f"{contrast.metric}, {seeds} {'seed' if seeds == 1 else 'seeds'}",
            f"    {detection(config, contrast, directory)}",
            f"    differs in {', '.join(differs_in(a, b))}",
        ]
        for key, (first, second) in settings_difference(a, b).items():
            lines.append(f"      {key}: {_said(first)}, {_said(second)}")
    return "\n".join(lines)


def detection(config: Config, contrast: Contrast, directory: Path) -> str:
    """The smallest difference that this contrast can detect, and by which variances."""
    scores = measured(config, contrast, directory)
    count = problems(config, contrast) if scores is None else scores.shape[1]
    if count is None:
        return "detects: not known before its data is prepared (split.test is null)"
    known = scores is not None and len(scores) >= FEWEST_SEEDS
    variances = (components(scores) if known else None) or assumed(config, contrast)
    found = smallest_difference(config, contrast, variances, count)
    if found is None:
        return "detects nothing: two seeds at least are needed"
    source = f"variances of {len(scores)} seeds" if known else "assumed variances"
    small = config.smallest_effect
    short = f": more than the smallest of interest, {small:g}" if small and found > small else ""
    return f"detects {found:.3f} at 80 % power on {count} problems ({source}){short}"


def measured(config: Config, contrast: Contrast, directory: Path) -> NDArray[np.float64] | None:
    """Differences of the two runs' scores by seed and problem, of the seeds that are evaluated."""
    files = [
        {
            seed: path
            for seed in common_seeds(config, contrast)
            if (path := imports.found(directory, f"{folder}/seed{seed}/samples.parquet"))
        }
        for folder in (f"results/eval/runs/{run}" for run in (contrast.a, contrast.b))
    ]
    if not files[0].keys() & files[1].keys():
        return None
    scores = (seed_scores(samples, contrast.metric) for samples in files)
    return paired(*scores, contrast.metric)[0]


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def stages_table(found: Iterable[Stage]) -> Table:
    """One row a rule: its jobs, how many are done, what one and the rest take."""
    table = _table("Stages")
    for name in ("rule", "jobs", "done", "to do", "one takes", "the rest"):
        table.add_column(name, justify="left" if name == "rule" else "right")
    for stage in found:
        table.add_row(
            stage.rule,
            str(stage.jobs),
            str(stage.jobs - stage.to_do),
            str(stage.to_do),
            duration(stage.seconds),
            duration(stage.remaining),
        )
    return table


def total(found: list[Stage]) -> str:
    """What is to do in all, in a sentence."""
    to_do = sum(stage.to_do for stage in found)
    if not to_do:
        return "Nothing is to be done."
    known = sum(stage.remaining or 0 for stage in found)
    unknown = [stage.rule for stage in found if stage.to_do and stage.seconds is None]
    said = f"{to_do} jobs are to be done"
    if known:
        said += f": {duration(known)}, one after the other"
    if unknown:
        said += f"; no earlier job says what {', '.join(unknown)} take"
    return f"{said}."


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)


def duration(seconds: float | None) -> str:
    """``h:mm:ss``; a question mark where it is not known."""
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    run_program(main)
