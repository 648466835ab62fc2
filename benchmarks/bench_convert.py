"""Critic conversion against verl's own merger: wall time and peak memory, on the same files.

    python benchmarks/bench_convert.py          # 0.6B, 1.7B and 4B: medians of 5, 40 GB of disk
    python benchmarks/bench_convert.py --shapes 0.6b --runs 1 --folder /scratch --out convert.json

Both programs run as users run them, each in its own process, interleaved, with the shards in the
page cache as far as they fit. The random critics have the shapes of Qwen3 models, in float32 and 4
shards. Prints a Markdown table. Whatever is written is removed at the end, and on interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
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


def critic(shape: dict[str, int]) -> Qwen3ForTokenClassification:
    """A critic of Qwen3's sizes, without data."""
    sizes = {"vocab_size": 151936, "num_attention_heads": 16, "num_key_value_heads": 8}
    config = Qwen3Config(**{**sizes, "head_dim": 128, "tie_word_embeddings": True, **shape})
    config.num_labels, config.architectures = 1, ["Qwen3ForCausalLM"]
    with torch.device("meta"):
        return Qwen3ForTokenClassification(config)


def make_checkpoint(folder: Path, model: Qwen3ForTokenClassification) -> None:
    """Write random values for ``model`` as verl's FSDP2 does."""
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
        for name, tensor in model.state_dict().items():
            rows = -(-tensor.shape[0] // RANKS)
            mine = max(0, min(rows, tensor.shape[0] - rank * rows))
            local = torch.randn(mine, *tensor.shape[1:]) * 0.02
            meta = TensorMeta(tensor.shape, tensor.stride(), torch.float32)
            spec = DTensorSpec(mesh, (Shard(0),), tensor_meta=meta)
            shard[name] = DTensor(local, spec, requires_grad=False)
        torch.save(shard, folder / f"model_world_size_{RANKS}_rank_{rank}.pt")
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": RANKS}))
    model.config.save_pretrained(folder / "huggingface")
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0}, "<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(
        folder / "huggingface"
    )


def measure(command: list[str]) -> dict[str, float] | None:
    """Wall and processor seconds, peak resident and peak anonymous MB; None if it failed."""
    os.sync()
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            peaks = {"VmHWM": 0, "RssAnon": 0}
            watcher = threading.Thread(target=_watch, args=(process.pid, peaks))
            watcher.start()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - start
        finally:
            if process.returncode is None:  # interrupted
                process.terminate()
                process.wait()
            watcher.join()
        if process.returncode:
            log.seek(0)
            print(f"{' '.join(command)}: exit code {process.returncode}", file=sys.stderr)
            print(log.read().decode()[-3000:], file=sys.stderr)
            return None
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "resident_mb": peaks["VmHWM"] / 1024,
        "anonymous_mb": peaks["RssAnon"] / 1024,
    }


def _watch(pid: int, peaks: dict[str, int]) -> None:
    """Keep the highest kB of the fields of /proc/PID/status that ``peaks`` names.

    The rusage of a child would not do: it begins with what this process held at the fork.
    """
    path = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = path.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        found = [line.split() for line in lines if line.partition(":")[0] in peaks]
        if not found:
            return  # a zombie has no memory
        for name, kilobytes, _ in found:
            peaks[name[:-1]] = max(peaks[name[:-1]], int(kilobytes))
        time.sleep(0.02)


