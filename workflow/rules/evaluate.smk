"""Base models and trained actors on held-out problems, critics on what the actors wrote there."""


rule evaluate_base:
    input:
        model=lambda wildcards: built_model(wildcards.model),
        test="results/data/{task}/test.parquet",
        corpus=lambda wildcards: corpus(wildcards.task),
    output:
        summary="results/eval/base/{model}/{task}/summary.json",
        samples="results/eval/base/{model}/{task}/samples.parquet",
    log:
        "logs/evaluate_base/{model}/{task}.log",
    benchmark:
        "results/benchmarks/evaluate_base/{model}/{task}.tsv"
    threads: ENGINE_THREADS
    resources:
        gpu=min(1, CONFIG.resources.gpu),
        mem_mb=32000,
        cpus_per_gpu=8,
        nodes=1,
        runtime=120,
    params:
        code=lambda wildcards: code("evaluate_model.py", task_module(wildcards), *VLLM_PLUGIN),
        model_path=lambda wildcards: model_path(wildcards.model),
        model=lambda wildcards: settings(CONFIG.models[wildcards.model]),
        task=lambda wildcards: settings(CONFIG.tasks[wildcards.task]),
        who=lambda wildcards: base_identity(wildcards.model, wildcards.task),
        evaluate=settings(CONFIG.evaluate),
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
    message:
        "Evaluate {wildcards.model} on {wildcards.task}"
    script:
        "../scripts/evaluate_model.py"


use rule evaluate_base as evaluate_run with:
    input:
        model="results/runs/{run}/seed{seed}/actor",
        test=lambda wildcards: f"results/data/{CONFIG.runs[wildcards.run].task}/test.parquet",
        corpus=lambda wildcards: corpus(CONFIG.runs[wildcards.run].task),
    output:
        summary="results/eval/runs/{run}/seed{seed}/summary.json",
        samples="results/eval/runs/{run}/seed{seed}/samples.parquet",
    log:
        "logs/evaluate_run/{run}/seed{seed}.log",
    benchmark:
        "results/benchmarks/evaluate_run/{run}/seed{seed}.tsv"
    params:
        code=lambda wildcards: code(
            "evaluate_model.py", task_module(CONFIG.runs[wildcards.run]), *VLLM_PLUGIN
        ),
        model_path=lambda wildcards, input: input.model,
        model=lambda wildcards: settings(CONFIG.models[CONFIG.runs[wildcards.run].model]),
        task=lambda wildcards: settings(CONFIG.tasks[CONFIG.runs[wildcards.run].task]),
        who=lambda wildcards: run_identity(wildcards.run, wildcards.seed),
    message:
        "Evaluate {wildcards.run}, seed {wildcards.seed}"


rule evaluate_critic:
    input:
        critic="results/runs/{run}/seed{seed}/critic",
        samples="results/eval/runs/{run}/seed{seed}/samples.parquet",
    output:
        summary="results/eval/critics/{run}/seed{seed}/summary.json",
        responses="results/eval/critics/{run}/seed{seed}/responses.parquet",
        plot="results/eval/critics/{run}/seed{seed}/critic.png",
    log:
        "logs/evaluate_critic/{run}/seed{seed}.log",
    benchmark:
        "results/benchmarks/evaluate_critic/{run}/seed{seed}.tsv"
    threads: 1
    resources:
        gpu=min(1, CONFIG.resources.gpu),
        mem_mb=32000,
        cpus_per_gpu=8,
        nodes=1,
        runtime=120,
    params:
        code=code("evaluate_critic.py"),
        model=lambda wildcards: settings(CONFIG.models[CONFIG.runs[wildcards.run].model]),
        gamma=lambda wildcards: CONFIG.runs[wildcards.run].train.gamma,
        lam=lambda wildcards: gae_lambda(CONFIG.runs[wildcards.run]),
        evaluate=settings(CONFIG.evaluate),
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
    message:
        "Evaluate the critic of {wildcards.run}, seed {wildcards.seed}"
    script:
        "../scripts/evaluate_critic.py"


rule summarise:
    input:
        base=base_evaluations(),
        runs=run_evaluations(),
    output:
        summary="results/summary.json",
        table="results/summary.md",
    log:
        "logs/summarise.log",
    benchmark:
        "results/benchmarks/summarise.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("summarise.py"),
        evaluate=settings(CONFIG.evaluate),
    message:
        "Compare all models with their base"
    script:
        "../scripts/summarise.py"


rule compare_arms:
    input:
        samples=per_training("results/eval/runs", "samples.parquet"),
        metrics=trained_runs(),
        actors=converted("actor"),
        critics=converted("critic"),
    output:
        contrasts="results/contrasts.json",
        arms="results/arms.json",
        savings="results/savings.json",
        speed="results/speed.json",
    log:
        "logs/compare_arms.log",
    benchmark:
        "results/benchmarks/compare_arms.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("compare_arms.py"),
        compared=declared(CONFIG.contrasts, CONFIG.runs),
        smallest_effect=CONFIG.smallest_effect,
        threshold=CONFIG.validation_threshold,
    message:
        "Compare the arms over seeds and problems"
    script:
        "../scripts/compare_arms.py"
