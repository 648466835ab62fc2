"""One self-contained page that answers the study's question, and Snakemake's own report beside it."""


rule report_page:
    input:
        summary="results/summary.json",
        contrasts="results/contrasts.json",
        arms="results/arms.json",
        savings="results/savings.json",
        speed="results/speed.json",
        tempered="results/tempered.json",
        critics="results/critics.json",
        metrics=trained_runs(),
        evaluations=critic_evaluations("summary.json"),
        responses=critic_evaluations("responses.parquet"),
        judged=judged_files("responses.parquet"),
        probes=probe_summaries(),
        samples=[path.replace("summary.json", "samples.parquet") for path in probe_summaries()],
        provenance=provenance_files(),
        imported=INDEX if IMPORTS.files else [],
    output:
        page=report(
            "results/report.html",
            caption="../report/page.rst",
            category="Report",
            labels={"content": "the study"},
        ),
        figures=directory("results/report/figures"),
    log:
        "logs/report_page.log",
    benchmark:
        "results/benchmarks/report_page.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("report_page.py", data="report/templates/*.jinja"),
        study=study_words(),
    message:
        "Write results/report.html"
    script:
        "../scripts/report_page.py"


rule snakemake_report:
    input:
        page="results/report.html",
        captions=captions(),
    output:
        report="results/report/snakemake.html",
    log:
        "logs/snakemake_report.log",
    benchmark:
        "results/benchmarks/snakemake_report.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("snakemake_report.py"),
        snakefile=os.path.relpath(workflow.main_snakefile),
    message:
        "Render Snakemake's own report"
    script:
        "../scripts/snakemake_report.py"
