"""A run's settings in verl's words, composed with verl's real configuration."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.import_utils import load_class_from_fqn

from checkpoint_writers import tiny_actor, tiny_critic, tiny_tokenizer
from criticflow.config import Config, Service, read_config
from criticflow.config.load import load_config, merge
from criticflow.errors import UserError
from criticflow.planning.study import read_study
from criticflow.training.overrides import (
    SMALLEST_BUCKET,
    Places,
    bucket_megabytes,
    node_cpus,
    verl_overrides,
)
from criticflow.verl_plugin import BATCHED_ROLLOUTS, SEARCH_LOOP, settings
from criticflow.verl_plugin.critic_model import check_models
from criticflow.verl_plugin.dialogues import SearchSettings
from criticflow.verl_plugin.rollout_errors import TellingAgentLoopManager

PROJECT = Path(__file__).parents[2]


def verl_config(
    config: Config,
    run: str,
    critic_dir: str | None = None,
    model_dir: str = "models/base",
    largest_tensor: int = 0,
):
    """verl's whole configuration for a run; an unknown key of verl's fails here."""
    named = config.runs[run]
    overrides = verl_overrides(
        named,
        config.models[named.model],
        config.tasks[named.task],
        config.resources,
        name=run,
        seed=3,
        places=Places(model_dir, critic_dir, Path("data"), Path("checkpoints")),
        largest_tensor=largest_tensor,
    )
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        return compose("criticflow_trainer", overrides=overrides)


@pytest.fixture(scope="module")
def study() -> Config:
    return read_config(PROJECT / "config" / "config.yaml")


@pytest.mark.parametrize("verl", [{}, {"critic.use_dynamic_bsz": True}])
def test_the_critic_keeps_to_the_micro_batch_size(study, tmp_path, verl):
    run = study.runs["cold"]
    train = run.train.model_copy(update={"micro_batch_size": 4, "verl": verl})
    runs = {"cold": run.model_copy(update={"train": train})}
    tiny_critic().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = verl_config(
        study.model_copy(update={"runs": runs}), "cold", str(tmp_path), model_dir=str(tmp_path)
    )
    engine = omega_conf_to_dataclass(config.critic).engine
    if verl:
        assert engine.use_dynamic_bsz is True
    else:
        assert engine.use_dynamic_bsz is False
        assert engine.micro_batch_size_per_gpu == engine.infer_micro_batch_size_per_gpu == 4


def test_the_cold_run_trains_a_critic_from_the_base_model(study):
    config = verl_config(study, "cold")
    assert config.critic.model.path == "models/base"
    assert config.critic.freeze is False and config.algorithm.reward_mask_ratio == 0.0
    assert config.algorithm.adv_estimator == "gae"
    assert config.trainer.v1.trainer_mode == "criticflow"
    assert config.trainer.n_gpus_per_node == study.resources.ranks
    settings.check(config)
    # verl's own would delete an older actor before the newer critic is there.
    assert settings.keep_checkpoints(config) == study.runs["cold"].train.keep_checkpoints
    assert config.trainer.max_actor_ckpt_to_keep is config.trainer.max_critic_ckpt_to_keep is None


def test_the_warm_run_freezes_the_given_critic_and_masks_rewards(study):
    config = verl_config(study, "warm-frozen-m50", critic_dir="runs/cold/critic")
    assert config.critic.model.path == "runs/cold/critic"
    assert config.actor_rollout_ref.model.path == "models/base"
    assert config.critic.freeze is True
    mask = settings.RewardMaskSettings.read(config)
    assert (mask.ratio, mask.type, mask.rescale, mask.seed) == (0.5, "bernoulli", False, 3)


def test_verl_settings_of_a_run_win_and_may_be_new():
    raw = {
        "models": {"base": {"path": "models/base"}},
        "tasks": {"t": {"kind": "countdown", "source": {"generate": {}}, "split": {"test": 1}}},
        "runs": {
            "plain": {
                "model": "base",
                "task": "t",
                "algorithm": "grpo",
                "train": {"rollout_n": 4, "verl": {"actor_rollout_ref.actor.clip_ratio": 0.1}},
            }
        },
    }
    config = verl_config(load_config(raw), "plain")
    assert config.actor_rollout_ref.actor.clip_ratio == 0.1
    assert config.algorithm.adv_estimator == "grpo"
    assert config.actor_rollout_ref.rollout.n == 4


def shipped() -> list[Path]:
    return sorted((PROJECT / "config" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_experiments_pass_verls_own_checks(path, tmp_path):
    actor, critic = tmp_path / "actor", tmp_path / "critic"
    tiny_actor().save_pretrained(actor)  # verl looks into the model's configuration
    tiny_tokenizer().save_pretrained(actor)
    tiny_critic().save_pretrained(critic)
    default = yaml.safe_load((PROJECT / "config" / "config.yaml").read_text(encoding="utf-8"))
    study = load_config(merge(default, yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert study.resources.device == "cuda"
    for run, named in study.runs.items():
        warm = str(critic) if named.critic.from_run else None
        config = verl_config(study, run, critic_dir=warm, model_dir=str(actor))
        settings.check(config)
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(config),
            use_critic=need_critic(config),
        )
        assert need_critic(config) == (named.algorithm == "ppo")
        assert need_reference_policy(config) == (named.train.kl_coef > 0)
        assert config.trainer.n_gpus_per_node == study.resources.gpu
        for section in ("actor", "rollout"):
            omega_conf_to_dataclass(config.actor_rollout_ref[section])


def test_padding_is_removed_only_for_attention_that_knows_packed_sequences(study):
    model = study.models["tiny"]
    for attention, packed in (("flash_attention_2", True), ("sdpa", False), (None, False)):
        other = model.model_copy(update={"attn_implementation": attention})
        models = {**study.models, "tiny": other}
        config = verl_config(study.model_copy(update={"models": models}), "cold")
        assert config.actor_rollout_ref.model.use_remove_padding is packed
        assert config.critic.model.use_remove_padding is packed


def test_the_cpu_has_batched_rollouts_and_a_gpu_verls_own(study):
    agent = verl_config(study, "cold").actor_rollout_ref.rollout.agent
    assert agent.agent_loop_manager_class == BATCHED_ROLLOUTS
    gpu = study.resources.model_copy(update={"gpu": 2})
    agent = verl_config(study.model_copy(update={"resources": gpu}), "cold")
    manager = agent.actor_rollout_ref.rollout.agent.agent_loop_manager_class
    assert load_class_from_fqn(manager) is TellingAgentLoopManager
    assert issubclass(TellingAgentLoopManager, AgentLoopManagerTQ)


def test_environment_variables_set_the_keys_of_a_training_command(monkeypatch):
    monkeypatch.setenv("REWARD_MASK_RATIO", "0.25")
    monkeypatch.setenv("FREEZE_CRITIC", "true")
    monkeypatch.setenv("CRITIC_MODEL_PATH", "critics/one")
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        config = compose("criticflow_trainer", overrides=[])
    assert settings.RewardMaskSettings.read(config).ratio == 0.25
    assert settings.as_bool("critic.freeze", config.critic.freeze) is True
    assert config.critic.model.path == "critics/one"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "algorithm.reward_mask_ratio=1.5",
            "reward_mask_ratio=1.5: .* less than or equal to 1",
        ),
        ("algorithm.reward_mask_type=token", "reward_mask_type"),
        ("critic.value_head=deep", "value_head"),
        ("critic.freeze=perhaps", "not a boolean"),
        ("critic.allow_untrained=perhaps", "not a boolean"),
        ("trainer.load_critic_only=perhaps", "not a boolean"),
        ("algorithm.reward_mask_rescale=perhaps", "not a boolean"),
        ("algorithm.reward_mask_ratio=half", "not a number"),
        ("algorithm.reward_mask_ratio=-0.1", "reward_mask_ratio=-0.1: .* greater than"),
        ("algorithm.reward_mask_ratio=true", "not a number"),
        ("algorithm.reward_mask_seed=today", "not a whole number"),
        ("algorithm.reward_mask_seed=1.5", "not a whole number"),
        ("critic.model.head_seed=1.5", "not a whole number"),
        ("trainer.keep_checkpoints=0", "keep at least 1"),
        ("trainer.keep_checkpoints=many", "not a whole number"),
        ("critic.model.path=''", "critic.model.path is empty"),
        ("algorithm.random_reward=1.5", "random_reward=1.5: .* less than or equal to 1"),
        ("algorithm.random_reward=often", "not a number"),
        ("critic.constant=0.5", "critic.freeze=true"),
        ("trainer.lost_trajectories=1", "a share of a step's trajectories"),
        ("trainer.lost_trajectories=few", "not a number"),
    ],
)
def test_impossible_values_are_refused_before_anything_starts(override, message):
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        config = compose("criticflow_trainer", overrides=[override])
    with pytest.raises(UserError, match=message):
        settings.check(config)


@pytest.mark.parametrize(
    "lora",
    ["critic.model.lora_rank=8", "critic.model.lora.rank=8", "critic.model.lora_adapter_path=x"],
)
def test_a_critic_with_an_adapter_that_has_no_value_head_is_refused(lora):
    overrides = ["algorithm.adv_estimator=gae", lora]
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        config = compose("criticflow_trainer", overrides=overrides)
        actor = lora.replace("critic.model", "actor_rollout_ref.model")
        settings.check(compose("criticflow_trainer", overrides=[overrides[0], actor]))
    with pytest.raises(UserError, match=r"critic\.model\.lora_rank.*no value head"):
        settings.check(config)


@pytest.mark.parametrize(("gpus", "needed"), [(1, 6), (8, 27)])
def test_too_few_cpus_for_the_actors_are_refused(study, gpus, needed):
    resources = study.resources.model_copy(update={"gpu": gpus})
    config = verl_config(study.model_copy(update={"resources": resources}), "cold")
    settings.check_cpus(config, float(needed))
    with pytest.raises(UserError, match=rf"Ray has {needed - 1} CPUs, .* claims {needed}"):
        settings.check_cpus(config, needed - 1.0)


@pytest.mark.parametrize(("gpus", "nodes", "units"), [(0, 1, 1), (8, 1, 2), (8, 4, 8)])
def test_the_queue_has_few_processes_and_ray_no_dashboard(study, gpus, nodes, units):
    resources = study.resources.model_copy(update={"gpu": gpus, "nodes": nodes})
    config = verl_config(study.model_copy(update={"resources": resources}), "cold")
    assert config.transfer_queue.backend.SimpleStorage.num_data_storage_units == units
    every_node = nodes * node_cpus(resources)
    settings.check_cpus(config, every_node)
    if nodes == 1:  # of several each starts its own Ray, by a command
        assert config.ray_kwargs.ray_init.include_dashboard is False
        assert config.ray_kwargs.ray_init.num_cpus == every_node


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_on_the_cpu_there_are_always_enough(study, ranks):
    resources = study.resources.model_copy(update={"cpu_ranks": ranks})
    config = verl_config(study.model_copy(update={"resources": resources}), "cold")
    settings.check_cpus(config, config.ray_kwargs.ray_init.num_cpus)


def with_train(study: Config, run: str, **train) -> Config:
    raw = study.model_dump(mode="json", by_alias=True)
    return load_config(merge(raw, {"runs": {run: {"train": train}}, "contrasts": []}))


def test_warm_up_steps_are_as_many_as_asked_for(study):
    """verl's key is the number of the step with which the actor starts."""
    for asked, first in ((0, 0), (1, 2), (3, 4)):
        config = verl_config(with_train(study, "cold", critic_warmup=asked), "cold")
        assert config.trainer.critic_warmup == first
        steps = range(1, config.trainer.total_training_steps + 1)
        assert sum(step < config.trainer.critic_warmup for step in steps) == asked
    warm = with_train(study, "warm-frozen-m50", critic_warmup=3)
    assert verl_config(warm, "warm-frozen-m50").trainer.critic_warmup == 0
    own = with_train(study, "cold", critic_warmup=3, verl={"trainer.critic_warmup": 2})
    assert verl_config(own, "cold").trainer.critic_warmup == 2


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "fp32"), ("bfloat16", "bf16")])
def test_the_reference_policy_is_as_precise_as_the_actor(study, dtype, precision):
    config = verl_config(with_train(study, "cold", dtype=dtype, kl_coef=0.1), "cold")
    actor, ref = config.actor_rollout_ref.actor, config.actor_rollout_ref.ref
    assert ref.fsdp_config.mixed_precision == actor.fsdp_config.mixed_precision
    assert ref.fsdp_config.mixed_precision.param_dtype == precision
    assert omega_conf_to_dataclass(ref.fsdp_config).mixed_precision["param_dtype"] == precision


