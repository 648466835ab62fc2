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
        **ENGINE,
        mem_mb=engine_memory,
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


use rule evaluate_base as evaluate_tempered with:
    input:
        model=lambda wildcards: built_model(CONFIG.runs[wildcards.run].model),
        test=lambda wildcards: f"results/data/{CONFIG.runs[wildcards.run].task}/test.parquet",
        corpus=lambda wildcards: corpus(CONFIG.runs[wildcards.run].task),
        actor="results/eval/runs/{run}/seed{seed}/summary.json",
        curve=lambda wildcards: entropy_curve(wildcards.run),
    output:
        summary="results/eval/tempered/{run}/seed{seed}/summary.json",
        samples="results/eval/tempered/{run}/seed{seed}/samples.parquet",
    log:
        "logs/evaluate_tempered/{run}/seed{seed}.log",
    benchmark:
        "results/benchmarks/evaluate_tempered/{run}/seed{seed}.tsv"
    params:
        code=lambda wildcards: code(
            "evaluate_model.py", task_module(CONFIG.runs[wildcards.run]), *VLLM_PLUGIN
        ),
        model_path=lambda wildcards: model_path(CONFIG.runs[wildcards.run].model),
        model=lambda wildcards: settings(CONFIG.models[CONFIG.runs[wildcards.run].model]),
        task=lambda wildcards: settings(CONFIG.tasks[CONFIG.runs[wildcards.run].task]),
        who=lambda wildcards: base_identity(
            CONFIG.runs[wildcards.run].model, CONFIG.runs[wildcards.run].task
        ),
    message:
        "Evaluate the base model with the entropy of {wildcards.run}, seed {wildcards.seed}"


rule entropy_curve:
    input:
        model=lambda wildcards: built_model(wildcards.model),
        problems="results/data/{task}/val.parquet",
        corpus=lambda wildcards: corpus(wildcards.task),
    output:
        curve="results/eval/entropy/{model}/{task}/curve.parquet",
    log:
        "logs/entropy_curve/{model}/{task}.log",
    benchmark:
        "results/benchmarks/entropy_curve/{model}/{task}.tsv"
    threads: ENGINE_THREADS
    resources:
        **ENGINE,
        mem_mb=engine_memory,
        runtime=120,
    params:
        code=lambda wildcards: code("entropy_curve.py", task_module(wildcards), *VLLM_PLUGIN),
        model_path=lambda wildcards: model_path(wildcards.model),
        model=lambda wildcards: settings(CONFIG.models[wildcards.model]),
        task=lambda wildcards: settings(CONFIG.tasks[wildcards.task]),
        tempered=CONFIG.tempered.model_dump(mode="json", exclude={"actors"}),
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
    message:
        "Entropy of {wildcards.model} on {wildcards.task} by temperature"
    script:
        "../scripts/entropy_curve.py"


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
        **ENGINE,
        mem_mb=critic_memory,
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


rule compare_tempered:
    input:
        tempered=tempered_files("results/eval/tempered", "summary.json"),
        samples=tempered_files("results/eval/tempered", "samples.parquet"),
        actors=tempered_files("results/eval/runs", "summary.json"),
        responses=tempered_files("results/eval/runs", "samples.parquet"),
        bases=sorted(set(tempered_bases().values())),
    output:
        rows="results/tempered.json",
    log:
        "logs/compare_tempered.log",
    benchmark:
        "results/benchmarks/compare_tempered.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("compare_tempered.py"),
        bases={run: placed(samples) for run, samples in tempered_bases().items()},
        evaluate=settings(CONFIG.evaluate),
    message:
        "Compare the actors with their base models at the same entropy"
    script:
        "../scripts/compare_tempered.py"
