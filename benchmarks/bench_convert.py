"""Critic conversion against verl's own merger: wall time and peak memory, on the same files.

    python benchmarks/bench_convert.py                     # 0.6B, medians of 5
    python benchmarks/bench_convert.py --shapes 0.6b 1.7b 4b --runs 1 --out benchmarks/convert.json

Both programs run as users run them, each in its own process, interleaved, with the shards in the
page cache. The random critics have the shapes of Qwen3 models, in float32 and 4 shards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch.distributed.tensor import DeviceMesh, DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForTokenClassification

ROOT = Path(__file__).resolve().parent.parent
CONVERTER = [sys.executable, str(ROOT / "workflow/scripts/convert_critic_to_hf.py")]
MERGER = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
RANKS = 4
SHAPES = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28},
    "4b": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
}
PROGRAMS = {
    "verl": MERGER,
    "ours": [*CONVERTER, "--no-reload"],
    "ours, bfloat16": [*CONVERTER, "--no-reload", "--dtype", "bfloat16"],
    "ours, reload": CONVERTER,
    "ours, reload, bfloat16": [*CONVERTER, "--dtype", "bfloat16"],
}


def make_checkpoint(folder: Path, shape: dict[str, int]) -> int:
    """Write a random critic as verl's FSDP2 does; returns its number of parameters."""
    sizes = {"vocab_size": 151936, "num_attention_heads": 16, "num_key_value_heads": 8}
    config = Qwen3Config(**{**sizes, "head_dim": 128, "tie_word_embeddings": True, **shape})
    config.num_labels, config.architectures = 1, ["Qwen3ForCausalLM"]
    with torch.device("meta"):
        state = Qwen3ForTokenClassification(config).state_dict()
    folder.mkdir(parents=True)
    for rank in range(RANKS):
        mesh = DeviceMesh(
            "cpu",
            torch.arange(RANKS),
            mesh_dim_names=("fsdp",),
            _init_backend=False,
            _rank=rank,
        )
        shard = {}
        for name, tensor in state.items():
            rows = -(-tensor.shape[0] // RANKS)
            mine = max(0, min(rows, tensor.shape[0] - rank * rows))
            local = torch.randn(mine, *tensor.shape[1:]) * 0.02
            meta = TensorMeta(tensor.shape, tensor.stride(), torch.float32)
            spec = DTensorSpec(mesh, (Shard(0),), tensor_meta=meta)
            shard[name] = DTensor(local, spec, requires_grad=False)
        torch.save(shard, folder / f"model_world_size_{RANKS}_rank_{rank}.pt")
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": RANKS}))
    config.save_pretrained(folder / "huggingface")
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(
        folder / "huggingface"
    )
    return sum(tensor.numel() for tensor in state.values())


def measure(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds, peak resident and peak anonymous MB of a program.

    Raises:
        SystemExit: the program failed.
    """
    os.sync()
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = [0]
        watcher = threading.Thread(target=_watch_anonymous, args=(process.pid, peak), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        watcher.join()
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{log.read().decode()[-3000:]}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "resident_mb": usage.ru_maxrss / 1024,
        "anonymous_mb": peak[0] / 1024,
    }


def _watch_anonymous(pid: int, peak: list[int]) -> None:
    path = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = path.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        found = [line for line in lines if line.startswith("RssAnon:")]
        if not found:
            return  # a zombie has no memory
        peak[0] = max(peak[0], int(found[0].split()[1]))
        time.sleep(0.02)


def imports_only() -> dict[str, float]:
    """What the converter's imports alone take."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'workflow/scripts')!r}); "
        "import criticflow.checkpoint.convert, criticflow.value_head, accelerate; "
        "import transformers.models.qwen3.modeling_qwen3"
    )
    return measure([sys.executable, "-c", code])


def disk_rates(folder: Path, nbytes: int = 2 << 30) -> dict[str, float]:
    """Sequential MB/s to and from the disk itself, the page cache left out."""
    path, block = folder / "rate", os.urandom(8 << 20)
    start = time.perf_counter()
    with open(path, "wb", buffering=0) as stream:
        for _ in range(nbytes // len(block)):
            stream.write(block)
        os.fsync(stream.fileno())
        written = time.perf_counter() - start
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as stream:
        while stream.read(8 << 20):
            pass
    read = time.perf_counter() - start
    path.unlink()
    return {"write_mb_s": nbytes / written / 1e6, "read_mb_s": nbytes / read / 1e6}


def warm_cache(folder: Path) -> None:
    for path in folder.glob("*.pt"):
        with open(path, "rb", buffering=0) as stream:
            while stream.read(8 << 20):
                pass


def bench(folder: Path, name: str, programs: list[str], runs: int) -> dict:
    """Medians of every program on one shape."""
    checkpoint = folder / "critic"
    parameters = make_checkpoint(checkpoint, SHAPES[name])
    results: dict[str, list[dict[str, float]]] = {program: [] for program in programs}
    for number in range(runs):
        for program in programs:
            print(f"{name}, run {number + 1}: {program}", file=sys.stderr)
            warm_cache(checkpoint)
            target = folder / "out"
            arguments = ["--local_dir", str(checkpoint), "--target_dir", str(target)]
            results[program].append(measure([*PROGRAMS[program], *arguments]))
            print(f"  {results[program][-1]['seconds']:.1f} s", file=sys.stderr)
            shutil.rmtree(target)
    shutil.rmtree(checkpoint)
    medians = {
        program: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for program, found in results.items()
    }
    return {"shape": name, "parameters": parameters, "runs": runs, "medians": medians}


def show(result: dict) -> None:
    medians = result["medians"]
    print(f"\n{result['shape']}: {result['parameters']:,} parameters, {result['runs']} runs")
    print(
        f"{'':24}{'seconds':>9}{'of verl':>9}{'CPU s':>8}{'MB resident':>13}{'of verl':>9}"
        f"{'MB anon.':>10}"
    )
    reference = medians.get("verl")
    for program, found in medians.items():
        ratios = [
            f"{found[key] / reference[key]:.2f}" if reference else "-"
            for key in ("seconds", "resident_mb")
        ]
        print(
            f"{program:24}{found['seconds']:9.2f}{ratios[0]:>9}"
            f"{found['cpu_seconds']:8.1f}{found['resident_mb']:13.0f}"
            f"{ratios[1]:>9}{found['anonymous_mb']:10.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.6b"])
    parser.add_argument("--runs", type=int, default=5, help="medians of this many (default: 5)")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        imports, disk = imports_only(), disk_rates(Path(folder))
        print(
            f"{os.cpu_count()} cores; disk: {disk['write_mb_s']:.0f} MB/s written, "
            f"{disk['read_mb_s']:.0f} MB/s read; the converter's imports: "
            f"{imports['seconds']:.1f} s, {imports['anonymous_mb']:.0f} MB anonymous"
        )
        results = []
        for name in options.shapes:
            results.append(bench(Path(folder), name, options.programs, options.runs))
            show(results[-1])
    if options.out:
        report = {"cores": os.cpu_count(), "disk": disk, "imports": imports, "results": results}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
