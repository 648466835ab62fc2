"""Input functions: which files a rule needs, given the configuration. No rules here."""

import functools
import os
import re

from criticflow.config.contrasts import declared, gae_lambda
from criticflow.errors import UserError
from criticflow.planning.code import code, training_code
from criticflow.planning.gpus import limit_gpus, submits, training_resources
from criticflow.planning.imports import INDEX, read_imports
from criticflow.planning.sources import VLLM_PLUGIN
from criticflow.report.description import describe
from criticflow.training.deciding import deciding
from criticflow.training.gpu_footprint import asked_megabytes
from criticflow.training.sampling_gpus import (
    critic_megabytes,
    engine_megabytes,
    sampled_models,
    sampling_gpus,
)

# Threads of a job that computes on the CPU: as many as this machine has, or of a cluster's node.
CPUS = 8 if submits(workflow) else os.cpu_count()
# An engine (vLLM, Ray) on the CPU claims every core, so that no two share a machine's memory;
# with GPUs the resource `gpu` keeps jobs apart.
ENGINE_THREADS = 8 if CONFIG.resources.gpu else CPUS

# What a rule's `mem_mb` (MB), `runtime` (minutes), `cpus_per_gpu` and `nodes` say is asked of a
# cluster, with room for a model of a billion parameters; on one machine nothing follows from it.

# Runs that were trained elsewhere: their rows lie in imported/, and no rule makes them.
try:
    IMPORTS = read_imports(CONFIG, lambda run: deciding(CONFIG, run))
except UserError as error:
    raise WorkflowError(str(error)) from None

# CPUs of a job for each of its GPUs: more than verl's processes keep busy (`overrides.ray_cpus`).
GPU_CPUS = 8


@functools.cache
def engine_gpus(model):
    """GPUs of a job with an engine: one where the study has some, more where a model needs them."""
    return sampling_gpus(CONFIG, model)


def engine_model(wildcards):
    """The base model whose size an engine's or a judged critic's is."""
    if name := wildcards.get("model"):
        return name
    if name := wildcards.get("run"):
        return CONFIG.runs[name].model
    return (CONFIG.critics.get(wildcards.critic) or critic_settings(wildcards.critic)).model


# Without `nodes` Slurm would also take a job's GPUs from several. `total_gpus` is for a cap
# (`planning.gpus`).
ENGINE = {
    "gpu": lambda wildcards: engine_gpus(engine_model(wildcards)),
    "total_gpus": lambda wildcards: engine_gpus(engine_model(wildcards)),
    "cpus_per_gpu": GPU_CPUS,
    "nodes": 1,
}


def engine_memory(wildcards):
    """Main memory of a job that samples, MB."""
    return engine_megabytes(CONFIG, engine_model(wildcards))


def critic_memory(wildcards):
    """Main memory of a job that judges a critic, MB."""
    return critic_megabytes(CONFIG, engine_model(wildcards))


# Trainings that run elsewhere limit nothing here, engines do.
if CONFIG.resources.ray_address:
    try:
        engines = {f"models.{name}": engine_gpus(name) for name in sampled_models(CONFIG)}
        limit_gpus(workflow, {}, engines)
    except UserError as error:
        raise WorkflowError(str(error)) from None


# MB of a training of whose model nothing is known yet: with room for a billion parameters, or for a
# small model that the workflow makes.
MEMORY = 64000 if CONFIG.resources.gpu else 12000

# With probe.filter the probe also writes the filtered training set.
FILTERED = ["results/probe/{model}/{task}/train.parquet"] if CONFIG.probe.filter else []


def task_module(named):
    """The module of a task's kind, which is imported by name.

    ``named`` has the task's name as ``task``: wildcards or a run.
    """
    return f"criticflow.tasks.{CONFIG.tasks[named.task].kind}"


def task_files(wildcards):
    """Files that a task is read from, if it is read from files."""
    task = CONFIG.tasks[wildcards.task]
    origins = [task.source, *([task.test_source] if task.test_source else [])]
    return [path for source in origins if source.files for path in source.files.values()]


def corpus(task):
    """The corpus directory that a task's searches need, if any."""
    settings = CONFIG.tasks[task]
    without = settings.search is None or settings.corpus_elsewhere
    return [] if without else f"results/corpora/{task}"


def corpus_files(wildcards):
    """The file that a corpus is made of, if it is made of one."""
    file = CONFIG.tasks[wildcards.task].search.corpus
    return [file] if file else []


