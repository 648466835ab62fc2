"""What a person is told when the workflow starts, ends and fails."""

from pathlib import Path

from criticflow.errors import UserError
from criticflow.planning.gpus import TRAININGS, require_gpus
from criticflow.runtime.processes import stop_jobs_on_signals
from criticflow.runtime.run_lock import living_owner
from criticflow.planning.workdir import failed_logs
from criticflow.training.gpu_footprint import check_runs
from criticflow.training.sampling_gpus import check_sampling


def starting_runs():
    """Runs that will be trained now."""
    trainings = ("train_run", "train_run_warm")  # a module's rules may have a prefix
    jobs = workflow.dag.needrun_jobs()
    return {job.wildcards.run for job in jobs if job.rule.name.endswith(trainings)}


def starting_models():
    """Models that will be sampled from, or whose critics will be judged, now, on GPUs."""
    others = (*TRAININGS, "build_corpus")
    jobs = (job for job in workflow.dag.needrun_jobs() if job.resources.get("gpu", 0))
    return {engine_model(job.wildcards) for job in jobs if not job.rule.name.endswith(others)}


def made(path):
    """Whether this is, or lies below, what was asked for; not all targets make all results."""
    return any(file.startswith(placed(path)) for job in workflow.dag.jobs for file in job.output)


onstart:
    try:
        require_gpus(workflow, elsewhere=CONFIG.resources.ray_address is not None)
        check_runs(CONFIG, starting_runs())
        check_sampling(CONFIG, starting_models())
    except UserError as error:
        raise WorkflowError(str(error))
    stop_jobs_on_signals()
    if workflow.is_main_process:
        from criticflow.commands.live import join_display  # needed where a workflow runs, only

        join_display(workflow.logger_manager.plugin_handlers, CONFIG, Path(placed("")))
    print(
        f"criticflow: {len(CONFIG.runs)} runs ({', '.join(CONFIG.runs)}), "
        f"{len(CONFIG.run_seeds())} trainings with their seeds, on the {CONFIG.resources.device}.\n"
        "  Results appear in results/, one log per job in logs/. Ctrl-C stops everything; "
        "the same command goes on from there.",
        file=sys.stderr,
    )
    if IMPORTS.files:
        print(f"criticflow: {len(IMPORTS.files)} of them were imported.", file=sys.stderr)
    for note in IMPORTS.notes:
        print(f"criticflow: {note}.", file=sys.stderr)
    for run, seed in CONFIG.run_seeds():
        if other := living_owner(Path(placed(f"results/checkpoints/{run}/seed{seed}"))):
            print(
                f"criticflow: {other} still trains {run}, seed {seed}. A new job for it waits until "
                f"then, with all it asked for; {other.how_to_stop} ends the old one, and the new one "
                "goes on from its last checkpoint.",
                file=sys.stderr,
            )


onsuccess:
    places = {
        "Report": "results/report.html",
        "figures": "results/summary.json",
        "run by run": "results/runs/",
    }
    listed = ", ".join(f"{what}: {placed(path)}" for what, path in places.items() if made(path))
    print(f"criticflow: done. {listed}".rstrip(" ") + ("." if listed else ""), file=sys.stderr)


onerror:
    failed = failed_logs(log)
    where = "".join(f"\n  log of the failed job: {path}" for path in failed)
    print(
        f"criticflow: stopped.{where}\n"
        "  What is finished stays valid: after mending the cause, the same command goes on from there.",
        file=sys.stderr,
    )
