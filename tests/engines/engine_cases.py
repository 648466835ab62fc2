"""What the ranks of ``test_engines.py`` do: verl's own workers and engines, driven directly."""

from __future__ import annotations

import gc
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import verl  # noqa: F401  (loads the plugin)
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, TrainingWorkerConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.utils.losses import value_loss

from criticflow.errors import UserError
from criticflow.verl_plugin.critic_fit import build_engine
from criticflow.verl_plugin.model_config import CriticConfig, ModelConfig, ValueModelConfig
from criticflow.verl_plugin.workers import CriticWorker

PROMPT, RESPONSE = 6, 8
FP32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def start() -> None:
    from verl.utils.distributed import initialize_global_process_group_ray

    initialize_global_process_group_ray()


def critic_config(path: str, **settings: Any) -> CriticConfig:
    model = ValueModelConfig(
        path=path,
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        head_seed=settings.pop("head_seed", 0),
    )
    strategy = settings.pop("strategy", "fsdp2")
    engine = FSDPEngineConfig(
        use_torch_compile=False,
        mixed_precision=FP32,
        strategy=strategy,
        optimizer_offload=settings.pop("optimizer_offload", False),
    )
    optim = FSDPOptimizerConfig(lr=1e-2, total_training_steps=10)
    checkpoint = CheckpointConfig(**settings.pop("checkpoint", {}))
    return CriticConfig(
        strategy=strategy,
        model=model,
        fsdp=engine,
        optim=optim,
        checkpoint=checkpoint,
        ppo_micro_batch_size_per_gpu=4,
        ppo_mini_batch_size=4,
        **settings,
    )


def critic_engine(path: str, **settings: Any) -> Any:
    config = critic_config(path, **settings)
    engine = build_engine(config)
    engine.critic_config = config
    return engine


def critic_worker(path: str, **settings: Any) -> CriticWorker:
    config = critic_config(path, **settings)
    worker = CriticWorker(
        TrainingWorkerConfig(
            model_type="value_model",
            model_config=config.model,
            engine_config=config.engine,
            optimizer_config=config.optim,
            checkpoint_config=config.checkpoint,
        )
    )
    worker.reset()
    return worker


