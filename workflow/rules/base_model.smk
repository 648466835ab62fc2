"""A small Qwen3 made by the workflow, fine-tuned until it is partly competent."""


rule build_base_model:
    input:
        train=lambda wildcards: (
            f"results/data/{CONFIG.models[wildcards.model].build.task}/train.parquet"
        ),
        corpus=lambda wildcards: corpus(CONFIG.models[wildcards.model].build.task),
    output:
        model=directory("results/models/{model}"),
    log:
        "logs/build_base_model/{model}.log",
    benchmark:
        "results/benchmarks/build_base_model/{model}.tsv"
    wildcard_constraints:
        model=only([name for name, model in CONFIG.models.items() if model.build]),
    threads: CPUS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code("build_base_model.py"),
        build=lambda wildcards: settings(CONFIG.models[wildcards.model].build),
        task=lambda wildcards: dialogue_settings(CONFIG.models[wildcards.model].build.task),
    message:
        "Make the base model {wildcards.model}"
    script:
        "../scripts/build_base_model.py"
