"""The configuration, typed. Every key of ``config/config.yaml`` is a field here.

Unknown keys and wrong types are errors. What concerns several keys at once (names that must exist,
cycles between runs, batches that ranks must share) is checked by the validators of :class:`Config`.
"""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _exactly_one(section: Strict, *keys: str) -> None:
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(keys)}, not {len(given)}")


class Sft(Strict):
    """Supervised fine-tuning that makes the base model partly competent."""

    problems: Positive = Field(3500, description="solved training problems to learn from")
    steps: Positive = Field(450, description="optimizer steps")
    batch_size: Positive = Field(64, description="problems per step")
    learning_rate: float = Field(3e-3, gt=0, description="peak rate of a cosine schedule")
    label_smoothing: Fraction = Field(
        0.025, description="probability spread over all tokens: keeps entropy for PPO to explore"
    )


class Build(Strict):
    """A Qwen3 made by the workflow, with a character-level tokenizer."""

    task: Name = Field(description="task whose solved training problems it is fine-tuned on")
    hidden_size: Positive = 128
    intermediate_size: Positive = 768
    num_layers: Positive = 3
    num_heads: Positive = 4
    num_kv_heads: Positive = 2
    max_positions: Positive = Field(128, description="longest prompt and response together")
    seed: int = 0
    sft: Sft = Sft()


class Model(Strict):
    """A base model: a directory or hub name, or one that the workflow builds."""

    path: str | None = None
    build: Build | None = None
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of sampling")
    attn_implementation: str | None = Field(
        None, description="attention of actors and critics; null lets the model's config decide"
    )
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        _exactly_one(self, "path", "build")
        return self


class Generate(Strict):
    """Problems made by a task's own generator (Countdown)."""

    numbers: list[Positive] = Field([2, 3], min_length=1, description="how many numbers, each size")
    low: Positive = 1
    high: Positive = 9
    operators: Annotated[str, Field(pattern=r"^[-+*/]+$")] = Field(
        "+-*/", description="operators of the worked solutions; a response may use all four"
    )
    max_target: Positive = Field(99, description="largest target")
    max_answer_length: Positive = Field(16, description="characters of the worked solution")
    problems: Positive = Field(2048, description="distinct problems to make")
    seed: int = 0


class Source(Strict):
    """Where a task's problems come from."""

    hub: str | None = Field(None, description="name of a Hugging Face data set")
    name: str | None = Field(None, description="its configuration, if it has several")
    revision: str | None = None
    stream: bool = Field(False, description="read the hub row by row, without a local copy")
    files: dict[Literal["train", "val", "test"], str] | None = Field(
        None, description="jsonl, parquet or csv per split"
    )
    generate: Generate | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        _exactly_one(self, "hub", "files", "generate")
        return self


class Split(Strict):
    """Sizes of the splits, disjoint by problem. What the source does not split, we do."""

    train: Positive | None = Field(None, description="at most this many; null: all that is left")
    val: Positive = Field(128, description="taken from train where the source has no val")
    test: Positive | None = Field(None, description="at most this many; null: all of the source's")
    seed: int = 0


class Task(Strict):
    """A task: problems, prompt, and lengths. ``kind`` names a module of ``criticflow.tasks``."""

    kind: Name
    source: Source
    test_source: Source | None = Field(None, description="another origin for the test split")
    split: Split = Split()
    prompt: str | None = Field(None, description="the user's message; null: the task's own")
    system: str | None = Field(None, description="a system message; null: none")
    max_prompt_length: Positive = 512
    max_response_length: Positive = 1024

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if not kind.isidentifier() or importlib.util.find_spec(f"criticflow.tasks.{kind}") is None:
            raise ValueError(f"no such task kind: there is no criticflow/tasks/{kind}.py")
        return kind


