"""What each run of a study is, in a line: for the first page of its report."""

from __future__ import annotations

from criticflow.config import Config, Run


def describe_runs(config: Config) -> dict[str, str]:
    """A sentence for every run, from its resolved settings."""
    return {name: describe(run) for name, run in config.runs.items()}


def describe(run: Run) -> str:
    """Algorithm, task and model; then what is special about critic and rewards."""
    words = [f"{run.algorithm.upper()} on {run.task} with {run.model}"]
    critic, mask = run.critic, run.reward_mask
    if run.algorithm == "ppo":
        if critic.constant is not None:
            origin = f"the critic is a constant, {critic.constant:g}"
        elif critic.oracle:
            origin = f"values are means of {critic.oracle.continuations} continuations (oracle)"
        elif critic.from_run:
            origin = f"critic from {critic.from_run}"
        elif critic.pretrained:
            origin = f"critic pretrained as {critic.pretrained}"
        elif critic.path:
            origin = f"critic from {critic.path}"
        else:
            origin = "the critic starts afresh"
        frozen = ", frozen" if critic.freeze and critic.is_model else ""
        shuffled = ", its values exchanged between trajectories" if critic.shuffle else ""
        words.append(f"{origin}{frozen}{shuffled}")
    if mask.ratio:
        rescaled = ", the others rescaled" if mask.rescale else ""
        words.append(f"{100 * mask.ratio:g} % of the rewards masked{rescaled}")
    if run.random_reward is not None:
        words.append(f"random rewards, 1 with probability {run.random_reward:g}")
    return "; ".join(words)
