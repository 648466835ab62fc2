"""PPO (or GRPO) on stock verl: one rule, which the warm runs inherit."""


rule train_run:
    input:
        unpack(train_inputs),
    output:
        config="results/runs/{run}/seed{seed}/config.yaml",
        metrics="results/runs/{run}/seed{seed}/metrics.parquet",
        provenance="results/runs/{run}/seed{seed}/provenance.json",
    log:
        "logs/train_run/{run}/seed{seed}.log",
    benchmark:
        "results/benchmarks/train_run/{run}/seed{seed}.tsv"
    wildcard_constraints:
        run=only([name for name in CONFIG.runs if origin_dir(name, 0) is None]),
    threads: ENGINE_THREADS
    resources:
        gpu=training_devices("gpu"),
        gres=training_devices("gres"),
        tasks=training_devices("tasks"),
        nodes=training_devices("nodes"),
        total_gpus=training_devices("total_gpus"),
        cpus_per_gpu=GPU_CPUS,
        mem_mb=lambda wildcards: training_memory(wildcards.run),
        runtime=1440,
    params:
        code=lambda wildcards: training_code(CONFIG.tasks[CONFIG.runs[wildcards.run].task].kind),
        settings=lambda wildcards: run_settings(wildcards.run),
        model_path=lambda wildcards: model_path(CONFIG.runs[wildcards.run].model),
        data_dir=lambda wildcards: placed(data_dir(wildcards.run)),
        # Not an output: a retry resumes from it.
        checkpoints=placed("results/checkpoints/{run}/seed{seed}"),
    message:
        "Train {wildcards.run}, seed {wildcards.seed}"
    script:
        "../scripts/train_run.py"


use rule train_run as train_run_warm with:
    input:
        unpack(train_inputs),
        critic=lambda wildcards: origin_dir(wildcards.run, wildcards.seed),
    wildcard_constraints:
        run=only([name for name in CONFIG.runs if origin_dir(name, 0) is not None]),
