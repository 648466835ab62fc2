"""The configuration, typed. Every key of ``config/config.yaml`` is a field here.

Unknown keys and wrong types are errors. What concerns several keys at once (names that must exist,
cycles between runs, batches that ranks must share) is checked by the validators of :class:`Config`.
"""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from criticflow.config.contrasts import Contrast, check_contrasts
from criticflow.config.names import Name, RunName, Strict

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


def _exactly_one(section: Strict, *keys: str) -> None:
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(keys)}, not {len(given)}")


class Hasty(Strict):
    """A second fine-tuning, on dialogues that answer before they can know (tasks with search)."""

    share: Fraction = Field(0.4, description="of the dialogues: searches left out, from one on")
    steps: Positive = Field(120, description="optimizer steps")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak rate of a cosine schedule")


class Sft(Strict):
    """Supervised fine-tuning that makes the base model partly competent."""

    problems: Positive = Field(3500, description="solved training problems to learn from")
    steps: Positive = Field(450, description="optimizer steps")
    batch_size: Positive = Field(64, description="problems per step")
    learning_rate: float = Field(3e-3, gt=0, description="peak rate of a cosine schedule")
    hasty: Hasty | None = Field(
        None, description="then learn to answer too early as well (tasks with search); null: no"
    )
    label_smoothing: Fraction = Field(
        0.025, description="probability spread over all tokens: keeps entropy for PPO to explore"
    )
    careless: Fraction = Field(
        0.0,
        description="share of the solutions with three or more numbers it learns without their "
        "last number: a habit that PPO can break",
    )


class Build(Strict):
    """A Qwen3 made by the workflow, with a small tokenizer of its own."""

    task: Name = Field(description="task whose solved training problems it is fine-tuned on")
    hidden_size: Positive = Field(128, description="width of the hidden states")
    intermediate_size: Positive = Field(768, description="width of the feed-forward layers")
    num_layers: Positive = Field(3, description="transformer layers")
    num_heads: Positive = Field(4, description="attention heads of the queries")
    num_kv_heads: Positive = Field(2, description="attention heads of keys and values")
    max_positions: Positive = Field(128, description="longest prompt and response together, tokens")
    tokenizer: Literal["characters", "words"] = Field(
        "characters", description="a token for each character, or for each word of the task"
    )
    seed: int = Field(0, description="of the weights and of the order of problems")
    sft: Sft = Field(Sft(), description="supervised fine-tuning")


class Shape(Strict):
    """What a decoder's size follows from, under the names that ``build`` has too."""

    hidden_size: Positive = Field(description="width of the hidden states")
    intermediate_size: Positive = Field(description="width of the feed-forward layers")
    num_layers: Positive = Field(description="transformer layers")
    num_heads: Positive = Field(description="attention heads of the queries")
    num_kv_heads: Positive = Field(description="attention heads of keys and values")
    head_size: Positive = Field(description="width of one attention head")
    vocab_size: Positive = Field(description="rows of the embedding")
    tied_embeddings: bool = Field(description="whether the output layer is the embedding itself")

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, the largest tensor of most models."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Parameters of a decoder with a gated MLP and grouped-query attention (Llama, Qwen),
        norms and biases left out: they are less than a thousandth."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads
        layer = self.hidden_size * (heads * self.head_size + 3 * self.intermediate_size)
        return self.num_layers * layer + self.embedding * (1 if self.tied_embeddings else 2)


