"""Input functions of the rules in critics.smk: who is judged, on whom. No rules here.

A critic is named `RUN/seedN` (its run's last step), `RUN/seedN/stepM` or `NAME/seedN` (pretrained),
an actor `MODEL/TASK` or `RUN/seedN/stepM/TASK`.
"""

import functools

from criticflow.planning.imports import critic_folder, critic_seeds, measured


def truth_settings():
    """Settings that an actor's truth depends on: all but those that say which actors have one."""
    return measured(CONFIG)["truth"]


def continuations_cost():
    """How many continuations the states of an actor take."""
    truth = CONFIG.truth
    count = truth.problems * len(truth.positions) * truth.continuations
    return (
        f"{count:,} continuations ({truth.problems} problems x {len(truth.positions)} states x "
        f"{truth.continuations})"
    )


def truth_cost():
    """How many continuations a truth takes, for the message before it is measured."""
    truth = CONFIG.truth
    most = truth.problems * len(truth.positions) * truth.continuations * truth.pieces
    return (
        continuations_cost()
        + (f", up to {most:,} from next pieces" if most else "")
        + (
            f", {truth.continuations} from before each token of {truth.audited} responses"
            if truth.audited
            else ""
        )
    )


def further_files(folder):
    """Files of next pieces and of audited tokens in a truth's folder, where they are asked for."""
    asked = {"piece": CONFIG.truth.pieces, "token": CONFIG.truth.audited}
    names = [
        name for kind, on in asked.items() if on for name in (f"{kind}s", f"{kind}_continuations")
    ]
    return {name: f"{folder}/{name}.parquet" for name in names}


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


def compared_steps(run):
    """Steps of a run whose actor and critic are compared with the truth: the last, and others."""
    return sorted({CONFIG.runs[run].train.steps, *CONFIG.truth.steps.get(run, [])})


@functools.cache
def actors():
    """Every actor whose truth is measured: name, seed, step, task, base model."""
    bases = [
        (model, None, None, task, model)
        for model, task in base_pairs()
        if CONFIG.measures_truth(model)
    ]
    runs = [
        (name, seed, step, CONFIG.runs[name].task, CONFIG.runs[name].model)
        for name, seed in CONFIG.run_seeds()
        if CONFIG.measures_truth(name)
        for step in compared_steps(name)
    ]
    return [*bases, *runs]


@functools.cache
def actors_of(task, model, seed):
    """Those of one task and base model: the base itself, and runs with this seed."""
    return [actor for actor in actors() if actor[3:] == (task, model) and actor[1] in (None, seed)]


def truth_dir(name, seed, step, task, _):
    where = name if seed is None else f"{name}/seed{seed}/step{step}"
    return f"results/truth/{where}/{task}"


def truth_dirs():
    """Of an imported actor nothing, or a folder with what its truth says of references."""
    folders = []
    for name, seed, *rest in actors():
        folder = truth_dir(name, seed, *rest)
        known = f"{folder}/references.json"
        if seed is None or not IMPORTS.lacks(name, seed, known):
            folders.append(os.path.dirname(IMPORTS.place(known)))
    return folders


def truth_files(folders):
    names = ("states.parquet", "continuations.parquet", "responses.parquet", "summary.json")
    return [
        file
        for folder in folders
        for file in (
            [
                *(f"{folder}/{name}" for name in names),
                *further_files(folder).values(),
                *([f"{folder}/token_products.npz"] if CONFIG.truth.gradients else []),
            ]
            if folder.startswith("results/")
            else [f"{folder}/references.json"]
        )
    ]


def judged_files(file):
    """One file of every critic that is compared with the truth; an imported one has rows alone."""
    paths = {critic: f"results/judged/{critic}/{file}" for critic in judged_critics()}
    return [
        IMPORTS.place(path)
        for critic, path in paths.items()
        if judged_here(critic) or IMPORTS.place(path) != path
    ]


@functools.cache
def judged_here(critic):
    """Whether a critic is compared with the truth here, and not where it was imported from."""
    name, seed, _ = split_critic(critic)
    imported = IMPORTS.has(name, seed) or (name, seed) in IMPORTS.critics
    return not imported and bool(judged_on(critic))


def critic_name(run, seed, step):
    """What the critic of one step of a run is called here; the last step's has no step in it."""
    name = f"{run}/seed{seed}"
    return name if step == CONFIG.runs[run].train.steps else f"{name}/step{step}"


def split_critic(critic):
    """Name, seed and step of a critic; the step is None for a run's last and a pretrained one."""
    name, seed, step = re.fullmatch(r"(.+)/seed(-?\d+)(?:/step(\d+))?", critic).groups()
    return name, int(seed), int(step) if step else None


def critic_dir(critic):
    """Where a critic is."""
    name, seed, step = split_critic(critic)
    if name in CONFIG.critics:
        return f"results/critics/{name}/seed{seed}"
    return step_dir(name, seed, step or CONFIG.runs[name].train.steps, "critic")


def critic_settings(critic):
    """What the configuration says of a critic: of its run, or of itself if it is pretrained."""
    name = split_critic(critic)[0]
    return CONFIG.critics[name] if name in CONFIG.critics else CONFIG.runs[name]


def critic_model(critic):
    return CONFIG.models[critic_settings(critic).model]


def critic_identity(critic):
    """Who a critic is, for rows."""
    name, seed, step = split_critic(critic)
    if name in CONFIG.critics:
        return {"critic": name, "kind": "pretrained", "critic_seed": seed, "critic_step": None}
    steps = CONFIG.runs[name].train.steps
    return {"critic": name, "kind": "run", "critic_seed": seed, "critic_step": step or steps}


