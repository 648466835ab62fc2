"""FSDP shards of a finished run to a HuggingFace directory."""


rule convert_checkpoint:
    input:
        # The shards are not declared to Snakemake; the run's metrics stand for them.
        metrics="results/runs/{run}/seed{seed}/metrics.parquet",
    output:
        model=directory("results/runs/{run}/seed{seed}/{kind}"),
    log:
        "logs/convert_checkpoint/{run}/seed{seed}/{kind}.log",
    benchmark:
        "results/benchmarks/convert_checkpoint/{run}/seed{seed}/{kind}.tsv"
    wildcard_constraints:
        kind="actor|critic",
    threads: 1
    resources:
        # The weights of all ranks, and the merged model.
        mem_mb=32000,
        runtime=60,
    params:
        code=code("convert_checkpoint.py"),
        checkpoints=placed("results/checkpoints/{run}/seed{seed}"),
        # Snakemake does not compare params that are functions of the output, so nothing is
        # converted again when these change.
        # The first two are for the critic's card.
        run=lambda wildcards, output: settings(CONFIG.runs[wildcards.run]),
        model_path=lambda wildcards, output: model_path(CONFIG.runs[wildcards.run].model),
        kept=lambda wildcards, output: CONFIG.runs[wildcards.run].train.keep_steps,
        freed=lambda wildcards, output: CONFIG.resources.free_converted,
    message:
        "Convert the {wildcards.kind} of {wildcards.run}, seed {wildcards.seed}"
    script:
        "../scripts/convert_checkpoint.py"


use rule convert_checkpoint as convert_step with:
    output:
        model=directory("results/runs/{run}/seed{seed}/step{step}/{kind}"),
    log:
        "logs/convert_step/{run}/seed{seed}/step{step}/{kind}.log",
    benchmark:
        "results/benchmarks/convert_step/{run}/seed{seed}/step{step}/{kind}.tsv"
    message:
        "Convert the {wildcards.kind} of {wildcards.run}, seed {wildcards.seed}, step {wildcards.step}"
