"""What values really are, and how near every critic comes to them."""


rule truth_of_base:
    input:
        model=lambda wildcards: built_model(wildcards.model),
        test="results/data/{task}/test.parquet",
        corpus=lambda wildcards: corpus(wildcards.task),
    output:
        **further_files("results/truth/{model}/{task}"),
        states="results/truth/{model}/{task}/states.parquet",
        responses="results/truth/{model}/{task}/responses.parquet",
        continuations="results/truth/{model}/{task}/continuations.parquet",
        summary="results/truth/{model}/{task}/summary.json",
    log:
        "logs/truth_of_base/{model}/{task}.log",
    benchmark:
        "results/benchmarks/truth_of_base/{model}/{task}.tsv"
    threads: ENGINE_THREADS
    resources:
        **ENGINE,
        mem_mb=engine_memory,
        runtime=120,
    params:
        code=lambda wildcards: code("value_truth.py", task_module(wildcards), *VLLM_PLUGIN),
        model_path=lambda wildcards: model_path(wildcards.model),
        model=lambda wildcards: settings(CONFIG.models[wildcards.model]),
        task=lambda wildcards: settings(CONFIG.tasks[wildcards.task]),
        truth=truth_settings(),
        temperature=CONFIG.truth.temperature,
        gamma=1.0,
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
        actor=lambda wildcards: actor_identity(wildcards.model, None, None, wildcards.task),
    message:
        f"True values of {{wildcards.model}} on {{wildcards.task}}: {truth_cost()}"
    script:
        "../scripts/value_truth.py"


use rule truth_of_base as truth_of_run with:
    input:
        model=lambda wildcards: actor_dir(wildcards.run, wildcards.seed, wildcards.step),
        test="results/data/{task}/test.parquet",
        corpus=lambda wildcards: corpus(wildcards.task),
    output:
        **further_files("results/truth/{run}/seed{seed}/step{step}/{task}"),
        states="results/truth/{run}/seed{seed}/step{step}/{task}/states.parquet",
        responses="results/truth/{run}/seed{seed}/step{step}/{task}/responses.parquet",
        continuations="results/truth/{run}/seed{seed}/step{step}/{task}/continuations.parquet",
        summary="results/truth/{run}/seed{seed}/step{step}/{task}/summary.json",
    log:
        "logs/truth_of_run/{run}/seed{seed}/step{step}/{task}.log",
    benchmark:
        "results/benchmarks/truth_of_run/{run}/seed{seed}/step{step}/{task}.tsv"
    params:
        code=lambda wildcards: code("value_truth.py", task_module(wildcards), *VLLM_PLUGIN),
        model_path=lambda wildcards, input: input.model,
        model=lambda wildcards: settings(CONFIG.models[CONFIG.runs[wildcards.run].model]),
        temperature=lambda wildcards: CONFIG.runs[wildcards.run].train.temperature,
        gamma=lambda wildcards: CONFIG.runs[wildcards.run].train.gamma,
        actor=lambda wildcards: actor_identity(
            wildcards.run, wildcards.seed, wildcards.step, wildcards.task
        ),
    message:
        "True values of {wildcards.run}, seed {wildcards.seed}, step {wildcards.step}: "
        f"{truth_cost()}"


rule truth_on_old_states:
    input:
        model=lambda wildcards: actor_dir(wildcards.run, wildcards.seed, wildcards.step),
        test="results/data/{task}/test.parquet",
        corpus=lambda wildcards: corpus(wildcards.task),
        states="results/truth/{run}/seed{seed}/step{old}/{task}/states.parquet",
        responses="results/truth/{run}/seed{seed}/step{old}/{task}/responses.parquet",
        continuations="results/truth/{run}/seed{seed}/step{old}/{task}/continuations.parquet",
        summary="results/truth/{run}/seed{seed}/step{old}/{task}/summary.json",
    output:
        states="results/truth/{run}/seed{seed}/step{step}/on_step{old}/{task}/states.parquet",
        continuations="results/truth/{run}/seed{seed}/step{step}/on_step{old}/{task}/continuations.parquet",
        summary="results/truth/{run}/seed{seed}/step{step}/on_step{old}/{task}/summary.json",
    log:
        "logs/truth_on_old_states/{run}/seed{seed}/step{step}/on_step{old}/{task}.log",
    benchmark:
        "results/benchmarks/truth_on_old_states/{run}/seed{seed}/step{step}/on_step{old}/{task}.tsv"
    wildcard_constraints:
        old=r"\d+",
    threads: ENGINE_THREADS
    resources:
        **ENGINE,
        mem_mb=engine_memory,
        runtime=120,
    params:
        code=lambda wildcards: code("truth_on_states.py", task_module(wildcards), *VLLM_PLUGIN),
        model_path=lambda wildcards, input: input.model,
        model=lambda wildcards: settings(CONFIG.models[CONFIG.runs[wildcards.run].model]),
        task=lambda wildcards: settings(CONFIG.tasks[wildcards.task]),
        # Which states there are is in the inputs.
        truth={name: truth_settings()[name] for name in ("continuations", "seed")},
        temperature=lambda wildcards: CONFIG.runs[wildcards.run].train.temperature,
        gamma=lambda wildcards: CONFIG.runs[wildcards.run].train.gamma,
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
        actor=lambda wildcards: actor_identity(
            wildcards.run, wildcards.seed, wildcards.step, wildcards.task
        ),
    message:
        "True values of {wildcards.run}, seed {wildcards.seed}, step {wildcards.step}, on the "
        f"states of step {{wildcards.old}}: {continuations_cost()}"
    script:
        "../scripts/truth_on_states.py"