def test_a_critic_that_reads_other_tokens_or_has_another_head_is_refused(tmp_path):
    tiny_actor().save_pretrained(tmp_path / "actor")
    tiny_critic().save_pretrained(tmp_path / "critic")
    overrides = ["algorithm.adv_estimator=gae", f"critic.model.path={tmp_path}/critic"]
    overrides += [f"actor_rollout_ref.model.path={tmp_path}/actor"]

    def check(*more: str) -> None:
        with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
            check_models(compose("criticflow_trainer", overrides=[*overrides, *more]))

    with pytest.raises(UserError, match=r"value_head=mlp: the critic in .* has the head 'linear'"):
        check("critic.value_head=mlp")
    tiny_tokenizer().save_pretrained(tmp_path / "actor")
    check()  # nothing to compare with
    tiny_tokenizer().save_pretrained(tmp_path / "critic")
    check()
    other = tiny_tokenizer()
    other.add_tokens(["<new>"])
    other.save_pretrained(tmp_path / "critic")
    with pytest.raises(UserError, match=r"another tokenizer than the actor.*'<new>' is token"):
        check()


@pytest.mark.parametrize("word", ["", "half", "0,5"])
def test_a_shells_ratio_that_is_no_number_is_refused(word, monkeypatch):
    monkeypatch.setenv("REWARD_MASK_RATIO", word)
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        config = compose("criticflow_trainer", overrides=[])
    with pytest.raises(UserError, match=f"reward_mask_ratio='{word}' is not a number"):
        settings.check(config)


