"""Runs: what is trained, with which critic, and on which rewards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from criticflow.config.fields import Fraction, NotNegative, Positive, Strict
from criticflow.config.names import Name, RunName
from criticflow.config.resources import OwnResources


class PretrainedCritic(Strict):
    """A critic fitted offline to the returns of sampled responses to training problems."""

    model: Name = Field(description="base model that the critic starts from")
    task: Name = Field(description="task whose training problems are sampled")
    actor: RunName | None = Field(
        None, description="run whose actor is sampled, same seed; null: the base model itself"
    )
    samples: Positive = Field(16, description="responses per problem")
    problems: Annotated[int, Field(ge=2)] | None = Field(
        None, description="at most this many training problems; null: all"
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of these problems that judges the fit and is not learned from"
    )
    temperature: float = Field(1.0, gt=0, description="of the samples")
    gamma: Fraction = Field(1.0, description="discount of the returns")
    passes: Positive = Field(2, description="passes over the samples")
    batch_size: Positive = Field(128, description="responses per optimizer step")
    micro_batch_size: Positive = Field(16, description="responses per rank and forward pass")
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


class Oracle(Strict):
    """Values that are means of continuations of the actor (``criticflow.verl_plugin.oracle``)."""

    continuations: Positive = Field(8, description="of the current actor from every state")
    lines_above: Positive | None = Field(
        256, description="responses of more tokens have their states at line ends; null: none have"
    )


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
    oracle: Oracle | None = Field(
        None,
        description="in place of a critic, means of continuations from every state; needs freeze",
    )
    scale: float = Field(
        1.0, description="factor on the values of the critic that is loaded, or on an oracle's"
    )
    shuffle: bool = Field(
        False,
        description="give PPO the critic's values exchanged between the trajectories of a step, at "
        "equal position in the response; needs freeze",
    )

    @property
    def is_model(self) -> bool:
        """Whether a model gives the values, rather than a constant or an oracle."""
        return self.constant is None and self.oracle is None

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
    def _oracle_stands_alone(self) -> Critic:
        if self.oracle is None:
            return self
        if not self.freeze:
            raise ValueError("oracle needs freeze: true: no critic learns beside it")
        origins = (self.from_run, self.pretrained, self.path, self.constant)
        if any(origin is not None for origin in origins):
            raise ValueError(
                "oracle: its values are no critic's: leave from, path and constant out"
            )
        return self

    @model_validator(mode="after")
    def _shuffled_is_frozen(self) -> Critic:
        if self.shuffle and not self.freeze:
            raise ValueError(
                "shuffle needs freeze: true: a critic that learns is updated from its own values"
            )
        if self.shuffle and not self.is_model:
            raise ValueError("shuffle takes the values of a critic: leave constant and oracle out")
        return self

    @model_validator(mode="after")
    def _frozen_is_trained(self) -> Critic:
        trained = self.from_run or self.pretrained or self.path or not self.is_model
        if self.freeze and not (trained or self.allow_untrained):
            raise ValueError(
                "freeze: true would keep a fresh value head as it is: give the trained critic "
                "(from or path), or for a control run constant, oracle, or allow_untrained: true"
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
    # None of these has a part in what a training learns: no copy of the settings holds them.
    resources: OwnResources = Field(
        OwnResources(), exclude=True, description="what its training may use otherwise than others"
    )
    seeds: list[int] | None = Field(
        None, min_length=1, exclude=True, description="seeds of this run; null: those of the study"
    )
    factors: dict[Name, Name] = Field(
        {}, exclude=True, description="levels of the grid's factors that made this run"
    )

    @property
    def leaves_critic(self) -> bool:
        """Whether there is a critic after the training: GRPO has none, nor has an oracle."""
        return self.algorithm == "ppo" and self.critic.oracle is None

    @property
    def critic_learns(self) -> bool:
        """Whether a critic is trained along with the actor: GRPO has none, a frozen one stays."""
        return self.algorithm == "ppo" and not self.critic.freeze
