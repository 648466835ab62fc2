"""Problems of a task, put into words, split by problem, in verl's schema."""


rule prepare_data:
    input:
        files=task_files,
    output:
        train="results/data/{task}/train.parquet",
        val="results/data/{task}/val.parquet",
        test="results/data/{task}/test.parquet",
        manifest="results/data/{task}/manifest.json",
    log:
        "logs/prepare_data/{task}.log",
    benchmark:
        "results/benchmarks/prepare_data/{task}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=lambda wildcards: code("prepare_data.py", task_module(wildcards)),
        task=lambda wildcards: settings(CONFIG.tasks[wildcards.task]),
    message:
        "Prepare the problems of {wildcards.task}"
    script:
        "../scripts/prepare_data.py"