class Model(Strict):
    """A base model: a directory or hub name, or one that the workflow builds."""

    path: str | None = Field(None, description="directory, or name on the Hugging Face hub")
    revision: str | None = Field(
        None, description="branch, tag or commit of a hub model; null: what its main branch is now"
    )
    build: Build | None = Field(None, description="a model that the workflow makes")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of sampling")
    attn_implementation: str | None = Field(
        None, description="attention of actors and critics; null lets the model's config decide"
    )
    trust_remote_code: bool = Field(
        False, description="whether Python code that comes with the model may run"
    )
    # Concerns what a training is expected to take alone, so no copy of the settings holds it.
    shape: Shape | None = Field(
        None, exclude=True, description="of a hub model that is not in the local cache: for memory"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        _exactly_one(self, "path", "build")
        if self.build and self.revision:
            raise ValueError("revision belongs to a model on the hub: give path, or leave it out")
        return self


class Generate(Strict):
    """Problems made by a task's own generator (Countdown)."""

    numbers: list[Positive] = Field([2, 3], min_length=1, description="how many numbers, each size")
    low: Positive = Field(1, description="smallest number")
    high: Positive = Field(9, description="largest number")
    operators: Annotated[str, Field(pattern=r"^[-+*/]+$")] = Field(
        "+-*/", description="operators of the worked solutions; a response may use all four"
    )
    max_target: Positive = Field(99, description="largest target")
    max_answer_length: Positive = Field(16, description="characters of the worked solution")
    problems: Positive = Field(2048, description="distinct problems to make")
    seed: int = Field(0, description="of the problems")


class Facts(Strict):
    """Questions about made-up people, and the facts that answer them as a corpus (search)."""

    people: Positive = Field(2000, description="each with six facts, every one a document")
    questions: Positive = Field(4000, description="distinct questions; no two share a fact")
    hops: list[Literal[1, 2]] = Field(
        [1, 2], min_length=1, description="facts that a question needs"
    )
    seed: int = Field(0, description="of the facts and the questions")


class Source(Strict):
    """Where a task's problems come from."""

    hub: str | None = Field(None, description="name of a Hugging Face data set")
    name: str | None = Field(None, description="its configuration, if it has several")
    revision: str | None = Field(None, description="commit or tag of the data set")
    stream: bool = Field(False, description="read the hub row by row, without a local copy")
    files: dict[Literal["train", "val", "test"], str] | None = Field(
        None, description="jsonl, parquet or csv per split"
    )
    generate: Generate | None = Field(None, description="problems of the task's own generator")
    facts: Facts | None = Field(None, description="the same for a task with search")

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        _exactly_one(self, "hub", "files", "generate", "facts")
        return self

    @property
    def made(self) -> int | None:
        """How many problems a generator makes; None: there is none."""
        if self.facts is not None:
            return self.facts.questions
        return None if self.generate is None else self.generate.problems


class Split(Strict):
    """Sizes of the splits, disjoint by problem. What the source does not split, we do."""

    train: Positive | None = Field(None, description="at most this many; null: all that is left")
    val: Positive = Field(128, description="taken from train where the source has no val")
    test: Positive | None = Field(None, description="at most this many; null: all of the source's")
    seed: int = Field(0, description="which problem goes where")


class Service(Strict):
    """A retriever in another process, reached over HTTP."""

    url: str = Field(description="its address, without /retrieve")
    timeout_seconds: float = Field(30, gt=0, description="for one request")
    retries: NotNegative = Field(4, description="after a failed request, with growing pauses")


class Search(Strict):
    """Search in the loop: how a dialogue goes, and what is searched."""

    corpus: str | None = Field(
        None, description='JSON lines of {"id", "contents"}; null: the generator\'s documents'
    )
    service: Service | None = Field(
        None, description="a retriever that runs elsewhere; null: BM25 inside the job"
    )
    topk: Positive = Field(3, description="documents that a search finds")
    max_turns: Positive = Field(
        4, description="turns in which the model may search; in one more it may only answer"
    )
    max_turn_tokens: Positive = Field(500, description="tokens that it may write in a turn")
    max_observation_tokens: Positive = Field(500, description="tokens of what a search shows it")
    invalid: Literal["end", "hint"] = Field(
        "end", description="a turn without search or answer ends the dialogue, or earns a hint"
    )
    reward: Literal["exact_match", "f1"] = Field(
        "exact_match", description="the score: 1 for the exact answer, or the F1 of its words"
    )


class Task(Strict):
    """A task: problems, prompt, and lengths. ``kind`` names a module of ``criticflow.tasks``."""

    kind: Name = Field(description="module of criticflow.tasks: prompt, answer format and reward")
    source: Source = Field(description="where problems come from")
    test_source: Source | None = Field(None, description="another origin for the test split")
    split: Split = Field(Split(), description="sizes of the splits, in problems")
    prompt: str | None = Field(None, description="the user's message; null: the task's own")
    system: str | None = Field(None, description="a system message; null: none")
    max_prompt_length: Positive = Field(512, description="tokens; longer prompts are left out")
    max_response_length: Positive = Field(
        1024, description="tokens; with search those that are read count"
    )
    search: Search | None = Field(None, description="search in the loop; null: none")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if not kind.isidentifier() or importlib.util.find_spec(f"criticflow.tasks.{kind}") is None:
            raise ValueError(f"no such task kind: there is no criticflow/tasks/{kind}.py")
        return kind

    @model_validator(mode="after")
    def _search_has_a_corpus(self) -> Task:
        if (self.kind == "search") != (self.search is not None):
            raise ValueError("kind: search and a section `search` go together (it may be {})")
        if self.search and not (self.source.facts or self.search.corpus or self.search.service):
            raise ValueError("search: give a corpus (a file), or the service that has one")
        if self.source.facts and self.search is None:
            raise ValueError("source.facts: these questions are for a task with search")
        return self


class Probe(Strict):
    """The signal probe: is there something to learn for this model on this task?"""

    n: Annotated[int, Field(ge=2)] = Field(16, description="samples per prompt")
    prompts: Positive = Field(128, description="training prompts to probe")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    gate: Literal["off", "warn", "fail"] = Field("warn", description="what a bad verdict does")
    filter: Literal["mixed"] | list[Fraction] | None = Field(
        None, description="keep training prompts with mixed outcomes, or with a pass rate in [a, b]"
    )
    accuracy: list[Fraction] = Field(
        [0.1, 0.8], min_length=2, max_length=2, description="good range of the mean pass rate"
    )
    variance_min: Fraction = Field(
        0.05, description="least good mean variance of the rewards of one prompt"
    )
    entropy: list[float] = Field(
        [0.2, 0.8],
        min_length=2,
        max_length=2,
        description="good range of the mean entropy, nats a token",
    )
    seed: int = Field(0, description="of prompts and samples")

    @field_validator("filter")
    @classmethod
    def _filter_is_a_range(cls, rule: str | list[float] | None) -> str | list[float] | None:
        if isinstance(rule, list) and (len(rule) != 2 or rule[0] > rule[1]):
            raise ValueError(f"write mixed, or a range [a, b] with a <= b, not {rule}")
        return rule


class Evaluate(Strict):
    """Evaluation on the test split: greedy, and sampled."""

    n: Positive = Field(4, description="samples per prompt")
    prompts: Positive | None = Field(None, description="at most this many; null: all")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    k: list[Positive] = Field([1, 4], description="pass@k for these k, at most n")
    resamples: Positive = Field(2000, description="bootstrap resamples")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="level of the intervals"
    )
    seed: int = Field(0, description="of samples and bootstrap")

    @model_validator(mode="after")
    def _k_within_n(self) -> Evaluate:
        if max(self.k) > self.n:
            raise ValueError(f"k={max(self.k)} needs n >= {max(self.k)} samples, n is {self.n}")
        return self


