"""One self-contained HTML page: results, curves, critics, probe, workflow graph, provenance."""


rule report_parts:
    input:
        summary="results/summary.json",
        metrics=trained_runs(),
        critics=critic_evaluations("summary.json"),
        probes=probe_summaries(),
        provenance=provenance_files(),
    output:
        results=report(
            "results/report/results.html",
            caption="../report/results.rst",
            category="Results",
            labels={"content": "results table"},
        ),
        curves=report(
            "results/report/curves.png",
            caption="../report/curves.rst",
            category="Training",
            labels={"content": "learning curves"},
        ),
        critics=report(
            "results/report/critics.html",
            caption="../report/critics.rst",
            category="Critics",
            labels={"content": "all critics"},
        ),
        probe=report(
            "results/report/probe.html",
            caption="../report/examples.rst",
            category="Probe",
            labels={"content": "figures and responses"},
        ),
        provenance=report(
            "results/report/provenance.html",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"content": "versions, inputs, machine"},
        ),
    log:
        "logs/report_parts.log",
    benchmark:
        "results/benchmarks/report_parts.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("report_parts.py", data="report/*.jinja"),
    message:
        "Make tables and learning curves"
    script:
        "../scripts/report_parts.py"


rule render_report:
    input:
        parts=rules.report_parts.output,
        plots=[*probe_plots(), *critic_evaluations("critic.png")],
        captions=captions(),
    output:
        report="results/report.html",
    log:
        "logs/render_report.log",
    benchmark:
        "results/benchmarks/render_report.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("render_report.py"),
        snakefile=os.path.relpath(workflow.main_snakefile),
    message:
        "Render results/report.html"
    script:
        "../scripts/render_report.py"
