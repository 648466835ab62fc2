"""Critics that are fitted offline: responses with their returns, then the fit."""


rule sample_returns:
    input:
        unpack(returns_inputs),
    output:
        samples="results/returns/{critic}/seed{seed}/samples.parquet",
    log:
        "logs/sample_returns/{critic}/seed{seed}.log",
    benchmark:
        "results/benchmarks/sample_returns/{critic}/seed{seed}.tsv"
    wildcard_constraints:
        critic=only(CONFIG.critics),
    threads: ENGINE_THREADS
    resources:
        **ENGINE,
        mem_mb=engine_memory,
        runtime=120,
    params:
        code=lambda wildcards: code(
            "sample_returns.py", task_module(CONFIG.critics[wildcards.critic]), *VLLM_PLUGIN
        ),
        model_path=lambda wildcards: (
            placed(sampled_actor(wildcards.critic, wildcards.seed))
            if CONFIG.critics[wildcards.critic].actor
            else model_path(CONFIG.critics[wildcards.critic].model)
        ),
        model=lambda wildcards: settings(CONFIG.models[CONFIG.critics[wildcards.critic].model]),
        task=lambda wildcards: settings(CONFIG.tasks[CONFIG.critics[wildcards.critic].task]),
        critic=lambda wildcards: sampling_settings(wildcards.critic),
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
    message:
        "Sample responses for the critic {wildcards.critic}, seed {wildcards.seed}"
    script:
        "../scripts/sample_returns.py"


rule pretrain_critic:
    input:
        samples="results/returns/{critic}/seed{seed}/samples.parquet",
        model=lambda wildcards: built_model(CONFIG.critics[wildcards.critic].model),
    output:
        model=directory("results/critics/{critic}/seed{seed}"),
    log:
        "logs/pretrain_critic/{critic}/seed{seed}.log",
    benchmark:
        "results/benchmarks/pretrain_critic/{critic}/seed{seed}.tsv"
    wildcard_constraints:
        critic=only(CONFIG.critics),
    threads: ENGINE_THREADS
    resources:
        gpu=CONFIG.resources.gpu,
        total_gpus=CONFIG.resources.gpu,
        cpus_per_gpu=GPU_CPUS,
        nodes=1,
        mem_mb=lambda wildcards: fit_memory(CONFIG.critics[wildcards.critic].model),
        runtime=1440,
    params:
        code=code("pretrain_critic.py", "criticflow.verl_plugin.plugin"),
        critic=lambda wildcards: settings(CONFIG.critics[wildcards.critic]),
        model=lambda wildcards: settings(CONFIG.models[CONFIG.critics[wildcards.critic].model]),
        model_path=lambda wildcards: model_path(CONFIG.critics[wildcards.critic].model),
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
        # Not an output: a retry goes on from it.
        checkpoints=placed("results/checkpoints/critics/{critic}/seed{seed}"),
    message:
        "Pretrain the critic {wildcards.critic}, seed {wildcards.seed}"
    script:
        "../scripts/pretrain_critic.py"