class Truth(Strict):
    """The truth about values: Monte-Carlo estimates from states of held-out responses."""

    actors: Literal["all", "learning"] | list[Name] = Field(
        "all",
        description="whose truth: base models and runs by name; all; learning: base models and the "
        "runs whose critic learns; or [] for nobody's",
    )
    across: bool = Field(
        False, description="compare every critic with every actor, not with its own alone"
    )
    steps: dict[Name, list[Positive]] = Field(
        {}, description="by run: steps besides the last whose actor and critic are compared too"
    )
    problems: Positive = Field(64, description="problems of the test split, its first ones")
    positions: list[Fraction] = Field(
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        min_length=1,
        description="states of a response, as shares of its way from the prompt to its last token",
    )
    continuations: Annotated[int, Field(ge=2)] = Field(32, description="samples from each state")
    lines_above: Positive | None = Field(
        256, description="a response of more tokens has its states at line ends; null: none has"
    )
    temperature: float = Field(
        1.0, gt=0, description="of a base model; a run's actor has that of its own rollouts"
    )
    seed: int = Field(0, description="of responses and continuations")

    @field_validator("positions")
    @classmethod
    def _rising(cls, positions: list[float]) -> list[float]:
        if positions != sorted(set(positions)):
            raise ValueError(f"positions {positions} are not rising")
        return positions


