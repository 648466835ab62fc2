"""Runs that were trained elsewhere: is what is trained here made from the same?"""


rule compare_with_imports:
    input:
        model=lambda wildcards: built_model(wildcards.model),
        data=expand("results/data/{{task}}/{split}.parquet", split=["train", "val"]),
        records=imported_records,
    output:
        same="results/imported/{model}/{task}.json",
    log:
        "logs/compare_with_imports/{model}/{task}.log",
    benchmark:
        "results/benchmarks/compare_with_imports/{model}/{task}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("compare_with_imports.py"),
        model_path=lambda wildcards: model_path(wildcards.model),
        revision=lambda wildcards: CONFIG.models[wildcards.model].revision,
        filtered=CONFIG.probe.filter is not None,
    message:
        "Compare {wildcards.model} and {wildcards.task} with what the imported runs were made from"
    script:
        "../scripts/compare_with_imports.py"
