"""Checks of a study that concern several keys at once.

Names must exist, ``critic.from`` makes no cycle, ranks can share the batches, a contrast compares
what can be compared. What one section can say of itself alone is checked in its class.
"""

from __future__ import annotations

import re
from typing import Any

from criticflow.config.contrasts import (
    IMPLIED,
    Contrast,
    actor_updates,
    differs_in,
    gae_lambda,
)
from criticflow.config.study import Config
from criticflow.config.tasks import Source

GENERATE = ("countdown",)
"""Task kinds that make problems of ``source.generate``."""


def check(config: Config) -> None:
    """Check a study whose sections are valid, each for itself.

    Raises:
        ValueError: the first mistake that is found, with the key it stands under.
    """
    for holds in _CHECKS:
        holds(config)


def _critics_can_be_pretrained(config: Config) -> None:
    for name, critic in config.critics.items():
        where = f"critics.{name}"
        if name in config.runs:
            raise ValueError(f"{where}: there is a run of this name: critic.from must be clear")
        if critic.actor is not None:
            _known(critic.actor, config.runs, f"{where}.actor", "run")
        what, size = f"{where}: batch_size {critic.batch_size}", critic.batch_size
        _divides(what, size, config.resources.ranks_per_node, critic.micro_batch_size)


def _names_exist(config: Config) -> None:
    for name, model in config.models.items():
        if model.build:
            _known(model.build.task, config.tasks, f"models.{name}.build.task", "task")
    for section, users in (("critics", config.critics), ("runs", config.runs)):
        for name, user in users.items():
            _known(user.model, config.models, f"{section}.{name}.model", "model")
            _known(user.task, config.tasks, f"{section}.{name}.task", "task")
    for name, run in config.runs.items():
        if run.critic.from_run:
            _known(run.critic.from_run, config.runs, f"runs.{name}.critic.from", "run")
        if run.critic.pretrained:
            where = f"runs.{name}.critic.pretrained"
            _known(run.critic.pretrained, config.critics, where, "pretrained critic")
    if isinstance(config.truth.actors, list):
        for name in config.truth.actors:
            _known(name, {**config.models, **config.runs}, "truth.actors", "model or run")
    if isinstance(config.tempered.actors, list):
        for name in config.tempered.actors:
            _known(name, config.runs, "tempered.actors", "run")
    for name in config.truth.steps:
        _known(name, config.runs, "truth.steps", "run")


def _sources_have_problems(config: Config) -> None:
    for name, task in config.tasks.items():
        for key in ("source", "test_source"):
            source = getattr(task, key)
            if source and source.generate and task.kind not in GENERATE:
                raise ValueError(
                    f"tasks.{name}.{key}.generate: kind {task.kind} has no generator, only "
                    f"{', '.join(GENERATE)} has: give hub or files"
                )
        has, test = _splits(task.source), _splits(task.test_source)
        if has and not has & {"train", "all"}:
            raise ValueError(
                f"tasks.{name}.source.files: there is no train among {', '.join(sorted(has))}"
            )
        if task.test_source:
            if test and "test" not in test:
                raise ValueError(
                    f"tasks.{name}.test_source: has no test split: name the file test, or leave it "
                    "out and say with split.test how many problems of the source to take"
                )
        elif has and "test" not in has and task.split.test is None:
            raise ValueError(
                f"tasks.{name}.split.test: the source has no test split; say how many problems to "
                "take"
            )


def _splits(source: Source | None) -> set[str]:
    """The splits that a source has, as far as its settings tell: of the hub they do not."""
    if source is None or source.hub:
        return set()
    return {"all"} if source.made is not None else {*(source.files or {})}


def _dialogues_are_sampled_whole(config: Config) -> None:
    for name, model in config.models.items():
        search = config.tasks[model.build.task].search if model.build else None
        if search and search.format == "tool_calls" and model.build.tokenizer == "words":
            raise ValueError(
                f"models.{name}.build.tokenizer: words are joined by spaces, which a tool call, "
                "JSON, is not: use characters, or search.format: tags"
            )
    for name, critic in config.critics.items():
        if config.tasks[critic.task].search:
            raise ValueError(
                f"critics.{name}: {critic.task} has search, and a critic is pretrained on "
                "responses of one turn: take the critic of a run (critic.from)"
            )
    for name, run in config.runs.items():
        measured = config.measures_truth(name) or config.measures_truth(run.model)
        further = [key for key in ("pieces", "audited") if getattr(config.truth, key)]
        if further and measured and config.tasks[run.task].search:
            raise ValueError(
                f"truth.{further[0]}: {run.task} has search, and these are not taken from "
                f"dialogues: leave {name} and {run.model} out of truth.actors, or set it to 0"
            )
        if not run.search.mask_observations and not config.tasks[run.task].search:
            raise ValueError(
                f"runs.{name}.search.mask_observations: {run.task} has no search, nothing is "
                "read in its responses"
            )