class PretrainedCritic(Strict):
    """A critic fitted offline to the returns of sampled responses to training problems."""

    model: Name = Field(description="base model that the critic starts from")
    task: Name = Field(description="task whose training problems are sampled")
    actor: Name | None = Field(
        None, description="run whose actor is sampled, same seed; null: the base model itself"
    )
    samples: Positive = Field(8, description="responses per problem")
    problems: Annotated[int, Field(ge=2)] | None = Field(
        None, description="at most this many training problems; null: all"
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of these problems that judges the fit and is not learned from"
    )
    temperature: float = Field(1.0, gt=0, description="of the samples")
    gamma: Fraction = Field(1.0, description="discount of the returns")
    passes: Positive = Field(4, description="passes over the samples")
    batch_size: Positive = Field(256, description="responses per optimizer step")
    micro_batch_size: Positive = Field(64, description="responses per rank and forward pass")
    learning_rate: float = Field(1e-3, gt=0, description="peak of a cosine schedule")
    warmup: Fraction = Field(0.05, description="share of the steps in which the rate rises")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    checks: Positive = Field(2, description="looks at the held-out error in each pass, each saved")
    patience: Positive = Field(4, description="looks without a better one that end the fit")
    value_head: Literal["linear", "mlp"] = Field("linear", description="the critic's head")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the fit")
    strategy: Literal["fsdp", "fsdp2"] = Field("fsdp2", description="fsdp2, or fsdp (needs a GPU)")


class RewardMask(Strict):
    """Which trajectories lose their reward (see ``criticflow.verl_plugin.reward_mask``)."""

    ratio: Fraction = Field(0.0, description="share of trajectories whose whole reward becomes 0")
    type: Literal["bernoulli", "fixed_ratio"] = Field(
        "bernoulli", description="each by a draw of its own, or exactly this share of a batch"
    )
    rescale: bool = Field(False, description="multiply what is kept by 1/(1-ratio)")
    drop: bool = Field(
        False, description="leave masked trajectories out of the step, in place of a reward of 0"
    )

    @model_validator(mode="after")
    def _something_is_kept(self) -> RewardMask:
        if self.rescale and self.ratio == 1.0:
            raise ValueError("rescale: with ratio 1 nothing is left to rescale")
        if self.drop and self.ratio == 1.0:
            raise ValueError("drop: with ratio 1 nothing is left to learn from")
        if self.drop and self.rescale:
            raise ValueError("drop: what is left out needs no rescale of the rest")
        return self


