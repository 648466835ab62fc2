"""Fit a critic to Monte-Carlo returns, on the engine that PPO trains critics with.

    minimise  mean over tokens of (V(s_t) - G_t)^2 / 2,   G_t = gamma^(T - 1 - t) x score

over responses of T tokens that an actor sampled: value pretraining as in VC-PPO (arXiv 2503.01491).
Engine, optimizer, gradient clipping and loss (its clipping of values opened wide) are verl's; the
model, its value head and its loading are those of a run's critic (``engines``). This module has the
loop around them: order of the data, held-out error, checkpoints, early stop.

    python -m criticflow.verl_plugin.critic_fit SETTINGS.json

starts one process per rank, which torch ends together if one fails. No Ray.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from criticflow.files import read_json, replacing, write_json

if TYPE_CHECKING:
    from criticflow.verl_plugin.model_config import CriticConfig

STATE = "state.json"
HISTORY = "history.jsonl"
PRECISION = {"float32": "fp32", "bfloat16": "bf16"}
OPEN = 1e6
"""verl's loss clips how far a value moves in a step; this range is wider than any value."""


@dataclass(frozen=True)
class Settings:
    """One fit.

    Attributes:
        samples: parquet with ``prompt_tokens``, ``tokens``, ``score`` and ``held_out``.
        directory: where checkpoints, state and history go.
        passes: passes over the samples that are not held out.
        checks: how often the held-out error is computed in each pass, and a checkpoint saved.
        patience: checks without a smaller error after which the fit ends.
        ranks: processes; ``batch_size`` responses a step are shared among them.
    """

    model: str
    samples: str
    directory: str
    device: str
    ranks: int
    batch_size: int
    micro_batch_size: int
    passes: int
    checks: int
    patience: int
    learning_rate: float
    warmup: float
    weight_decay: float
    gamma: float
    seed: int
    value_head: str
    dtype: str
    strategy: str
    attn_implementation: str | None
    trust_remote_code: bool


@dataclass(frozen=True)
class State:
    """How far a fit is: its steps, the best check so far, and whether it has ended."""

    step: int = 0
    best_step: int = 0
    best_mse: float | None = None
    worse: int = 0
    done: bool = False


def read_state(directory: Path) -> State:
    """The state that was saved last; a fresh one if there is none."""
    file = directory / STATE
    return State(**read_json(file)) if file.is_file() else State()


def checkpoint(directory: Path, step: int) -> Path:
    """The critic's checkpoint of one step, in verl's layout."""
    return directory / f"global_step_{step}" / "critic"


