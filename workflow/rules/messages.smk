"""What a person is told when the workflow starts, ends and fails."""

from criticflow.processes import stop_jobs_on_signals
from criticflow.workdir import failed_logs


onstart:
    stop_jobs_on_signals()
    print(
        f"criticflow: {len(CONFIG.runs)} runs ({', '.join(CONFIG.runs)}), "
        f"seeds {', '.join(map(str, CONFIG.seeds))}, on the {CONFIG.resources.device}.\n"
        "  Results appear in results/, one log per job in logs/. Ctrl-C stops everything; "
        "the same command goes on from there.",
        file=sys.stderr,
    )


onsuccess:
    print(
        "criticflow: done. Report: results/report.html, figures: results/summary.json, "
        "run by run: results/runs/.",
        file=sys.stderr,
    )


onerror:
    failed = failed_logs(log)
    where = "".join(f"\n  log of the failed job: {path}" for path in failed)
    print(
        f"criticflow: stopped.{where}\n"
        "  What is finished stays valid: after mending the cause, the same command goes on from there.",
        file=sys.stderr,
    )