class Critic(Strict):
    """Where the critic comes from, and whether it learns."""

    from_run: RunName | None = Field(
        None,
        alias="from",
        description="take the trained critic of this run, or this pretrained one, of the same seed",
    )
    pretrained: Name | None = Field(
        None, description="the same for a pretrained critic; `from` with its name ends up here"
    )
    from_step: Positive | None = Field(
        None, description="of `from: {run, step, seed}`: not the run's last step but this one"
    )
    from_seed: int | None = Field(
        None, description="of `from: {run, step, seed}`: not the same seed but this one"
    )
    path: str | None = Field(None, description="or a directory or hub name; null: the base model")
    revision: str | None = Field(None, description="branch, tag or commit of a hub name")
    freeze: bool = Field(False, description="the critic gives values and never learns")
    value_head: Literal["linear", "mlp"] = Field(
        "linear", description="one linear layer, or Linear-ReLU-Linear"
    )
    allow_untrained: bool = Field(False, description="permit freezing a critic never trained")
    constant: float | None = Field(None, description="the value of every state; needs freeze")
    scale: float = Field(1.0, description="factor on the values of the critic that is loaded")

    @model_validator(mode="before")
    @classmethod
    def _origin_in_parts(cls, raw: Any) -> Any:
        """``from: {run: cold, step: 20, seed: 1}`` is its three parts."""
        if not isinstance(raw, dict) or not isinstance(raw.get("from"), dict):
            return raw
        origin = dict(raw["from"])
        parts = {"from": origin.pop("run", None)}
        for key in ("step", "seed"):
            if (value := origin.pop(key, None)) is not None:
                parts[f"from_{key}"] = value
        if origin or parts["from"] is None:
            raise ValueError("from: give the name of a run, or {run: NAME, step: N, seed: N}")
        return {**raw, **parts}

    @model_validator(mode="after")
    def _parts_have_an_origin(self) -> Critic:
        if self.from_step is not None and self.from_run is None:
            raise ValueError("from_step needs from, a run: a pretrained critic has one step")
        if self.from_seed is not None and self.from_run is None and self.pretrained is None:
            raise ValueError("from_seed needs from")
        return self

    @model_validator(mode="after")
    def _constant_is_frozen(self) -> Critic:
        if self.constant is not None and not self.freeze:
            raise ValueError("constant needs freeze: true, or the critic would learn")
        return self

    @model_validator(mode="after")
    def _frozen_is_trained(self) -> Critic:
        trained = self.from_run or self.pretrained or self.path or self.constant is not None
        if self.freeze and not (trained or self.allow_untrained):
            raise ValueError(
                "freeze: true would keep a fresh value head as it is: give the trained critic "
                "(from or path), or for a control run constant, or allow_untrained: true"
            )
        return self


class Train(Strict):
    """How a run is trained. Defaults for all runs; a run overrides single keys."""

    steps: Positive = Field(40, description="PPO steps")
    batch_size: Positive = Field(128, description="prompts per step")
    mini_batch_size: Positive = Field(64, description="prompts per optimizer step")
    micro_batch_size: Positive = Field(32, description="trajectories per rank and forward pass")
    rollout_n: Positive = Field(1, description="responses per prompt")
    temperature: float = Field(1.0, gt=0, description="of rollouts")
    actor_lr: float = Field(1e-6, gt=0, description="learning rate of the actor")
    critic_lr: float = Field(1e-5, gt=0, description="learning rate of the critic")
    critic_warmup: NotNegative = Field(
        0, description="first steps, in which only the critic learns; a frozen critic has none"
    )
    lost_trajectories: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of a step's trajectories that may be lost to errors in rollouts"
    )
    gamma: Fraction = Field(1.0, description="discount per token")
    lam: Fraction = Field(1.0, description="lambda of GAE")
    critic_lam: Fraction | None = Field(
        None, description="lambda of the returns that the critic learns; null: that of the policy"
    )
    length_adaptive_alpha: float | None = Field(
        None, gt=0, description="the policy's lambda is 1 - 1/(alpha x response tokens); null: lam"
    )
    value_gate: bool = Field(
        False, description="use the batch's mean return while values explain less than nothing"
    )
    critic_epochs: Positive | None = Field(
        None, description="the critic's passes over a step's batch; null: as many as the actor's"
    )
    critic_mini_batch_size: Positive | None = Field(
        None, description="prompts per optimizer step of the critic; null: mini_batch_size"
    )
    kl_coef: float = Field(0.0, ge=0, description="KL to the reference policy, in the reward")
    kl_loss_coef: float = Field(0.0, ge=0, description="KL to the reference policy, in the loss")
    save_every: Positive = Field(20, description="steps between checkpoints; the last is saved too")
    keep_checkpoints: Positive = Field(1, description="complete checkpoints that are kept")
    keep_steps: list[Positive] = Field(
        [], description="steps whose checkpoints stay besides; those that critic.from names are in"
    )
    test_every: int = Field(-1, description="steps between validations; -1: never")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of training")
    strategy: Literal["fsdp", "fsdp2"] = Field(
        "fsdp2", description="how verl shards models; fsdp needs a GPU"
    )
    logger: list[Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab"]] = Field(
        [], description="verl's trackers beside the file; wandb and swanlab send metrics away"
    )
    verl: dict[str, Any] = Field(
        {}, description="further verl settings, by dotted key; they win over everything above"
    )