def steps_of(rows: int, settings: Settings) -> tuple[int, list[int]]:
    """Steps of a whole fit, and after which of them the held-out error is computed."""
    per_pass = max(1, rows // settings.batch_size)
    steps = per_pass * settings.passes
    checks = settings.checks * settings.passes
    return steps, sorted({round(steps * (n + 1) / checks) for n in range(checks)} - {0})


def after_check(state: State, step: int, mse: float, last: bool, patience: int) -> State:
    """The state after the held-out error was computed."""
    better = state.best_mse is None or mse < state.best_mse
    worse = 0 if better else state.worse + 1
    return State(
        step=step,
        best_step=step if better else state.best_step,
        best_mse=mse if better else state.best_mse,
        worse=worse,
        done=last or worse >= patience,
    )


def rows_of_step(rows: int, step: int, settings: Settings) -> np.ndarray:
    """Numbers of the samples of a step (from 0), ``(batch_size,)``; each once in a pass."""
    size = min(settings.batch_size, rows)
    number, place = divmod(step, max(1, rows // settings.batch_size))
    order = np.random.default_rng([settings.seed, number]).permutation(rows)
    found = order[place * size : (place + 1) * size]
    # If there are fewer samples than a batch has, some come twice, so that every rank has a share.
    return np.resize(found, settings.batch_size)


def as_batch(frame: pd.DataFrame, settings: Settings) -> Any:
    """Samples as verl hands trajectories to a critic."""
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    def nested(rows: list[Any]) -> Any:
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    prompts = [torch.tensor(np.array(row), dtype=torch.long) for row in frame["prompt_tokens"]]
    responses = [torch.tensor(np.array(row), dtype=torch.long) for row in frame["tokens"]]
    whole = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    returns = [
        score * settings.gamma ** torch.arange(len(row) - 1, -1, -1, dtype=torch.float32)
        for row, score in zip(responses, frame["score"], strict=True)
    ]
    mask = [torch.ones(len(row), dtype=torch.int64) for row in responses]
    data = TensorDict(
        {
            "input_ids": nested(whole),
            "position_ids": nested([torch.arange(len(row)) for row in whole]),
            "prompts": nested(prompts),
            "responses": nested(responses),
            "response_mask": nested(mask),
            "loss_mask": nested(mask),
            "values": nested([torch.zeros_like(row) for row in returns]),
            "returns": nested(returns),
        },
        batch_size=len(frame),
    )
    tu.assign_non_tensor(
        data,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=settings.micro_batch_size,
        max_token_len_per_gpu=1,
        use_remove_padding=_packs(settings),
        use_fused_kernels=False,
        temperature=1.0,
        global_batch_size=len(frame) * settings.ranks,
    )
    return data


def _packs(settings: Settings) -> bool:
    return (settings.attn_implementation or "").startswith("flash_attention")


def critic_config(settings: Settings, steps: int) -> CriticConfig:
    """verl's configuration of a critic, with an optimizer for ``steps`` steps."""
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig

    from criticflow.verl_plugin.model_config import CriticConfig, ValueModelConfig

    override = {}
    if settings.attn_implementation:
        override["attn_implementation"] = settings.attn_implementation
    precision = PRECISION[settings.dtype]
    on_gpu = settings.device != "cpu"
    return CriticConfig(
        strategy=settings.strategy,
        model=ValueModelConfig(
            path=settings.model,
            trust_remote_code=settings.trust_remote_code,
            use_remove_padding=_packs(settings),
            enable_gradient_checkpointing=on_gpu,
            head_seed=settings.seed,
            override_config=override,
        ),
        fsdp=FSDPEngineConfig(
            use_torch_compile=on_gpu,
            mixed_precision={
                "param_dtype": precision,
                "reduce_dtype": "fp32",
                "buffer_dtype": "fp32",
            },
            strategy=settings.strategy,
        ),
        optim=FSDPOptimizerConfig(
            lr=settings.learning_rate,
            total_training_steps=steps,
            lr_warmup_steps_ratio=settings.warmup,
            lr_scheduler_type="cosine",
            weight_decay=settings.weight_decay,
        ),
        checkpoint=CheckpointConfig(),
        cliprange_value=OPEN,
        ppo_micro_batch_size_per_gpu=settings.micro_batch_size,
        ppo_mini_batch_size=settings.batch_size,
        value_head=settings.value_head,
    )


def build_engine(config: CriticConfig) -> Any:
    """The engine that PPO trains a critic of this configuration with, ready for use."""
    from verl.workers.engine import EngineRegistry

    config.model.model_type = "value_model"
    engine = EngineRegistry.new(
        model_type="value_model",
        backend=config.strategy,
        model_config=config.model,
        engine_config=config.engine,
        optimizer_config=config.optim,
        checkpoint_config=config.checkpoint,
    )
    engine.initialize()
    return engine


def held_out_error(engine: Any, frame: pd.DataFrame, settings: Settings) -> dict[str, float]:
    """Mean squared error over tokens, and explained variance of the returns, of all ranks."""
    import torch
    from verl.utils.device import get_device_id
    from verl.workers.utils.padding import no_padding_2_padding

    rank, size = torch.distributed.get_rank(), settings.micro_batch_size
    mine = np.arange(rank, len(frame), settings.ranks)
    # Every rank has as many rows, in whole micro-batches; they are filled up with the last row,
    # which does not count there.
    rounds = -(-len(frame) // (settings.ranks * size))
    sums = torch.zeros(5, dtype=torch.float64)
    for number in range(rounds):
        part = mine[number * size : (number + 1) * size]
        rows = np.concatenate([part, np.full(size - len(part), len(frame) - 1)])
        data = as_batch(frame.iloc[rows], settings)
        returns = data["returns"].to_padded_tensor(0.0)[: len(part)].double()
        mask = data["response_mask"].to_padded_tensor(0)[: len(part)].bool()
        with engine.eval_mode():
            output = engine.infer_batch(data, loss_function=None)
        values = no_padding_2_padding(output["model_output"]["values"].cpu(), data)
        values = values[: len(part)].double()
        error, target = (values - returns)[mask], returns[mask]
        sums += torch.stack(
            [
                mask.sum().double(),
                error.sum(),
                (error**2).sum(),
                target.sum(),
                (target**2).sum(),
            ]
        )
    sums = sums.to(get_device_id())
    torch.distributed.all_reduce(sums)
    count, error, square, target, target_square = sums.tolist()
    variance = target_square / count - (target / count) ** 2
    left = square / count - (error / count) ** 2
    return {
        "mse": square / count,
        "explained_variance": 1 - left / variance if variance > 0 else float("nan"),
    }


def fit(settings: Settings) -> None:
    """What each rank does: fit from the last checkpoint to the end."""
    import torch
    import verl  # noqa: F401  (loads the plugin)
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.utils.losses import value_loss

    initialize_global_process_group_ray()
    rank, directory = torch.distributed.get_rank(), Path(settings.directory)
    frame = pd.read_parquet(settings.samples)
    train = frame[~frame["held_out"]].reset_index(drop=True)
    held_out = frame[frame["held_out"]].reset_index(drop=True)
    steps, checks = steps_of(len(train), settings)
    config = critic_config(settings, steps)
    engine = build_engine(config)
    state = read_state(directory)
    if state.step:
        engine.load_checkpoint(str(checkpoint(directory, state.step)), None, False)
    loss = partial(value_loss, config=config)
    total, since = 0.0, 0
    for step in range(state.step, steps):
        rows = rows_of_step(len(train), step, settings)[rank :: settings.ranks]
        with engine.train_mode():
            output = engine.train_batch(as_batch(train.iloc[rows], settings), loss_function=loss)
        engine.lr_scheduler_step()
        # One number per micro-batch, each its part of the mean over the whole batch.
        total, since = total + float(np.sum(output["loss"])), since + 1
        if step + 1 not in checks:
            continue
        found = held_out_error(engine, held_out, settings)
        state = after_check(state, step + 1, found["mse"], step + 1 == steps, settings.patience)
        engine.save_checkpoint(str(checkpoint(directory, step + 1)), None, step + 1, None)
        torch.distributed.barrier()
        if rank == 0:
            row = {
                "step": step + 1,
                "steps": steps,
                "train_loss": total / since,
                **{f"held_out_{name}": value for name, value in found.items()},
            }
            with (directory / HISTORY).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            write_json(directory / STATE, asdict(state))
            _delete_other_checkpoints(directory, {state.step, state.best_step})
        total, since = 0.0, 0
        torch.distributed.barrier()
        if state.done:
            break
    torch.distributed.destroy_process_group()


def _delete_other_checkpoints(directory: Path, steps: set[int]) -> None:
    for folder in directory.glob("global_step_*"):
        if folder.name not in {f"global_step_{step}" for step in steps}:
            shutil.rmtree(folder)


def _rank(rank: int, settings: Settings, port: int) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(settings.ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if settings.device != "cpu":  # each rank sees one GPU, as verl's workers do
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(settings.ranks)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[rank]
    fit(settings)


def main() -> None:
    import torch.multiprocessing

    settings = Settings(**read_json(sys.argv[1]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_rank, args=(settings, port), nprocs=settings.ranks)


def write_settings(settings: Settings, path: Path) -> None:
    """Write what :func:`main` reads."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(asdict(settings), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