def _critics_have_an_origin(config: Config) -> None:
    for name, run in config.runs.items():
        critic = run.critic
        if sum(map(bool, (critic.from_run, critic.pretrained, critic.path))) > 1:
            raise ValueError(f"runs.{name}.critic: give 'from' or 'path', not both")
        if critic.oracle and not run.search.mask_observations:
            raise ValueError(
                f"runs.{name}.critic.oracle needs search.mask_observations: true: the mask says "
                "where the turns of a dialogue begin"
            )
        if run.algorithm == "grpo" and (critic.from_run or critic.pretrained or critic.freeze):
            raise ValueError(f"runs.{name}: grpo has no critic to load or freeze")
        seen = [name]
        while (source := config.before(seen[-1])) is not None:
            if source in seen:
                raise ValueError(f"runs: critic.from is a cycle: {' -> '.join([*seen, source])}")
            from_critic = config.runs[seen[-1]].critic.from_run
            if from_critic and not config.runs[source].leaves_critic:
                raise ValueError(f"runs.{seen[-1]}.critic.from: {source} leaves no critic behind")
            seen.append(source)


def _critics_have_the_seeds(config: Config) -> None:
    for name, run in config.runs.items():
        origin, seed = run.critic.from_run, run.critic.from_seed
        needed = set(config.seeds_of(name)) if seed is None else {seed}
        if origin and (lacking := needed - set(config.seeds_of(origin))):
            raise ValueError(
                f"runs.{name}: its critic comes from {origin}, which has no seed "
                f"{', '.join(map(str, sorted(lacking)))}"
            )


def _seeds_differ(config: Config) -> None:
    for where, seeds in [
        ("seeds", config.seeds),
        *((f"runs.{name}.seeds", run.seeds or []) for name, run in config.runs.items()),
    ]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{where}: a seed stands there twice")


def _threshold_is_looked_at(config: Config) -> None:
    tested = any(run.train.test_every > 0 for run in config.runs.values())
    if config.validation_threshold is not None and not tested:
        raise ValueError(
            "validation_threshold: no run is validated while it is trained: set train.test_every"
        )


def _contrasts_hold(config: Config) -> None:
    """Every contrast compares what can be compared, and says what it is."""
    names = [contrast.name for contrast in config.contrasts]
    for number, contrast in enumerate(config.contrasts):
        where = f"contrasts.{contrast.name}"
        if names.index(contrast.name) < number:
            raise ValueError(f"{where}: two contrasts have this name")
        if contrast.kind == "primary" and number:
            raise ValueError(f"{where}: a primary contrast is the first, and the only one")
        for side, run in (("a", contrast.a), ("b", contrast.b)):
            if run not in config.runs:
                raise ValueError(
                    f"{where}.{side}: no run named {run!r}; there is {', '.join(config.runs)}. "
                    "List the contrasts of these runs, or contrasts: [] to compare none"
                )
        _comparable(contrast, config, where)


def _comparable(contrast: Contrast, config: Config, where: str) -> None:
    a, b = config.runs[contrast.a], config.runs[contrast.b]
    if a.task != b.task:
        raise ValueError(
            f"{where}: {contrast.metric} is measured on {a.task} in {contrast.a} and on {b.task} "
            f"in {contrast.b}: both need the same task"
        )
    if (k := re.fullmatch(r"pass@(\d+)", contrast.metric)) and int(k[1]) not in (
        1,
        *config.evaluate.k,
    ):
        raise ValueError(f"{where}.metric: {contrast.metric} is not among evaluate.k")
    if not set(config.seeds_of(contrast.a)) & set(config.seeds_of(contrast.b)):
        raise ValueError(f"{where}: {contrast.a} and {contrast.b} have no seed in common")
    if actor_updates(a) != actor_updates(b):
        raise ValueError(
            f"{where}: the actor is updated {actor_updates(a)} times in {contrast.a} and "
            f"{actor_updates(b)} times in {contrast.b} (steps without critic_warmup x batch_size / "
            "mini_batch_size): make them equal"
        )
    found = differs_in(a, b)
    if not found:
        raise ValueError(f"{where}: {contrast.a} and {contrast.b} have the same settings")
    lambdas = gae_lambda(a), gae_lambda(b)
    if None not in lambdas and lambdas[0] != lambdas[1] and found != ["lambda"]:
        raise ValueError(
            f"{where}: lambda is {lambdas[0]} in {contrast.a} and {lambdas[1]} in {contrast.b}: "
            "make them equal, or compare runs that differ in nothing else"
        )
    one = len(found) == 1 and found[0] in IMPLIED
    if one and contrast.kind == "bundle":
        raise ValueError(f"{where}: the runs differ in {found[0]} alone: that is no bundle")
    if not one and contrast.kind != "bundle":
        raise ValueError(
            f"{where}: the runs differ in {', '.join(found)}: that answers no question about one "
            "of them; compare other runs, or write kind: bundle"
        )


def _kept_steps_are_saved(config: Config) -> None:
    for name, run in config.runs.items():
        train = run.train
        for step in train.keep_steps:
            if step > train.steps or (step % train.save_every and step != train.steps):
                raise ValueError(
                    f"runs.{name}: step {step} is asked for (train.keep_steps, truth.steps, or "
                    f"the critic.from of another run), but it saves every "
                    f"{train.save_every} of its {train.steps} steps"
                )


