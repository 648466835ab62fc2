"""Input functions of the rules in critics.smk: who is judged, on whom. No rules here.

A critic is named `RUN/seedN` (its run's last step), `RUN/seedN/stepM` or `NAME/seedN` (pretrained),
an actor `MODEL/TASK` or `RUN/seedN/stepM/TASK`.
"""

import itertools


def truth_settings():
    """What an actor's truth depends on; which actors have one is not its concern."""
    return CONFIG.truth.model_dump(mode="json", exclude={"actors", "temperature"})


def truth_cost():
    """What a truth costs, before it is paid."""
    truth = CONFIG.truth
    states = truth.problems * len(truth.positions)
    count = states * truth.continuations
    return (
        f"{count:,} continuations ({truth.problems} problems x {len(truth.positions)} states x "
        f"{truth.continuations})"
    )


def with_truth(name):
    """Whether the truth of a model or run is to be measured."""
    return CONFIG.truth.actors == "all" or name in CONFIG.truth.actors


def actor_dir(run, seed, step):
    """Where the actor of one step is."""
    return step_dir(run, seed, step, "actor")


def step_dir(run, seed, step, kind):
    """Where an actor or critic of one step is; the last step's has no step in its name."""
    folder = f"results/runs/{run}/seed{seed}"
    return (
        f"{folder}/{kind}"
        if int(step) == CONFIG.runs[run].train.steps
        else (f"{folder}/step{step}/{kind}")
    )


def actor_identity(actor, seed, step, task):
    """Who an actor is, for summaries and rows."""
    return {
        "actor": actor,
        "actor_seed": None if seed is None else int(seed),
        "actor_step": None if step is None else int(step),
        "task": task,
    }


def trainings():
    """Every run with each of its seeds."""
    return list(itertools.product(CONFIG.runs, CONFIG.seeds))


def actors():
    """Every actor whose truth is measured: name, seed, step, task, base model."""
    bases = [(model, None, None, task, model) for model, task in base_pairs() if with_truth(model)]
    runs = [
        (name, seed, run.train.steps, run.task, run.model)
        for name, seed in trainings()
        if with_truth(name)
        for run in [CONFIG.runs[name]]
    ]
    return [*bases, *runs]


def truth_dir(name, seed, step, task, _):
    where = name if seed is None else f"{name}/seed{seed}/step{step}"
    return f"results/truth/{where}/{task}"


def truth_dirs():
    return [truth_dir(*actor) for actor in actors()]


def truth_files(folders):
    names = ("states.parquet", "continuations.parquet", "summary.json")
    return [f"{folder}/{name}" for folder in folders for name in names]


def split_critic(critic):
    """Name, seed and step of a critic; the step is None for a run's last and a pretrained one."""
    name, seed, *step = critic.split("/")
    return name, int(seed.removeprefix("seed")), int(step[0].removeprefix("step")) if step else None


def critic_dir(critic):
    """Where a critic is."""
    name, seed, step = split_critic(critic)
    return step_dir(name, seed, step or CONFIG.runs[name].train.steps, "critic")


def critic_model(critic):
    return CONFIG.models[CONFIG.runs[split_critic(critic)[0]].model]


def critic_identity(critic):
    """Who a critic is, for rows."""
    name, seed, step = split_critic(critic)
    steps = CONFIG.runs[name].train.steps
    return {"critic": name, "kind": "run", "critic_seed": seed, "critic_step": step or steps}


def critic_gamma(critic):
    return CONFIG.runs[split_critic(critic)[0]].train.gamma


def masked_share(critic):
    """Share of the rewards that was 0 while a critic learned, unrescaled."""
    run = CONFIG.runs[split_critic(critic)[0]]
    learned = not run.critic.freeze
    return run.reward_mask.ratio if learned and not run.reward_mask.rescale else 0.0


def judged_on(critic):
    """Truths that a critic is compared with: actors on its task, from its base model, of its seed.

    Another model's critic need not know the actor's tokens.
    """
    name, seed, _ = split_critic(critic)
    run = CONFIG.runs[name]
    return [
        truth_dir(*actor)
        for actor in actors()
        if actor[3:] == (run.task, run.model) and actor[1] in (None, seed)
    ]


def judged_critics():
    """Every critic that has an actor to be judged on."""
    named = [f"{run}/seed{seed}" for run, seed in trainings() if has_critic(run)]
    return [critic for critic in named if judged_on(critic)]
