"""What the ranks of ``test_engines.py`` do: verl's own workers and engines, driven directly."""

from __future__ import annotations

import gc
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import verl  # noqa: F401  (loads the plugin)
from tensordict import TensorDict
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import value_loss

from criticflow.errors import UserError
from criticflow.verl_plugin.model_config import CriticConfig, ValueModelConfig

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
    engine = FSDPEngineConfig(use_torch_compile=False, mixed_precision=FP32, strategy="fsdp2")
    optim = FSDPOptimizerConfig(lr=1e-2, total_training_steps=10)
    checkpoint = CheckpointConfig(**settings.pop("checkpoint", {}))
    return CriticConfig(
        strategy="fsdp2",
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
    config.model.model_type = "value_model"
    engine = EngineRegistry.new(
        model_type="value_model",
        backend="fsdp2",
        model_config=config.model,
        engine_config=config.engine,
        optimizer_config=config.optim,
        checkpoint_config=config.checkpoint,
    )
    engine.initialize()
    engine.critic_config = config
    return engine


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
    }


def frozen(rank: int, critic: str, out: str) -> dict[str, Any]:
    """A frozen critic gives values, keeps its bytes, saves and resumes without optimizer."""
    start()
    engine, data = critic_engine(critic, freeze=True), batch(rank)
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