def _critics_fit(config: Config) -> None:
    for name, run in config.runs.items():
        if (source := config.runs.get(run.critic.from_run or "")) is None:
            continue
        where = f"runs.{name}.critic"
        heads = source.critic.value_head, run.critic.value_head
        if heads[0] != heads[1]:
            raise ValueError(
                f"{where}.value_head: {heads[1]}, but {run.critic.from_run} trains a critic "
                f"whose head is {heads[0]}: write the same in both"
            )
        models = config.models[source.model], config.models[run.model]
        if bool(models[0].build) != bool(models[1].build):
            raise ValueError(
                f"{where}.from: {run.critic.from_run} trains {source.model}, {name} trains "
                f"{run.model}: their tokenizers differ, and the critic would read other "
                "tokens than the actor writes; use models of one family"
            )


def _trainings_can_work(config: Config) -> None:
    for name, run in config.runs.items():
        train, where = run.train, f"runs.{name}.train"
        if train.strategy == "fsdp" and config.resources.device == "cpu":
            raise ValueError(f"{where}.strategy: fsdp needs a GPU, write fsdp2")
        if run.critic_learns and train.critic_warmup >= train.steps:
            raise ValueError(
                f"{where}.critic_warmup: with {train.critic_warmup} of {train.steps} steps the "
                "actor would never learn: lower it, or raise steps"
            )
        task = config.tasks[run.task]
        sizes = (task.split.train, task.source.made)
        problems = min((size for size in sizes if size), default=None)
        if problems is not None and train.batch_size > problems:
            raise ValueError(
                f"{where}.batch_size: {train.batch_size} prompts a step, but {run.task} has "
                f"at most {problems} training problems: lower it, or take more problems"
            )


def _runs_have_the_studys_device(config: Config) -> None:
    for name, run in config.runs.items():
        if run.resources.gpu is not None and config.resources.device == "cpu":
            raise ValueError(
                f"runs.{name}.resources.gpu: {run.resources.gpu}, but the study is on the CPU "
                "(resources.gpu: 0), and its models are sampled and judged there: set resources.gpu"
            )
        if run.resources.cpu_ranks is not None and config.resources.device == "cuda":
            raise ValueError(
                f"runs.{name}.resources.cpu_ranks: has no effect, the study is on GPUs "
                f"(resources.gpu: {config.resources.gpu}): write gpu"
            )


def _lengths_fit(config: Config) -> None:
    for name, run in config.runs.items():
        build, task = config.models[run.model].build, config.tasks[run.task]
        longest = task.max_prompt_length + task.max_response_length
        if build and longest > build.max_positions:
            raise ValueError(
                f"runs.{name}: max_prompt_length {task.max_prompt_length} and max_response_length "
                f"{task.max_response_length} of {run.task} are more than the {build.max_positions} "
                f"positions of {run.model}: lower them, or raise its build.max_positions"
            )


def _batches_divide(config: Config) -> None:
    for name, run in config.runs.items():
        train, where, ranks = run.train, f"runs.{name}.train", config.resources_of(name).ranks
        sizes = {"mini_batch_size": train.mini_batch_size}
        if train.critic_mini_batch_size is not None:
            sizes["critic_mini_batch_size"] = train.critic_mini_batch_size
        for key, size in sizes.items():
            if train.batch_size % size:
                raise ValueError(
                    f"{where}: batch_size {train.batch_size} is not a multiple of {key} {size}"
                )
            trajectories = size * train.rollout_n
            what = f"{where}: a mini-batch of {trajectories} trajectories ({key} x rollout_n)"
            _divides(what, trajectories, ranks, train.micro_batch_size)
        if run.algorithm == "grpo" and train.rollout_n < 2:
            raise ValueError(f"{where}.rollout_n: grpo compares responses, it needs at least 2")


def _known(name: str, names: dict[str, Any], where: str, what: str) -> None:
    if name not in names:
        raise ValueError(f"{where}: no {what} named {name!r}; there is {', '.join(names)}")


def _divides(what: str, size: int, ranks: int, micro_batch_size: int) -> None:
    """Raise ValueError if the ranks cannot share ``size`` in whole micro-batches."""
    if size % (together := ranks * micro_batch_size):
        raise ValueError(
            f"{what} is not divisible by {ranks} ranks x micro_batch_size {micro_batch_size} "
            f"= {together}"
        )


_CHECKS = (
    _critics_can_be_pretrained,
    _names_exist,
    _sources_have_problems,
    _dialogues_are_sampled_whole,
    _critics_have_an_origin,
    _critics_have_the_seeds,
    _seeds_differ,
    _threshold_is_looked_at,
    _contrasts_hold,
    _kept_steps_are_saved,
    _critics_fit,
    _trainings_can_work,
    _runs_have_the_studys_device,
    _lengths_fit,
    _batches_divide,
)