def critic_gamma(critic):
    critic = critic_settings(critic)
    return getattr(critic, "train", critic).gamma


def critic_lambda(critic):
    """Lambda of the advantages of a critic's run; a pretrained one is fitted to returns."""
    name = split_critic(critic)[0]
    return 1.0 if name in CONFIG.critics else gae_lambda(CONFIG.runs[name])


def masked_share(critic):
    """Share of the rewards that was 0 while a critic learned, unrescaled."""
    name = split_critic(critic)[0]
    if name in CONFIG.critics:
        return 0.0
    run = CONFIG.runs[name]
    learned = not run.critic.freeze
    return run.reward_mask.ratio if learned and not run.reward_mask.rescale else 0.0


def judged_on(critic):
    """Truths that a critic is compared with.

    Those of the base model and of the critic's own actor (a pretrained one's: the actor it learned
    from, and those that started with it); with `truth.across` all on its task, from its base
    model, of its seed. Another model's critic need not know the actor's tokens.
    """
    name, seed, _ = split_critic(critic)
    part = critic_settings(critic)
    own = {name, getattr(part, "actor", None)}
    own |= started_with().get(name, set())
    return [
        truth_dir(*actor)
        for actor in actors_of(part.task, part.model, seed)
        if (actor[1] is None or CONFIG.truth.across or actor[0] in own)
        and not (actor[1] is not None and IMPORTS.has(*actor[:2]))
    ]


def moved_actors(critic):
    """A run's actors at all steps that are compared, by folder of their truth, the one that its
    critic learned with, and what later ones make of this one's states; None where one step alone is
    compared, or the critic did not learn."""
    name, seed, step = split_critic(critic)
    if name in CONFIG.critics or not CONFIG.truth.steps.get(name):
        return None
    run = CONFIG.runs[name]
    if run.critic.freeze:
        return None
    own = step or run.train.steps
    folders = {
        truth_dir(name, seed, other, run.task, None): other for other in compared_steps(name)
    }
    known = {folder: folders[folder] for folder in judged_on(critic) if folder in folders}
    return {
        "learned_with": actor_dir(name, seed, own),
        "actors": {placed(folder): actor_dir(name, seed, other) for folder, other in known.items()},
        "drifted": {
            placed(folder): f"results/truth/{name}/seed{seed}/step{other}/on_step{own}/{run.task}"
            for folder, other in known.items()
            if other > own
        },
    }


def moved_actors_dirs(critic):
    """The directories of these actors."""
    moved = moved_actors(critic)
    return sorted({moved["learned_with"], *moved["actors"].values()}) if moved else []


def drifted_files(critic):
    """What actors of later steps make of the states of a critic's own."""
    moved = moved_actors(critic)
    folders = moved["drifted"].values() if moved else []
    names = ("states.parquet", "continuations.parquet", "summary.json")
    return [f"{folder}/{name}" for folder in folders for name in names]


@functools.cache
def started_with():
    """Runs that started with a pretrained critic, by its name."""
    found = {}
    for name, run in CONFIG.runs.items():
        if run.critic.pretrained is not None:
            found.setdefault(run.critic.pretrained, set()).add(name)
    return found


@functools.cache
def judged_critics():
    """Every critic that has an actor to be judged on, here or where it was imported from."""
    named = [
        critic_name(run, seed, step)
        for run, seed in CONFIG.run_seeds()
        if has_critic(run)
        for step in compared_steps(run)
    ]
    named += [
        f"{name}/seed{seed}" for name in CONFIG.critics for seed in critic_seeds(CONFIG, name)
    ]
    rows = {critic: f"results/judged/{critic}/rows.json" for critic in named}
    return [
        critic
        for critic, path in rows.items()
        if judged_here(critic) or IMPORTS.place(path) != path
    ]


def sampled_actor(critic, seed):
    """Where the actor is whose returns a critic is fitted to."""
    critic = CONFIG.critics[critic]
    if critic.actor is None:
        return model_path(critic.model)
    return f"results/runs/{critic.actor}/seed{seed}/actor"


def sampling_settings(critic):
    """Settings of a pretrained critic that its samples depend on."""
    part = {"model", "task", "actor", "samples", "problems", "held_out", "temperature"}
    return CONFIG.critics[critic].model_dump(mode="json", include=part)


def returns_inputs(wildcards):
    """Training problems, the actor, and the probe's samples where they fit."""
    critic, probe = CONFIG.critics[wildcards.critic], CONFIG.probe
    inputs = {"train": f"results/data/{critic.task}/train.parquet"}
    if critic.actor is not None:
        inputs["model"] = sampled_actor(wildcards.critic, wildcards.seed)
        return inputs
    inputs["model"] = built_model(critic.model)
    fits = probe.n >= critic.samples and probe.temperature == critic.temperature
    if fits and (critic.model, critic.task) in base_pairs():
        inputs["probe"] = f"results/probe/{critic.model}/{critic.task}/samples.parquet"
    return inputs


def origin_dir(run, seed):
    """Where the critic is that a run starts from; None: it has no origin in this study."""
    critic = CONFIG.runs[run].critic
    seed = seed if critic.from_seed is None else critic.from_seed
    if critic.pretrained is not None:
        return f"results/critics/{critic.pretrained}/seed{seed}"
    if critic.from_run is not None:
        if IMPORTS.has(critic.from_run, int(seed)):
            return f"imported/{critic_folder(critic.from_run, seed)}"
        steps = CONFIG.runs[critic.from_run].train.steps
        return step_dir(critic.from_run, seed, critic.from_step or steps, "critic")
    return None