rule token_gradients_of_base:
    input:
        model=lambda wildcards: built_model(wildcards.model),
        tokens="results/truth/{model}/{task}/tokens.parquet",
        responses="results/truth/{model}/{task}/responses.parquet",
    output:
        products="results/truth/{model}/{task}/token_products.npz",
    log:
        "logs/token_gradients_of_base/{model}/{task}.log",
    benchmark:
        "results/benchmarks/token_gradients_of_base/{model}/{task}.tsv"
    threads: ENGINE_THREADS
    resources:
        **ENGINE,
        mem_mb=32000,
        runtime=120,
    params:
        code=code("token_gradients.py"),
        model_path=lambda wildcards: model_path(wildcards.model),
        model=lambda wildcards: settings(CONFIG.models[wildcards.model]),
        temperature=CONFIG.truth.temperature,
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
    message:
        "Policy gradients of {wildcards.model} on {wildcards.task}, token by token"
    script:
        "../scripts/token_gradients.py"


use rule token_gradients_of_base as token_gradients_of_run with:
    input:
        model=lambda wildcards: actor_dir(wildcards.run, wildcards.seed, wildcards.step),
        tokens="results/truth/{run}/seed{seed}/step{step}/{task}/tokens.parquet",
        responses="results/truth/{run}/seed{seed}/step{step}/{task}/responses.parquet",
    output:
        products="results/truth/{run}/seed{seed}/step{step}/{task}/token_products.npz",
    log:
        "logs/token_gradients_of_run/{run}/seed{seed}/step{step}/{task}.log",
    benchmark:
        "results/benchmarks/token_gradients_of_run/{run}/seed{seed}/step{step}/{task}.tsv"
    params:
        model_path=lambda wildcards, input: input.model,
        model=lambda wildcards: settings(CONFIG.models[CONFIG.runs[wildcards.run].model]),
        temperature=lambda wildcards: CONFIG.runs[wildcards.run].train.temperature,
    message:
        "Policy gradients of {wildcards.run}, seed {wildcards.seed}, step {wildcards.step}, "
        "token by token"


rule judge_critic:
    input:
        critic=lambda wildcards: critic_dir(wildcards.critic),
        truths=lambda wildcards: truth_files(judged_on(wildcards.critic)),
        actors=lambda wildcards: moved_actors_dirs(wildcards.critic),
        drifted=lambda wildcards: drifted_files(wildcards.critic),
    output:
        values="results/judged/{critic}/values.parquet",
        responses="results/judged/{critic}/responses.parquet",
        rows="results/judged/{critic}/rows.json",
    log:
        "logs/judge_critic/{critic}.log",
    benchmark:
        "results/benchmarks/judge_critic/{critic}.tsv"
    wildcard_constraints:
        critic=rf"{RUN_PATTERN}/seed-?\d+(/step\d+)?",
    threads: 1
    resources:
        **ENGINE,
        mem_mb=critic_memory,
        runtime=120,
    params:
        code=code("judge_critic.py"),
        folders=lambda wildcards: list(map(placed, judged_on(wildcards.critic))),
        model=lambda wildcards: settings(critic_model(wildcards.critic)),
        critic=lambda wildcards: critic_identity(wildcards.critic),
        gamma=lambda wildcards: critic_gamma(wildcards.critic),
        lam=lambda wildcards: critic_lambda(wildcards.critic),
        masked=lambda wildcards: masked_share(wildcards.critic),
        gradients=CONFIG.truth.gradients,
        moved=lambda wildcards: moved_actors(wildcards.critic),
        # The only one of the resources that changes the output.
        device=CONFIG.resources.device,
    message:
        "Values of {wildcards.critic} against the truth"
    script:
        "../scripts/judge_critic.py"


rule critics_table:
    input:
        rows=judged_files("rows.json"),
        truths=truth_files(truth_dirs()),
    output:
        table="results/critics.json",
    log:
        "logs/critics_table.log",
    benchmark:
        "results/benchmarks/critics_table.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("critics_table.py"),
        folders=list(map(placed, truth_dirs())),
        gradients=CONFIG.truth.gradients,
    message:
        "Compare all critics with the truth"
    script:
        "../scripts/critics_table.py"