class Probe(Strict):
    """The signal probe: is there something to learn for this model on this task?"""

    n: Annotated[int, Field(ge=2)] = Field(16, description="samples per prompt")
    prompts: Positive = Field(128, description="training prompts to probe")
    temperature: float = Field(1.0, gt=0)
    gate: Literal["off", "warn", "fail"] = Field("warn", description="what a bad verdict does")
    filter: Literal["mixed"] | list[Fraction] | None = Field(
        None, description="keep training prompts with mixed outcomes, or with a pass rate in [a, b]"
    )
    accuracy: list[Fraction] = Field([0.1, 0.8], min_length=2, max_length=2)
    variance_min: Fraction = 0.05
    entropy: list[float] = Field([0.2, 0.8], min_length=2, max_length=2, description="nats a token")
    seed: int = 0


class Evaluate(Strict):
    """Evaluation on the test split: greedy, and sampled."""

    n: Positive = Field(4, description="samples per prompt")
    prompts: Positive | None = Field(None, description="at most this many; null: all")
    temperature: float = Field(1.0, gt=0)
    k: list[Positive] = Field([1, 4], description="pass@k for these k, at most n")
    resamples: Positive = Field(2000, description="bootstrap resamples")
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    seed: int = 0

    @model_validator(mode="after")
    def _k_within_n(self) -> Evaluate:
        if max(self.k) > self.n:
            raise ValueError(f"k={max(self.k)} needs n >= {max(self.k)} samples, n is {self.n}")
        return self


class RewardMask(Strict):
    """Which trajectories lose their reward (see ``criticflow.verl_plugin.reward_mask``)."""

    ratio: Fraction = 0.0
    type: Literal["bernoulli", "fixed_ratio"] = "bernoulli"
    rescale: bool = Field(False, description="multiply what is kept by 1/(1-ratio)")


class Critic(Strict):
    """Where the critic comes from, and whether it learns."""

    from_run: Name | None = Field(
        None, alias="from", description="take the trained critic of this run (same seed)"
    )
    path: str | None = Field(None, description="or a directory or hub name; null: the base model")
    freeze: bool = False
    value_head: Literal["linear", "mlp"] = "linear"
    allow_untrained: bool = Field(False, description="permit freezing a critic never trained")
    constant: float | None = Field(None, description="the value of every state; needs freeze")

    @model_validator(mode="after")
    def _constant_is_frozen(self) -> Critic:
        if self.constant is not None and not self.freeze:
            raise ValueError("constant needs freeze: true, or the critic would learn")
        return self


class Train(Strict):
    """How a run is trained. Defaults for all runs; a run overrides single keys."""

    steps: Positive = 40
    batch_size: Positive = Field(128, description="prompts per step")
    mini_batch_size: Positive = Field(64, description="prompts per optimizer step")
    micro_batch_size: Positive = Field(32, description="trajectories per rank and forward pass")
    rollout_n: Positive = Field(1, description="responses per prompt")
    temperature: float = Field(1.0, gt=0)
    actor_lr: float = Field(1e-6, gt=0)
    critic_lr: float = Field(1e-5, gt=0)
    critic_warmup: NotNegative = Field(0, description="steps in which only the critic learns")
    gamma: Fraction = 1.0
    lam: Fraction = 1.0
    kl_coef: float = Field(0.0, ge=0, description="KL to the reference policy, in the reward")
    kl_loss_coef: float = Field(0.0, ge=0, description="KL to the reference policy, in the loss")
    save_every: Positive = Field(20, description="steps between checkpoints; the last is saved too")
    keep_checkpoints: Positive = 1
    test_every: int = Field(-1, description="steps between validations; -1: never")
    dtype: Literal["float32", "bfloat16"] = "float32"
    strategy: Literal["fsdp", "fsdp2"] = "fsdp2"
    verl: dict[str, Any] = Field(
        {}, description="further verl settings, by dotted key; they win over everything above"
    )


class Run(Strict):
    """One arm of the study, fully resolved."""

    model: Name
    task: Name
    algorithm: Literal["ppo", "grpo"] = "ppo"
    critic: Critic = Critic()
    reward_mask: RewardMask = RewardMask()
    random_reward: Fraction | None = Field(
        None, description="probability of random outcomes in place of the scores"
    )
    train: Train = Train()


