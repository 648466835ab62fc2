"""Is there something to learn for this model on this task?"""


rule probe_signal:
    input:
        model=lambda wildcards: built_model(wildcards.model),
        train="results/data/{task}/train.parquet",
        sources=lambda wildcards: sources("probe_signal.py", task_module(wildcards), *VLLM_PLUGIN),
    output:
        summary="results/probe/{model}/{task}/summary.json",
        samples="results/probe/{model}/{task}/samples.parquet",
        plot=report(
            "results/probe/{model}/{task}/probe.png",
            caption="../report/probe.rst",
            category="Probe",
            labels={"model": "{model}", "task": "{task}"},
        ),
    log:
        "logs/probe_signal/{model}/{task}.log",
    benchmark:
        "benchmarks/probe_signal/{model}/{task}.tsv"
    threads: ENGINE_THREADS
    resources:
        gpu=min(1, CONFIG.resources.gpu),
        mem_mb=8000,
        runtime=120,
    params:
        model_path=lambda wildcards: model_path(wildcards.model),
        model=lambda wildcards: settings(CONFIG.models[wildcards.model]),
        task=lambda wildcards: settings(CONFIG.tasks[wildcards.task]),
        probe=settings(CONFIG.probe),
        resources=settings(CONFIG.resources),
    message:
        "Probe {wildcards.model} on {wildcards.task}: is there something to learn?"
    script:
        "../scripts/probe_signal.py"