def corpus_settings(task):
    """What a corpus is made from, and how."""
    task = CONFIG.tasks[task]
    made_from = {"source": settings(task.source), "documents": task.search.corpus}
    return made_from | ({"dense": settings(task.search.dense)} if task.search.dense else {})


def dialogue_settings(task):
    """A task's settings where they decide what a solved dialogue looks like; else nothing."""
    return settings(CONFIG.tasks[task]) if CONFIG.tasks[task].search else None


def data_dir(run):
    """Where a run finds its splits: as prepared, or less what the probe's filter drops."""
    run = CONFIG.runs[run]
    return f"results/filtered/{run.model}/{run.task}" if FILTERED else f"results/data/{run.task}"


# Where Snakemake puts files of this workflow: elsewhere if another one uses it as a module with a
# prefix. Of inputs and outputs it changes the names itself, of params it does not.
placed = workflow.modifier.path_modifier.replace_prefix


def model_path(model):
    """Where a base model is: the directory that the workflow builds, or what the user named."""
    return CONFIG.models[model].path or placed(f"results/models/{model}")


def built_model(model):
    """The same as an input: nothing to wait for where the user named it."""
    return [] if CONFIG.models[model].path else [f"results/models/{model}"]


def has_critic(run):
    return CONFIG.runs[run].leaves_critic


def kinds(run):
    """Models that a run leaves behind."""
    return ["actor", "critic"] if has_critic(run) else ["actor"]


def only(names):
    """A wildcard constraint that matches these names; nothing at all if there are none."""
    return "|".join(map(re.escape, names)) or r"(?!)"


def settings(part):
    """A part of the configuration as a rule's params: when it changes, the rule reruns."""
    return part.model_dump(mode="json", by_alias=True)


def run_settings(run):
    """The settings that a run's weights follow from, as params; all others it reads when it runs.

    A change to any other run, to the probe or to the evaluation does not rerun it, nor one to what
    only concerns how it is carried out (`training.deciding`).
    """
    critic = CONFIG.runs[run].critic
    model = CONFIG.models[CONFIG.runs[run].model]
    origins = {"critic": [critic.path, critic.revision], "model": [model.path, model.revision]}
    return deciding(CONFIG, run) | {"origins": origins}


def training_memory(run):
    """Main memory of a training, MB: what a cluster keeps for it, as far as the model is known."""
    return asked_megabytes(CONFIG, run, CONFIG.resources_of(run), MEMORY)


def fit_memory(model):
    """The same for the fit of a critic, on one node: that of a run without reference policy."""
    runs = [name for name, run in CONFIG.runs.items() if run.model == model]
    one_node = CONFIG.resources.model_copy(update={"nodes": 1})
    return asked_megabytes(CONFIG, runs[0], one_node, MEMORY) if runs else MEMORY


def training_devices(name):
    """One of the resources by which a training gets its nodes and GPUs (`planning.gpus`)."""
    submitted = submits(workflow)
    return lambda wildcards: training_resources(CONFIG.resources_of(wildcards.run), submitted)[name]


def train_inputs(wildcards):
    """What every training run needs; a warm one needs a critic besides."""
    run = CONFIG.runs[wildcards.run]
    return {
        "model": built_model(run.model),
        "data": [f"{data_dir(wildcards.run)}/{split}.parquet" for split in ("train", "val")],
        "manifest": f"results/data/{run.task}/manifest.json",
        "corpus": corpus(run.task),
        "probe": probe_gate(run),
    }


def probe_gate(run):
    """A probe that fails its gate stops a run before it costs anything.

    Only a probe that also chooses the training problems makes a finished run out of date.
    """
    summary = f"results/probe/{run.model}/{run.task}/summary.json"
    return summary if CONFIG.probe.filter else ancient(summary)


def base_identity(model, task):
    """Who is evaluated, for the summary's row."""
    return {"name": model, "kind": "base", "seed": None, "model": model, "task": task}


def run_identity(run, seed):
    """The same for a trained actor."""
    names = {"model": CONFIG.runs[run].model, "task": CONFIG.runs[run].task}
    return {"name": run, "kind": "run", "seed": int(seed), **names}


def used_tasks():
    """Tasks that a run or a built model needs; others are configured but cost nothing."""
    users = [*CONFIG.runs.values(), *CONFIG.critics.values()]
    builds = [CONFIG.models[user.model].build for user in users]
    tasks = {user.task for user in users}
    return sorted(tasks | {build.task for build in builds if build})