class Resources(Strict):
    """What a training job may use."""

    gpu: NotNegative = Field(0, description="GPUs of a training job; 0: run on the CPU")
    cpu_ranks: Positive = Field(2, description="FSDP ranks when there is no GPU")
    rollout_memory: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="share of GPU memory for vLLM"
    )
    kv_cache_gb: float = Field(1, gt=0, description="cache of one vLLM engine on the CPU, GiB")
    stall_minutes: float = Field(
        60, gt=0, description="a training job that completes no step for so long is ended"
    )
    rollout_stall_minutes: float = Field(
        15, gt=0, description="one whose rollouts yield no token for so long is ended (CPU)"
    )
    save_minutes: float = Field(
        5, gt=0, description="what SIGTERM leaves a training job to end its step and save"
    )
    free_converted: Literal["none", "optimizer", "all"] = Field(
        "optimizer", description="what of a finished run's checkpoint goes once it is converted"
    )

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.gpu else "cpu"

    @property
    def ranks(self) -> int:
        return self.gpu or self.cpu_ranks


class Config(Strict):
    """The whole study."""

    models: dict[Name, Model]
    tasks: dict[Name, Task]
    runs: dict[Name, Run]
    seeds: list[int] = Field([0], min_length=1)
    probe: Probe = Probe()
    evaluate: Evaluate = Evaluate()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        for name, model in self.models.items():
            if model.build:
                _known(model.build.task, self.tasks, f"models.{name}.build.task", "task")
        for name, run in self.runs.items():
            _known(run.model, self.models, f"runs.{name}.model", "model")
            _known(run.task, self.tasks, f"runs.{name}.task", "task")
            if run.critic.from_run:
                _known(run.critic.from_run, self.runs, f"runs.{name}.critic.from", "run")
        return self

    @model_validator(mode="after")
    def _critics_have_an_origin(self) -> Config:
        for name, run in self.runs.items():
            if run.critic.from_run and run.critic.path:
                raise ValueError(f"runs.{name}.critic: give 'from' or 'path', not both")
            if run.algorithm == "grpo" and (run.critic.from_run or run.critic.freeze):
                raise ValueError(f"runs.{name}: grpo has no critic to load or freeze")
            seen = [name]
            while (source := self.runs[seen[-1]].critic.from_run) is not None:
                if source in seen:
                    raise ValueError(
                        f"runs: critic.from is a cycle: {' -> '.join([*seen, source])}"
                    )
                if self.runs[source].algorithm == "grpo":
                    raise ValueError(
                        f"runs.{seen[-1]}.critic.from: {source} is grpo, without critic"
                    )
                seen.append(source)
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Config:
        ranks = self.resources.ranks
        for name, run in self.runs.items():
            train, where = run.train, f"runs.{name}.train"
            if train.batch_size % train.mini_batch_size:
                raise ValueError(
                    f"{where}: batch_size {train.batch_size} is not a multiple of "
                    f"mini_batch_size {train.mini_batch_size}"
                )
            per_rank = train.micro_batch_size * ranks
            trajectories = train.mini_batch_size * train.rollout_n
            if trajectories % per_rank:
                raise ValueError(
                    f"{where}: a mini-batch of {trajectories} trajectories (mini_batch_size x "
                    f"rollout_n) is not divisible by {ranks} ranks x micro_batch_size "
                    f"{train.micro_batch_size} = {per_rank}"
                )
            if run.algorithm == "grpo" and train.rollout_n < 2:
                raise ValueError(f"{where}.rollout_n: grpo compares responses, it needs at least 2")
        return self


def _known(name: str, names: dict[str, Any], where: str, what: str) -> None:
    if name not in names:
        raise ValueError(f"{where}: no {what} named {name!r}; there is {', '.join(names)}")
