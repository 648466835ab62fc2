"""Is there something to learn for this model on this task?"""


rule probe_signal:
    input:
        model=lambda wildcards: built_model(wildcards.model),
        train="results/data/{task}/train.parquet",
        same=compared_with_imports,
        corpus=lambda wildcards: corpus(wildcards.task),
    output:
        FILTERED,
        summary="results/probe/{model}/{task}/summary.json",
        samples="results/probe/{model}/{task}/samples.parquet",
        plot="results/probe/{model}/{task}/probe.png",
    log:
        "logs/probe_signal/{model}/{task}.log",
    benchmark:
        "results/benchmarks/probe_signal/{model}/{task}.tsv"
    threads: ENGINE_THREADS
    resources:
        **ENGINE,
        mem_mb=engine_memory,
        runtime=120,
    params:
        code=lambda wildcards: code("probe_signal.py", task_module(wildcards), *VLLM_PLUGIN),
        model_path=lambda wildcards: model_path(wildcards.model),
        model=lambda wildcards: settings(CONFIG.models[wildcards.model]),
        task=lambda wildcards: settings(CONFIG.tasks[wildcards.task]),
        probe=settings(CONFIG.probe),
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
    message:
        "Probe {wildcards.model} on {wildcards.task}: is there something to learn?"
    script:
        "../scripts/probe_signal.py"


rule filter_training_set:
    input:
        train=FILTERED,
        val="results/data/{task}/val.parquet",
    output:
        train="results/filtered/{model}/{task}/train.parquet",
        val="results/filtered/{model}/{task}/val.parquet",
    log:
        "logs/filter_training_set/{model}/{task}.log",
    benchmark:
        "results/benchmarks/filter_training_set/{model}/{task}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
    message:
        "Train {wildcards.model} on the problems of {wildcards.task} that the probe kept"
    shell:
        "cp {input.train} {output.train} 2> {log} && cp {input.val} {output.val} 2>> {log}"