@pytest.mark.parametrize("word", ["false", "False", "'false'", "0", "no", ""])
def test_a_shells_false_is_false(word, monkeypatch):
    monkeypatch.setenv("FREEZE_CRITIC", word.strip("'"))
    keys = ("critic.freeze", "critic.allow_untrained", "trainer.load_critic_only")
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        from_shell = compose("criticflow_trainer", overrides=[])
        config = compose("criticflow_trainer", overrides=[f"{key}={word}" for key in keys])
    settings.check(config)
    assert settings.as_bool("critic.freeze", from_shell.critic.freeze) is False
    for key in keys:
        assert settings.as_bool(key, OmegaConf.select(config, key)) is False


def test_control_arms_reach_verl():
    raw = {
        "models": {"base": {"path": "models/base"}},
        "tasks": {"t": {"kind": "countdown", "source": {"generate": {}}, "split": {"test": 1}}},
        "runs": {
            "constant": {"model": "base", "task": "t", "critic": {"freeze": True, "constant": 0.4}},
            "untrained": {
                "model": "base",
                "task": "t",
                "critic": {"freeze": True, "allow_untrained": True},
            },
            "random": {
                "model": "base",
                "task": "t",
                "random_reward": 0.4,
                "reward_mask": {"ratio": 0.5, "rescale": True},
            },
        },
    }
    config = load_config(raw)
    constant = verl_config(config, "constant")
    assert (constant.critic.constant, constant.critic.freeze) == (0.4, True)
    assert verl_config(config, "untrained").critic.allow_untrained is True
    random = verl_config(config, "random")
    assert settings.RandomRewardSettings.read(random) == settings.RandomRewardSettings(
        probability=0.4, seed=3
    )
    assert settings.RewardMaskSettings.read(random).rescale is True
    for one in (constant, random):
        settings.check(one)


