"""Where a training step's time goes, beside the same model in bare vLLM and bare transformers.

    python benchmarks/bench_step.py results/runs/RUN/seedN

Takes a finished run on the CPU: its model, batch and mean lengths. The same rollout, forward and
backward passes are then made by each library alone, on as many threads as the run had ranks, and
the medians of the run's steps are put beside them. A run of three steps or more leaves its first
out, which pays for warming up.
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
    steps = metrics[metrics["step"] > 1] if len(metrics) > 2 else metrics
    median = steps.filter(like="timing_s/").median()
    rows = [
        {
            "part": name,
            "training": median.get(f"timing_s/{name}"),
            "bare": bare.get(name),
            "as": how,
        }
        for name, how in BARE.items()
    ]
    known = sum(row["training"] or 0.0 for row in rows)
    rows.append({"part": "rest", "training": median["timing_s/step"] - known, "as": "verl, Ray"})
    rows.append({"part": "step", "training": median["timing_s/step"], "bare": sum(bare.values())})
    print(
        f"{work.batch} trajectories, prompts of {work.prompt} and responses of {work.response} "
        f"tokens, micro-batches of {work.micro}, {work.ranks} ranks; seconds:\n"
    )
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f"))


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
        self.cache = int(settings["execution"]["resources"]["kv_cache_gb"] * 2**30)

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "OMP_NUM_THREADS": str(self.ranks),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "TORCHDYNAMO_DISABLE": "1",
        }

    def tokens(self, length: int) -> list[list[int]]:
        return [[(7 * row + 13 * k) % 997 + 10 for k in range(length)] for row in range(self.batch)]

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

        def learn(forward: Any) -> None:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
            for batch in batches:
                forward(batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        read(log_probabilities)  # warm
        return {
            "old_log_prob": seconds(lambda: read(log_probabilities)),
            "values": seconds(lambda: read(values)),
            "update_critic": seconds(lambda: learn(values)),
            "update_actor": seconds(lambda: learn(log_probabilities)),
        }


def seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
