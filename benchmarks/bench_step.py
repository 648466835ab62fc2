"""Where a training step's time goes, beside the same model in bare vLLM and bare transformers.

    python benchmarks/bench_step.py results/runs/RUN/seedN

Takes a finished run on the CPU: its model, batch and mean lengths. The same rollout, forward and
backward passes are then made by each library alone, on as many threads as the run had ranks, and
the medians of the run's steps are put beside them. A run of three steps or more leaves its first
out, which pays for warming up.

Beside the seconds stand the operations that the model needs for the tokens there are, without
padding (criticflow.stats.flops), and what matrix products of the model's size reach here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from criticflow.files import read_json
from criticflow.models.size import model_size
from criticflow.stats.flops import TRAINED, size_of

BARE = {
    "gen": "vLLM: prompts and responses of the batch",
    "old_log_prob": "transformers: forward pass, log-probabilities",
    "values": "transformers: forward pass of the body",
    "update_critic": "transformers: forward and backward pass of the body, AdamW",
    "update_actor": "transformers: forward and backward pass, AdamW",
    "update_weights": "nothing: one library has one copy of the weights",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="results/runs/RUN/seedN")
    parser.add_argument("--measure", choices=["vllm", "transformers"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = yaml.safe_load((arguments.run / "config.yaml").read_text())
    metrics = pd.read_parquet(arguments.run / "metrics.parquet")
    work = Work(settings, metrics)
    if arguments.measure:
        measured = work.vllm() if arguments.measure == "vllm" else work.transformers()
        print("---\n" + yaml.safe_dump(measured), end="")
        return
    bare: dict[str, float] = {}
    for library in ("vllm", "transformers"):  # each in a process of its own, for its memory
        argv = [sys.executable, __file__, str(arguments.run), "--measure", library]
        done = subprocess.run(argv, env=work.environment(), stdout=subprocess.PIPE, check=True)
        bare |= yaml.safe_load(done.stdout.decode().rpartition("---\n")[2])
    rate = bare.pop("rate")
    operations = work.operations()
    steps = metrics[metrics["step"] > 1] if len(metrics) > 2 else metrics
    median = steps.filter(like="timing_s/").median()
    rows = [
        {
            "part": name,
            "training": median.get(f"timing_s/{name}"),
            "bare": bare.get(name),
            "GFLOP": operations.get(name),
            "as": how,
        }
        for name, how in BARE.items()
    ]
    known = sum(row["training"] or 0.0 for row in rows)
    rows.append({"part": "rest", "training": median["timing_s/step"] - known, "as": "verl, Ray"})
    whole = {"training": median["timing_s/step"], "bare": sum(bare.values())}
    rows.append({"part": "step", **whole, "GFLOP": sum(operations.values())})
    print(
        f"{work.batch} trajectories, prompts of {work.prompt} and responses of {work.response} "
        f"tokens, micro-batches of {work.micro}, {work.ranks} ranks; seconds:\n"
    )
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".2f"))
    print(
        f"\nProducts of the size of its layers: {rate:.0f} GFLOP/s on {work.ranks} threads, "
        f"{sum(operations.values()) / rate:.2f} s for all of them."
    )


class Work:
    """The work of one step of a run, and each library's time for it."""

    def __init__(self, settings: dict[str, Any], metrics: pd.DataFrame) -> None:
        verl, train = settings["verl"], settings["settings"]["train"]
        self.actor = verl["actor_rollout_ref"]["model"]["path"]
        self.ranks = verl["trainer"]["n_gpus_per_node"]
        self.batch = train["batch_size"] * train["rollout_n"]
        self.micro = train["micro_batch_size"]
        self.prompt = round(metrics["prompt_length/mean"].mean())
        self.response = round(metrics["response_length/mean"].mean())
        self.dtype = train["dtype"]
        self.epochs = {
            "update_critic": verl["critic"]["ppo_epochs"],
            "update_actor": verl["actor_rollout_ref"]["actor"]["ppo_epochs"],
        }
        self.cache = int(settings["execution"]["resources"]["kv_cache_gb"] * 2**30)

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "OMP_NUM_THREADS": str(self.ranks),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "TORCHDYNAMO_DISABLE": "1",
        }

    def operations(self) -> dict[str, float]:
        """GFLOP of each part; the critic counts as the actor, whose size it has but for the head.

        Raises:
            ValueError: the model's files do not say its size.
        """
        size = size_of(model_size(Path(self.actor)))
        if size is None:
            raise ValueError(f"{self.actor}: the files do not say the size of this model")
        length = self.prompt + self.response
        forward = float(size.forward(self.batch * length, length)) / 1e9
        read = dict.fromkeys(("gen", "old_log_prob", "values"), forward)
        return read | {name: TRAINED * forward * times for name, times in self.epochs.items()}

    def tokens(self, length: int) -> list[list[int]]:
        config = read_json(Path(self.actor) / "config.json")
        ids = min(997, config.get("text_config", config)["vocab_size"] - 10)
        return [[(7 * row + 13 * k) % ids + 10 for k in range(length)] for row in range(self.batch)]

    def vllm(self) -> dict[str, float]:
        from vllm import LLM, SamplingParams
        from vllm.inputs import TokensPrompt

        longest = self.prompt + self.response
        engine = LLM(
            model=self.actor,
            dtype=self.dtype,
            max_model_len=longest,
            enforce_eager=True,
            enable_prefix_caching=False,
            max_num_batched_tokens=max(2048, self.batch * longest),
            kv_cache_memory_bytes=self.cache,
        )
        prompts = [TokensPrompt(prompt_token_ids=row) for row in self.tokens(self.prompt)]
        wanted = SamplingParams(max_tokens=self.response, ignore_eos=True, logprobs=0, seed=0)
        engine.generate(prompts[:1], wanted, use_tqdm=False)  # warm
        return {"gen": seconds(lambda: engine.generate(prompts, wanted, use_tqdm=False))}

    def transformers(self) -> dict[str, float]:
        import torch
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, self.dtype)  # the precision in which verl computes
        model = AutoModelForCausalLM.from_pretrained(self.actor, dtype=dtype)
        rows = torch.tensor(self.tokens(self.prompt + self.response))
        batches = rows.split(self.micro)
        answers = slice(self.prompt - 1, -1)

        def log_probabilities(batch: torch.Tensor) -> torch.Tensor:
            logits = model(batch).logits[:, answers].log_softmax(-1)
            return logits.gather(-1, batch[:, self.prompt :, None])

        def values(batch: torch.Tensor) -> torch.Tensor:
            return model.model(batch).last_hidden_state.mean(-1)

        def read(forward: Any) -> None:
            with torch.inference_mode():
                for batch in batches:
                    forward(batch)

        def learn(forward: Any, times: int) -> None:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
            for _ in range(times):
                for batch in batches:
                    forward(batch).mean().backward()
                optimizer.step()
                optimizer.zero_grad()

        def rate() -> float:
            """GFLOP/s of the products of the layers' matrices, for a micro-batch."""
            found = [one for one in model.parameters() if one.dim() == 2]
            inputs = [torch.randn(batches[0].numel(), one.shape[1], dtype=dtype) for one in found]
            times = 20
            with torch.inference_mode():
                pairs = list(zip(inputs, found, strict=True))
                took = seconds(lambda: [x @ one.T for _ in range(times) for x, one in pairs])
            return times * sum(2 * batches[0].numel() * one.numel() for one in found) / took / 1e9

        read(log_probabilities)  # warm
        return {
            "old_log_prob": seconds(lambda: read(log_probabilities)),
            "values": seconds(lambda: read(values)),
            "update_critic": seconds(lambda: learn(values, self.epochs["update_critic"])),
            "update_actor": seconds(lambda: learn(log_probabilities, self.epochs["update_actor"])),
            "rate": rate(),
        }


def seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