class RunSearch(Strict):
    """What a run does otherwise with the dialogues of a task with search."""

    mask_observations: bool = Field(
        True, description="what was read has no part in advantages, losses and KL"
    )


class Run(Strict):
    """One run of the study, fully resolved."""

    model: Name = Field(description="base model: actor and reference policy start from it")
    task: Name = Field(description="task to train on")
    algorithm: Literal["ppo", "grpo"] = Field("ppo", description="grpo has no critic")
    critic: Critic = Field(Critic(), description="where the critic comes from")
    reward_mask: RewardMask = Field(RewardMask(), description="trajectories without reward")
    random_reward: Fraction | None = Field(
        None, description="probability of random outcomes in place of the scores"
    )
    search: RunSearch = Field(RunSearch(), description="for a task with search")
    train: Train = Field(Train(), description="how it is trained")
    # Neither has a part in what one training does: no copy of the settings holds them.
    seeds: list[int] | None = Field(
        None, min_length=1, exclude=True, description="seeds of this run; null: those of the study"
    )
    factors: dict[Name, Name] = Field(
        {}, exclude=True, description="levels of the grid's factors that made this run"
    )

    @property
    def critic_learns(self) -> bool:
        """Whether a critic is trained along with the actor: GRPO has none, a frozen one stays."""
        return self.algorithm == "ppo" and not self.critic.freeze


