"""Sample responses to training problems, with their returns, for a critic to be fitted to."""

from pathlib import Path

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    from criticflow import config
    from criticflow.stages import returns
    from criticflow.stages.engine_job import engine_resources

    params = snakemake.params
    probe = snakemake.input.get("probe")
    job = returns.Sampling(
        params.model_path,
        config.Model.model_validate(params.model),
        snakemake.input.train,
        config.Task.model_validate(params.task),
        config.PretrainedCritic.model_validate(params.critic),
        int(snakemake.wildcards.seed),
        engine_resources(snakemake),
        Path(probe) if probe else None,
    )
    returns.sample_returns(job, Path(snakemake.output.samples))


if __name__ == "__main__":  # vLLM on a GPU imports the program again in its own processes
    run_stage(snakemake, main)