def test_freezing_what_was_never_trained_is_refused_before_anything_starts(tmp_path):
    tiny_actor().save_pretrained(tmp_path / "actor")
    tiny_critic().save_pretrained(tmp_path / "critic")

    def check(critic: str, *overrides: str) -> None:
        common = ["algorithm.adv_estimator=gae", f"critic.model.path={tmp_path}/{critic}"]
        with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
            settings.check(compose("criticflow_trainer", overrides=[*common, *overrides]))

    with pytest.raises(UserError, match=r"\w+ForCausalLM.*never trained.*allow_untrained"):
        check("actor", "critic.freeze=true")
    with pytest.raises(UserError, match="nowhere cannot be read"):
        check("nowhere", "critic.freeze=true")
    check("actor")  # a critic that learns may start afresh
    check("critic", "critic.freeze=true")
    check("actor", "critic.freeze=true", "critic.allow_untrained=true")
    check("actor", "critic.freeze=true", "critic.constant=0.4")
    check("actor", "critic.freeze=true", "algorithm.adv_estimator=grpo")


def test_misspelt_keys_are_refused():
    with (
        initialize_config_module("criticflow.verl_plugin.config", version_base=None),
        pytest.raises(Exception, match="reward_mask_rate"),
    ):
        compose("criticflow_trainer", overrides=["algorithm.reward_mask_rate=0.5"])