def base_pairs():
    """Base model and task of every run, each pair once."""
    return sorted({(run.model, run.task) for run in CONFIG.runs.values()})


def data_manifests():
    return expand("results/data/{task}/manifest.json", task=used_tasks())


def probe_summaries():
    paths = [f"results/probe/{model}/{task}/summary.json" for model, task in base_pairs()]
    return [IMPORTS.place(path) for path in paths]


def probe_plots():
    return [f"results/probe/{model}/{task}/probe.png" for model, task in base_pairs()]


def per_training(folder, file):
    """One file of every training of the study: each run with each of its seeds."""
    return [IMPORTS.place(f"{folder}/{run}/seed{seed}/{file}") for run, seed in CONFIG.run_seeds()]


def imported_records(wildcards):
    """Provenance of the imported runs of a base model on a task."""
    return [
        f"imported/results/runs/{run}/seed{seed}/provenance.json"
        for run, seed in IMPORTS.files
        if (CONFIG.runs[run].model, CONFIG.runs[run].task) == (wildcards.model, wildcards.task)
    ]


def compared_with_imports(wildcards):
    """What the probe waits for where neither model nor data were here when runs were imported."""
    pair = (wildcards.model, wildcards.task)
    return f"results/imported/{pair[0]}/{pair[1]}.json" if pair in IMPORTS.unverified else []


def trained_runs():
    return per_training("results/runs", "metrics.parquet")


def provenance_files():
    return per_training("results/runs", "provenance.json")


def converted_models():
    return [
        f"results/runs/{run}/seed{seed}/{kind}"
        for run, seed in CONFIG.run_seeds()
        if not IMPORTS.has(run, seed)
        for kind in kinds(run)
    ]


def converted(kind):
    """Actors or critics; of an imported run the file that says how large it is."""
    folders = [
        (run, seed, f"results/runs/{run}/seed{seed}/{kind}")
        for run, seed in CONFIG.run_seeds()
        if kind in kinds(run)
    ]
    return [
        IMPORTS.place(f"{folder}.json") if IMPORTS.has(run, seed) else folder
        for run, seed, folder in folders
        if not IMPORTS.lacks(run, seed, f"{folder}.json")
    ]


def base_evaluations():
    paths = [f"results/eval/base/{model}/{task}/summary.json" for model, task in base_pairs()]
    return [IMPORTS.place(path) for path in paths]


def entropy_curve(run):
    """Entropy of a run's base model by temperature."""
    run = CONFIG.runs[run]
    return f"results/eval/entropy/{run.model}/{run.task}/curve.parquet"


def tempered_runs():
    """Trainings beside whose actor the base model stands; not those imported without that."""
    file = "results/eval/tempered/{}/seed{}/samples.parquet"
    return [
        (run, seed)
        for run, seed in CONFIG.run_seeds()
        if CONFIG.has_tempered(run) and not IMPORTS.lacks(run, seed, file.format(run, seed))
    ]


def tempered_files(folder, file):
    """One file of each of these trainings."""
    return [IMPORTS.place(f"{folder}/{run}/seed{seed}/{file}") for run, seed in tempered_runs()]


def tempered_bases():
    """Their base models' own samples, by run."""
    runs = {run: CONFIG.runs[run] for run, _ in tempered_runs()}
    return {
        name: IMPORTS.place(f"results/eval/base/{run.model}/{run.task}/samples.parquet")
        for name, run in runs.items()
    }


def run_evaluations():
    return per_training("results/eval/runs", "summary.json")


def critic_evaluations(file):
    """One file of every critic's evaluation; a run without a critic has none."""
    files = [
        (run, seed, f"results/eval/critics/{run}/seed{seed}/{file}")
        for run, seed in CONFIG.run_seeds()
        if has_critic(run)
    ]
    return [IMPORTS.place(path) for run, seed, path in files if not IMPORTS.lacks(run, seed, path)]


def study_words():
    """What the report says of the configuration."""
    runs = {name: [describe(run), run.factors] for name, run in CONFIG.runs.items()}
    return {"runs": runs, "smallest_effect": CONFIG.smallest_effect}


def captions():
    """Texts of the report, which Snakemake does not watch by itself."""
    return [workflow.source_path(f"../report/{name}.rst") for name in ("page", "workflow")]


def reports():
    """The study's page; beside it Snakemake's own report, where the whole workflow is this one."""
    return ["results/report.html", *(["results/report/snakemake.html"] if ALONE else [])]