class Resources(Strict):
    """What a training job may use."""

    gpu: NotNegative = Field(0, description="GPUs of a training job; 0: run on the CPU")
    cpu_ranks: Positive = Field(2, description="FSDP ranks when there is no GPU")
    rollout_memory: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="share of GPU memory for vLLM"
    )
    gpu_memory_gb: float | None = Field(
        None,
        gt=0,
        exclude=True,
        description="GiB of one GPU where jobs run; null: what this machine's GPUs have",
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

    models: dict[Name, Model] = Field(description="base models, by name")
    tasks: dict[Name, Task] = Field(description="tasks, by name")
    runs: dict[RunName, Run] = Field(description="what is trained, once per seed, by name")
    critics: dict[Name, PretrainedCritic] = Field(
        {}, description="critics that are pretrained offline, by name"
    )
    seeds: list[int] = Field([0], min_length=1, description="seeds of every run without its own")
    contrasts: list[Contrast] = Field([], description="which runs are compared; the primary first")
    smallest_effect: float | None = Field(
        None,
        gt=0,
        description="smallest difference of interest, in units of the contrasts' metric; fixed "
        "before the study is run",
    )
    validation_threshold: Fraction | None = Field(
        None,
        description="mean score on validation whose cost is compared between arms: steps, tokens, "
        "seconds, FLOPs; fixed before the study is run",
    )
    probe: Probe = Field(Probe(), description="the signal probe, before training")
    evaluate: Evaluate = Field(Evaluate(), description="evaluation on the test split")
    truth: Truth = Field(Truth(), description="true values of states, and who is compared")
    resources: Resources = Field(Resources(), description="what a training job may use")

    def seeds_of(self, run: str) -> list[int]:
        """Seeds that ``run`` is trained with."""
        return self.runs[run].seeds or self.seeds

    def measures_truth(self, name: str) -> bool:
        """Whether the truth about values is measured for this base model or run."""
        if self.truth.actors == "learning":
            return name not in self.runs or self.runs[name].critic_learns
        return self.truth.actors == "all" or name in self.truth.actors

    def run_seeds(self) -> list[tuple[str, int]]:
        """Every training of the study: each run with each of its seeds."""
        return [(run, seed) for run in self.runs for seed in self.seeds_of(run)]

    @model_validator(mode="before")
    @classmethod
    def _pretrained_critics_by_name(cls, raw: Any) -> Any:
        """``critic.from: NAME`` means the pretrained critic of that name, if there is one."""
        critics, runs = (raw.get(key) if isinstance(raw, dict) else None for key in _SECTIONS)
        if not isinstance(critics, dict) or not isinstance(runs, dict):
            return raw
        return {**raw, "runs": {name: _named_critic(run, critics) for name, run in runs.items()}}

    @model_validator(mode="after")
    def _critics_can_be_pretrained(self) -> Config:
        for name, critic in self.critics.items():
            where = f"critics.{name}"
            if name in self.runs:
                raise ValueError(f"{where}: there is a run of this name: critic.from must be clear")
            if critic.actor is not None:
                _known(critic.actor, self.runs, f"{where}.actor", "run")
            what, size = f"{where}: batch_size {critic.batch_size}", critic.batch_size
            _divides(what, size, self.resources.ranks, critic.micro_batch_size)
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        for name, model in self.models.items():
            if model.build:
                _known(model.build.task, self.tasks, f"models.{name}.build.task", "task")
        for section, users in (("critics", self.critics), ("runs", self.runs)):
            for name, user in users.items():
                _known(user.model, self.models, f"{section}.{name}.model", "model")
                _known(user.task, self.tasks, f"{section}.{name}.task", "task")
        for name, run in self.runs.items():
            if run.critic.from_run:
                _known(run.critic.from_run, self.runs, f"runs.{name}.critic.from", "run")
            if run.critic.pretrained:
                where = f"runs.{name}.critic.pretrained"
                _known(run.critic.pretrained, self.critics, where, "pretrained critic")
        if isinstance(self.truth.actors, list):
            for name in self.truth.actors:
                _known(name, {**self.models, **self.runs}, "truth.actors", "model or run")
        for name in self.truth.steps:
            _known(name, self.runs, "truth.steps", "run")
        return self

    @model_validator(mode="after")
    def _dialogues_are_sampled_whole(self) -> Config:
        for name, critic in self.critics.items():
            if self.tasks[critic.task].search:
                raise ValueError(
                    f"critics.{name}: {critic.task} has search, and a critic is pretrained on "
                    "responses of one turn: take the critic of a run (critic.from)"
                )
        for name, run in self.runs.items():
            measured = self.truth.actors == "all" or {name, run.model} & set(self.truth.actors)
            if measured and self.tasks[run.task].search:
                raise ValueError(
                    f"truth.actors: {run.task} has search, and states are continued in one turn: "
                    f"leave {name} and {run.model} out (truth: {{actors: []}})"
                )
            if not run.search.mask_observations and not self.tasks[run.task].search:
                raise ValueError(
                    f"runs.{name}.search.mask_observations: {run.task} has no search, nothing is "
                    "read in its responses"
                )
        return self

    @model_validator(mode="after")
    def _critics_have_an_origin(self) -> Config:
        for name, run in self.runs.items():
            critic = run.critic
            if sum(map(bool, (critic.from_run, critic.pretrained, critic.path))) > 1:
                raise ValueError(f"runs.{name}.critic: give 'from' or 'path', not both")
            if run.algorithm == "grpo" and (critic.from_run or critic.pretrained or critic.freeze):
                raise ValueError(f"runs.{name}: grpo has no critic to load or freeze")
            seen = [name]
            while (source := self.before(seen[-1])) is not None:
                if source in seen:
                    raise ValueError(
                        f"runs: critic.from is a cycle: {' -> '.join([*seen, source])}"
                    )
                from_critic = self.runs[seen[-1]].critic.from_run
                if from_critic and self.runs[source].algorithm == "grpo":
                    raise ValueError(
                        f"runs.{seen[-1]}.critic.from: {source} is grpo, without critic"
                    )
                seen.append(source)
        return self

    def before(self, run: str) -> str | None:
        """The run that this one's critic needs first: its own, or the actor it was fitted to."""
        critic = self.runs[run].critic
        if critic.pretrained is not None:
            return self.critics[critic.pretrained].actor
        return critic.from_run

    @model_validator(mode="after")
    def _critics_have_the_seeds(self) -> Config:
        for name, run in self.runs.items():
            origin, seed = run.critic.from_run, run.critic.from_seed
            needed = set(self.seeds_of(name)) if seed is None else {seed}
            if origin and (lacking := needed - set(self.seeds_of(origin))):
                raise ValueError(
                    f"runs.{name}: its critic comes from {origin}, which has no seed "
                    f"{', '.join(map(str, sorted(lacking)))}"
                )
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> Config:
        for where, seeds in [
            ("seeds", self.seeds),
            *((f"runs.{name}.seeds", run.seeds or []) for name, run in self.runs.items()),
        ]:
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{where}: a seed stands there twice")
        return self

    @model_validator(mode="after")
    def _threshold_is_looked_at(self) -> Config:
        tested = any(run.train.test_every > 0 for run in self.runs.values())
        if self.validation_threshold is not None and not tested:
            raise ValueError(
                "validation_threshold: no run is validated while it is trained: set "
                "train.test_every"
            )
        return self

    @model_validator(mode="after")
    def _contrasts_hold(self) -> Config:
        check_contrasts(self.contrasts, self)
        return self

    @model_validator(mode="after")
    def _kept_steps_are_saved(self) -> Config:
        for name, run in self.runs.items():
            train = run.train
            for step in train.keep_steps:
                if step > train.steps or (step % train.save_every and step != train.steps):
                    raise ValueError(
                        f"runs.{name}: step {step} is asked for (train.keep_steps, truth.steps, or "
                        f"the critic.from of another run), but it saves every "
                        f"{train.save_every} of its {train.steps} steps"
                    )
        return self

    @model_validator(mode="after")
    def _critics_fit(self) -> Config:
        for name, run in self.runs.items():
            if (source := self.runs.get(run.critic.from_run or "")) is None:
                continue
            where = f"runs.{name}.critic"
            heads = source.critic.value_head, run.critic.value_head
            if heads[0] != heads[1]:
                raise ValueError(
                    f"{where}.value_head: {heads[1]}, but {run.critic.from_run} trains a critic "
                    f"whose head is {heads[0]}: write the same in both"
                )
            models = self.models[source.model], self.models[run.model]
            if bool(models[0].build) != bool(models[1].build):
                raise ValueError(
                    f"{where}.from: {run.critic.from_run} trains {source.model}, {name} trains "
                    f"{run.model}: their tokenizers differ, and the critic would read other "
                    "tokens than the actor writes; use models of one family"
                )
        return self

    @model_validator(mode="after")
    def _trainings_can_work(self) -> Config:
        for name, run in self.runs.items():
            train, where = run.train, f"runs.{name}.train"
            if train.strategy == "fsdp" and self.resources.device == "cpu":
                raise ValueError(f"{where}.strategy: fsdp needs a GPU, write fsdp2")
            if run.critic_learns and train.critic_warmup >= train.steps:
                raise ValueError(
                    f"{where}.critic_warmup: with {train.critic_warmup} of {train.steps} steps the "
                    "actor would never learn: lower it, or raise steps"
                )
            task = self.tasks[run.task]
            sizes = (task.split.train, task.source.made)
            problems = min((size for size in sizes if size), default=None)
            if problems is not None and train.batch_size > problems:
                raise ValueError(
                    f"{where}.batch_size: {train.batch_size} prompts a step, but {run.task} has "
                    f"at most {problems} training problems: lower it, or take more problems"
                )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Config:
        ranks = self.resources.ranks
        for name, run in self.runs.items():
            train, where = run.train, f"runs.{name}.train"
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
        return self


_SECTIONS = ("critics", "runs")


def _named_critic(run: Any, critics: dict[str, Any]) -> Any:
    """A raw run whose ``critic.from`` names a pretrained critic, with that as ``pretrained``."""
    critic = run.get("critic") if isinstance(run, dict) else None
    if not isinstance(critic, dict):
        return run
    origin = critic.get("from")
    name = origin.get("run") if isinstance(origin, dict) else origin
    if not isinstance(name, str) or name not in critics:
        return run
    parts = {"from": None, "pretrained": name}
    if isinstance(origin, dict):
        parts |= {f"from_{key}": value for key, value in origin.items() if key != "run"}
    return {**run, "critic": {**critic, **parts}}


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