def test_verls_own_keys_keep_their_defaults():
    with initialize_config_module("verl.trainer.config", version_base=None):
        stock = OmegaConf.to_container(compose("ppo_trainer"))
    with initialize_config_module("criticflow.verl_plugin.config", version_base=None):
        ours = OmegaConf.to_container(compose("criticflow_trainer"))
    changed = sorted(different(stock, ours))
    assert changed == [
        "actor_rollout_ref.model._target_",
        "actor_rollout_ref.rollout.agent.default_agent_loop",
        "critic._target_",
        "critic.model._target_",
        "critic.model.path",
        "trainer.v1.trainer_mode",
    ]


def different(stock, ours, where=""):
    """Dotted keys of ``stock`` that have another value in ``ours``."""
    for key, value in stock.items():
        if isinstance(value, dict):
            yield from different(value, ours[key], f"{where}{key}.")
        elif value != ours[key]:
            yield f"{where}{key}"


def test_the_bucket_of_new_rollout_weights_holds_the_largest_tensor(study):
    embedding = 49152 * 576
    assert bucket_megabytes(embedding) * 2**20 >= 4 * embedding
    assert bucket_megabytes(1000) == SMALLEST_BUCKET
    bucket = verl_config(study, "cold", largest_tensor=embedding).actor_rollout_ref.rollout
    assert bucket.checkpoint_engine.update_weights_bucket_megabytes == 108


def test_an_engines_cache_may_be_less_than_a_gib(study):
    small = study.resources.model_copy(update={"kv_cache_gb": 0.25})
    config = verl_config(study.model_copy(update={"resources": small}), "cold")
    engine = config.actor_rollout_ref.rollout.engine_kwargs.vllm
    assert engine.kv_cache_memory_bytes == 2**28


def test_a_task_with_search_takes_its_own_agent_loop():
    study = read_study([PROJECT / "config/studies/search.yaml"])
    config = verl_config(study, "ppo-unmasked")
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == SEARCH_LOOP
    assert config.search.mask_observations is False and config.search.max_turns == 3
    task = study.tasks["facts"]
    rollout = config.actor_rollout_ref.rollout
    # A turn's prompt may be nearly the whole dialogue, and vLLM must not split it.
    assert rollout.max_num_batched_tokens >= rollout.max_num_seqs * rollout.max_model_len
    assert rollout.max_model_len == task.max_prompt_length + task.max_response_length
    assert verl_config(study, "ppo").search.mask_observations is True
    named = study.tasks["facts"].search.model_copy(
        update={"service": Service(url="http://node7:8000")}
    )
    elsewhere = task.model_copy(update={"search": named})
    config = verl_config(study.model_copy(update={"tasks": {"facts": elsewhere}}), "ppo")
    assert config.search.service.url == "http://node7:8000" and config.search.corpus is None


def test_without_search_no_key_of_it_is_set(study):
    run = study.runs["cold"]
    overrides = verl_overrides(
        run, study.models["tiny"], study.tasks[run.task], study.resources, name="cold", seed=0,
        places=Places("m", None, Path("d"), Path("c")),
    )  # fmt: skip
    assert not [override for override in overrides if override.startswith("search.")]


def test_the_agent_loop_reads_back_what_the_task_says():
    study = read_study([PROJECT / "config/studies/search.yaml"])
    search = study.tasks["facts"].search.model_copy(
        update={"service": Service(url="http://node7:8000", timeout_seconds=2), "invalid": "hint"}
    )
    task = study.tasks["facts"].model_copy(update={"search": search})
    config = verl_config(study.model_copy(update={"tasks": {"facts": task}}), "ppo")
    found = SearchSettings.read(config)
    assert found.search == search and found.corpus is None and found.masked
    assert found.max_response_tokens == task.max_response_length
    assert config.data.function_tool_path is None
    calls = task.model_copy(update={"search": search.model_copy(update={"format": "tool_calls"})})
    config = verl_config(study.model_copy(update={"tasks": {"facts": calls}}), "ppo")
    assert SearchSettings.read(config).search.format == "tool_calls"
    assert Path(config.data.function_tool_path).is_file()  # for the length of prompts