def imports_only() -> dict[str, float] | None:
    """What the converter's imports alone take."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'workflow/scripts')!r}); "
        "import criticflow.checkpoint.convert, criticflow.models.value_head, accelerate; "
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
    """Medians of every program on one shape; None for one that failed."""
    model, checkpoint, target = critic(SHAPES[name]), folder / "critic", folder / "out"
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    needed, free = 2.1 * 4 * parameters, shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"error: {name} needs {needed / 1e9:.0f} GB in {folder}, which has {free / 1e9:.0f} GB "
            "free: give another --folder, or fewer --shapes"
        )
    make_checkpoint(checkpoint, model)
    results: dict[str, list[dict[str, float] | None]] = {program: [] for program in programs}
    not_reloaded = set()
    for number in range(runs):
        for program in programs:
            print(f"{name}, run {number + 1}: {program}", file=sys.stderr)
            warm_cache(checkpoint)
            arguments = ["--local_dir", str(checkpoint), "--target_dir", str(target)]
            result = measure([*PROGRAMS[program], *arguments])
            results[program].append(result)
            if result:
                print(f"  {result['seconds']:.1f} s", file=sys.stderr)
                if "reload" in program and not reloaded(target):
                    not_reloaded.add(program)
            shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(checkpoint)
    medians = {
        program: {key: statistics.median(run[key] for run in found) for key in found[0]}
        if all(found)
        else None
        for program, found in results.items()
    }
    return {
        "shape": name,
        "parameters": parameters,
        "runs": runs,
        "medians": medians,
        "not_reloaded": sorted(not_reloaded),
    }


def reloaded(target: Path) -> bool:
    """Whether there was memory for the reload check."""
    return json.loads((target / "conversion.json").read_text())["verified"]["reload"]


def machine() -> str:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "verl"))
    return (
        f"{os.cpu_count()} cores ({processor}), {memory / 2**30:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {packages}"
    )


def table(results: list[dict]) -> str:
    """Medians as a Markdown table; ratios are to verl's on the same shape."""
    rows = [
        "| shape | program | seconds | of verl's | per 10⁹ parameters | CPU s "
        "| MB resident | of verl's | MB anonymous |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        billions, reference = result["parameters"] / 1e9, result["medians"].get("verl")
        for program, found in result["medians"].items():
            if found is None:
                rows.append(f"| {result['shape']} | {program} | failed | | | | | | |")
                continue
            note = " (no memory to reload)" if program in result["not_reloaded"] else ""
            time_ratio, memory_ratio = (
                f"{found[key] / reference[key]:.2f}" if reference else "-"
                for key in ("seconds", "resident_mb")
            )
            rows.append(
                f"| {result['shape']} | {program}{note} | {found['seconds']:.1f} | {time_ratio} "
                f"| {found['seconds'] / billions:.1f} | {found['cpu_seconds']:.1f} "
                f"| {found['resident_mb']:.0f} | {memory_ratio} | {found['anonymous_mb']:.0f} |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all"
    )
    parser.add_argument("--runs", type=int, default=5, help="medians of this many (default: 5)")
    parser.add_argument(
        "--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), help="default: all"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work, in a directory of its own (default: TMPDIR's)"
    )
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    # Ends as an exception, so that the files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-convert-", dir=options.folder) as folder:
        imports, disk = imports_only(), disk_rates(Path(folder))
        results = [
            bench(Path(folder), name, options.programs, options.runs) for name in options.shapes
        ]
    print(f"Machine: {machine()}; load average before: {load:.1f}.")
    print(f"Disk: {disk['write_mb_s']:.0f} MB/s written, {disk['read_mb_s']:.0f} MB/s read.")
    if imports:
        print(
            f"The converter's imports alone: {imports['seconds']:.1f} s, "
            f"{imports['resident_mb']:.0f} MB resident, {imports['anonymous_mb']:.0f} MB anonymous."
        )
    for result in results:
        gigabytes = 4 * result["parameters"] / 1e9
        print(
            f"{result['shape']}: {result['parameters']:,} parameters, {gigabytes:.2f} GB of "
            f"shards, at the disk's rate {1000 * gigabytes / disk['read_mb_s']:.1f} s to read and "
            f"{1000 * gigabytes / disk['write_mb_s']:.1f} s to write."
        )
    print(f"Medians of {options.runs}.\n\n{table(results)}")
    if options.out:
        report = {"machine": machine(), "disk": disk, "imports": imports, "results": results}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