def batch(rank: int, seed: int = 0) -> TensorDict:
    """Four trajectories of one rank, as verl's trainer hands them to a critic."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    size, length = 4, PROMPT + RESPONSE
    rows = [torch.randint(10, 90, (length,), generator=generator) for _ in range(size)]
    nested = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
    values = [torch.zeros(RESPONSE) for _ in range(size)]
    returns = [torch.rand(RESPONSE, generator=generator) for _ in range(size)]
    mask = [torch.ones(RESPONSE, dtype=torch.int64) for _ in range(size)]
    data = TensorDict(
        {
            "input_ids": nested(rows),
            "position_ids": nested([torch.arange(length) for _ in range(size)]),
            "prompts": nested([row[:PROMPT] for row in rows]),
            "responses": nested([row[PROMPT:] for row in rows]),
            "response_mask": nested(mask),
            "loss_mask": nested(mask),
            "values": nested(values),
            "returns": nested(returns),
        },
        batch_size=size,
    )
    tu.assign_non_tensor(
        data,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=4,
        max_token_len_per_gpu=4096,
        use_remove_padding=False,
        use_fused_kernels=False,
        temperature=1.0,
        global_batch_size=4 * torch.distributed.get_world_size(),
    )
    return data


def values(engine: Any, data: TensorDict) -> torch.Tensor:
    with engine.eval_mode():
        output = engine.infer_batch(data.clone(), loss_function=None)
    return output["model_output"]["values"].to_padded_tensor(0.0)


def train(engine: Any, data: TensorDict, steps: int) -> None:
    loss = partial(value_loss, config=engine.critic_config)
    for _ in range(steps):
        with engine.train_mode():
            engine.train_batch(data.clone(), loss_function=loss)


def checksum(engine: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(engine.module.state_dict().items()):
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        digest.update(name.encode() + local.contiguous().numpy().tobytes())
    return digest.hexdigest()


def refusal(action: Any) -> str:
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


# --- cases -------------------------------------------------------------------------------------


def train_and_save(rank: int, model: str, out: str, head: str) -> dict[str, Any]:
    """Train a critic, save it as verl does, and go on from the checkpoint."""
    start()
    engine, data = critic_engine(model, value_head=head), batch(rank)
    before = values(engine, data)
    train(engine, data, steps=3)
    engine.save_checkpoint(f"{out}/global_step_3/critic", None, 3, None)
    saved, at_saving = checksum(engine), values(engine, data)
    train(engine, data, steps=2)
    further = checksum(engine)
    other = critic_engine(model, value_head=head, head_seed=99)
    other.load_checkpoint(f"{out}/global_step_3/critic", None, False)
    restored = checksum(other)
    train(other, data, steps=2)
    return {
        "learned": not torch.equal(before, at_saving),
        "restored": restored == saved,
        "resumed_equal": checksum(other) == further,
        "values": at_saving,
        "tokens": data["input_ids"].to_padded_tensor(0),
        "files": sorted(path.name for path in Path(out, "global_step_3/critic").iterdir()),
        "saved": saved,
    }


def go_on(rank: int, model: str, folder: str, head: str) -> dict[str, torch.Tensor]:
    """Two more steps from a checkpoint; every rank has the same batch, so that their number has no
    part in the mean gradient."""
    start()
    engine = critic_engine(model, value_head=head, head_seed=99)
    engine.load_checkpoint(folder, None, False)
    train(engine, batch(0), steps=2)
    return {name: tensor.full_tensor() for name, tensor in engine.module.state_dict().items()}


def frozen(rank: int, critic: str, out: str) -> dict[str, Any]:
    """A frozen critic gives values, keeps its bytes, saves and resumes without optimizer."""
    start()
    engine, data = critic_engine(critic, freeze=True, optimizer_offload=True), batch(rank)
    before, first = checksum(engine), values(engine, data)
    engine.save_checkpoint(f"{out}/global_step_1/critic", None, 1, None)
    engine.load_checkpoint(f"{out}/global_step_1/critic", None, False)
    return {
        "values": first,
        "again": torch.equal(first, values(engine, data)),
        "unchanged": before == checksum(engine),
        "optimizer": engine.optimizer,
        "scheduler": engine.lr_scheduler,
        "gradients": [name for name, p in engine.module.named_parameters() if p.requires_grad],
        "dtypes": {str(parameter.dtype) for parameter in engine.module.parameters()},
        "files": sorted(path.name for path in Path(out, "global_step_1/critic").iterdir()),
    }


def model_path(rank: int, critic: str, head: str, out: str) -> dict[str, torch.Tensor]:
    """Values of a converted directory as ``critic.model.path``, to train and frozen; the latter is
    saved again."""
    start()
    data, result = batch(rank), {}
    for name, freeze in (("to train", False), ("frozen", True)):
        engine = critic_engine(critic, freeze=freeze, value_head=head)
        result[name] = values(engine, data)
    engine.save_checkpoint(f"{out}/critic", None, 1, None)
    return result


def optimizer_memory(rank: int, critic: str) -> dict[str, float]:
    """Bytes a parameter that a trained and a frozen critic hold after a step."""
    start()
    data, result = batch(rank), {}
    for freeze in (False, True):
        engine = critic_engine(critic, freeze=freeze)
        if freeze:
            values(engine, data)
        else:
            train(engine, data, steps=1)
        parameters = list(engine.module.parameters())
        tensors = [p.to_local() for p in parameters]
        tensors += [p.grad.to_local() for p in parameters if p.grad is not None]
        if engine.optimizer is not None:
            tensors += [
                value.to_local() if hasattr(value, "to_local") else value
                for state in engine.optimizer.state.values()
                for value in state.values()
            ]
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        result[f"freeze={freeze}"] = held / sum(p.to_local().numel() for p in parameters)
        del engine
        gc.collect()
    result["rss"] = psutil.Process().memory_info().rss
    return result


def refusals(rank: int, base: str, headless: str) -> dict[str, str]:
    """Critics that must not load silently."""
    start()
    return {
        "frozen base": refusal(lambda: critic_engine(base, freeze=True)),
        "critic without head": refusal(lambda: critic_engine(headless)),
        "allowed": refusal(lambda: critic_engine(base, freeze=True, allow_untrained=True)),
    }


def fresh_heads(rank: int, base: str) -> list[torch.Tensor]:
    """Values of fresh heads with seeds 0, 0 and 1."""
    start()
    data = batch(rank)
    return [values(critic_engine(base, head_seed=seed), data) for seed in (0, 0, 1)]


def critic_alone(rank: int, base: str, checkpoint: str) -> dict[bool, dict[str, Any]]:
    """What a warm start does with the critic's worker: built from the base model, then loaded.

    For a frozen critic (True) and for one that goes on learning (False).
    """
    result = {}
    for freeze in (True, False):
        worker = critic_worker(base, freeze=freeze, allow_untrained=True)
        before = worker.weights_checksum()
        names = worker.load_weights_only(checkpoint)
        engine = worker.engine
        result[freeze] = {
            "names": names,
            "parameters": sorted(name for name, _ in engine.module.named_parameters()),
            "changed": before != worker.weights_checksum(),
            "weights": checksum(engine),
            "optimizer": None if engine.optimizer is None else len(engine.optimizer.state),
            "contents": engine.checkpoint_manager.checkpoint_load_contents,
        }
    return result


def constant(rank: int, base: str) -> dict[str, dict[str, Any]]:
    """Values of constant critics with each kind of head."""
    start()
    result = {}
    for head in ("linear", "mlp"):
        engine = critic_engine(base, freeze=True, constant=0.4, value_head=head)
        result[head] = {
            "values": values(engine, batch(rank)),
            "learning": [name for name, p in engine.module.named_parameters() if p.requires_grad],
            "optimizer": engine.optimizer,
        }
    return result


def checkpoints(rank: int, critic: str, out: str) -> dict[str, Any]:
    """What verl keeps, saves and loads for a trained and for a frozen critic."""
    start()
    data, result = batch(rank), {}
    for kind, freeze in (("trained", False), ("frozen", True)):
        folder = Path(out, kind)
        engine = critic_engine(critic, freeze=freeze)
        for step in (1, 2, 3):
            engine.save_checkpoint(str(folder / f"global_step_{step}"), None, step, 2)
        result[f"{kind}: kept"] = sorted(path.name for path in folder.iterdir())
        result[f"{kind}: files"] = sorted(
            path.name for path in (folder / "global_step_3").iterdir()
        )

        weights_only = {"save_contents": ["model"], "load_contents": ["model"]}
        engine = critic_engine(critic, freeze=freeze, checkpoint=weights_only)
        if not freeze:
            train(engine, data, steps=1)
        saved = checksum(engine)
        engine.save_checkpoint(str(folder / "model_only"), None, 1, None)
        result[f"{kind}: model only"] = sorted(
            path.name for path in (folder / "model_only").iterdir()
        )
        other = critic_engine(critic, freeze=freeze, checkpoint=weights_only)
        other.load_checkpoint(str(folder / "model_only"), None, False)
        result[f"{kind}: loaded"] = checksum(other) == saved
        result[f"{kind}: optimizer"] = other.optimizer and len(other.optimizer.state)

        whole = {"save_contents": ["model", "hf_model"], "load_contents": ["model"]}
        engine = critic_engine(critic, freeze=freeze, checkpoint=whole)
        engine.save_checkpoint(str(folder / "whole"), None, 1, None)
        result[f"{kind}: values"] = values(engine, data)
    result["tokens"] = data["input_ids"].to_padded_tensor(0)
    return result


def attention(rank: int, base: str) -> list[dict[str, str]]:
    """Which attention the modules of a critic and of an actor run: by default, then as asked."""
    start()
    found = []
    for variable in ({}, {"HF_ATTN_IMPLEMENTATION": "eager"}):
        os.environ.update(variable)
        model = ModelConfig(
            path=base, use_remove_padding=False, enable_gradient_checkpointing=False
        )
        model.model_type = "language_model"
        actor = EngineRegistry.new(
            model_type="language_model",
            backend="fsdp2",
            model_config=model,
            engine_config=FSDPEngineConfig(
                use_torch_compile=False, mixed_precision=FP32, strategy="fsdp2"
            ),
            optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=10),
            checkpoint_config=CheckpointConfig(),
        )
        actor.initialize()
        modules = {"critic": critic_engine(base).module, "actor": actor.module}
        found.append({name: item.config._attn_implementation for name, item in modules.items()})
    return found


def fsdp1(rank: int, critic: str, base: str, out: str) -> dict[str, Any]:
    """A critic in FSDP1, with what keeps it off the CPU taken away: torch's refusal to broadcast
    parameters that are not on an accelerator, and verl's moving them there."""
    torch.distributed.fsdp._init_utils._check_module_states_for_sync_module_states = lambda _: None
    transformer_impl.load_fsdp_model_to_gpu = lambda module: None
    start()
    data, folder = batch(rank), f"{out}/global_step_1/critic"
    engine = critic_engine(critic, strategy="fsdp")
    result = {"tokens": data["input_ids"].to_padded_tensor(0), "values": values(engine, data)}
    train(engine, data, steps=1)
    result["trained"] = values(engine, data)
    engine.save_checkpoint(folder, None, 1, None)

    worker = critic_worker(base, strategy="fsdp", freeze=True, allow_untrained=True)
    before = worker.weights_checksum()
    result["names"] = worker.load_weights_only(folder)
    result["changed"] = before != worker.weights_checksum()
    frozen = worker.engine
    result["frozen"] = values(frozen, data)
    result["optimizer"] = frozen.optimizer
    result["learning"] = [name for name, p in frozen.module.named_parameters() if p.requires_grad]
    frozen.save_checkpoint(f"{out}/global_step_2/critic", None, 2, None)
    frozen.load_checkpoint(f"{out}/global_step_2/critic", None, False)
    result["again"] = values(frozen, data)
    result["files"] = sorted(path.name for path in Path(out, "global_step_2/critic").iterdir())

    constant = critic_engine(base, strategy="fsdp", freeze=True, constant=0.4)
    result["constant"] = values(constant, data)
    return result
