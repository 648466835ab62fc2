"""``criticflow convert``, and the two scripts that convert a critic or an actor."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from criticflow.checkpoint.hashing import hashing
from criticflow.checkpoint.loaders import LOADERS, check_checkpoint, check_export
from criticflow.checkpoint.rank_files import find_rank_files
from criticflow.errors import UserError

if TYPE_CHECKING:
    from criticflow.checkpoint.labels import Kind

_DESCRIPTION = """\
Convert verl's FSDP checkpoint of a critic or an actor to a HuggingFace directory.

input:   verl's .../global_step_N/critic or .../global_step_N/actor, of any number of ranks
output:  TARGET_DIR with safetensors, config, tokenizer and conversion.json: a
         <Family>ForTokenClassification (critic) or <Family>ForCausalLM (actor). It appears only
         when it is complete and verified. Exit code 2 and one line on stderr if that fails.
"""
_EPILOG = """\
example:
  {command} --local_dir checkpoints/global_step_100/{kind} --target_dir models/{kind}
verify it again at any time:
  {command} --check models/{kind}
the same checkpoint for 4 ranks, to resume on 4 GPUs (model only):
  {command} --world-size 4 \\
      --local_dir checkpoints/global_step_100/{kind} --target_dir resharded/{kind}
"""


def parser(kind: Kind | None = None) -> argparse.ArgumentParser:
    """Arguments of ``criticflow convert KIND``, or of the script that converts one ``kind``."""
    script = f"python workflow/scripts/convert_{kind}_to_hf.py" if kind else None
    result = argparse.ArgumentParser(
        prog=script or "criticflow convert",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(command=script or "criticflow convert critic", kind=kind or "critic"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if kind is None:
        result.add_argument("kind", choices=("critic", "actor"), help="what was trained")
    result.add_argument("--local_dir", type=Path, help="verl's .../global_step_N/critic or actor")
    result.add_argument("--target_dir", type=Path, help="directory to write; must not exist yet")
    result.add_argument(
        "--trust-remote-code", action="store_true", help="run model code that is in the checkpoint"
    )
    result.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: as stored"
    )
    result.add_argument(
        "--max-shard-size", default="5GB", help="split larger models into files (default: 5GB)"
    )
    result.add_argument(
        "--no-reload",
        action="store_true",
        help="do not load the result to compare it with the shards (needs memory for the model)",
    )
    result.add_argument(
        "--loader",
        choices=LOADERS,
        default="verl",
        help="who will load the critic: openrlhf and trl have heads without bias, and a critic "
        "that would have other values there is refused (default: verl)",
    )
    result.add_argument("--overwrite", action="store_true", help="replace a target that exists")
    result.add_argument(
        "--check", type=Path, metavar="DIR", help="verify a converted directory; writes nothing"
    )
    result.add_argument(
        "--world-size", type=int, metavar="N", help="write FSDP shards for N ranks instead"
    )
    return result


def main(arguments: Sequence[str] | None = None, kind: Kind | None = None) -> None:
    """Parse, check or convert, and say what was done.

    Args:
        kind: of the script that converts one kind; None: the first argument says which.

    Raises:
        UserError: see :func:`criticflow.checkpoint.convert.convert`; or the critic would have other
            values for its loader (:mod:`criticflow.checkpoint.loaders`).
    """
    options = parser(kind).parse_args(arguments)
    kind = kind or options.kind
    if kind == "actor" and options.loader != "verl":
        raise UserError("--loader is about a critic's head: leave it out for an actor")
    # Ends as an exception, so that a half-written directory is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Threads that read need the interpreter's lock often but briefly. By default each waits 5 ms
    # for a thread that imports modules to give it up, longer than reading a chunk takes.
    sys.setswitchinterval(0.0001)
    if options.check is not None:
        from criticflow.checkpoint.verify import check_directory

        manifest = check_directory(options.check)
        if kind == "critic":
            check_export(options.check, options.loader)
        print(f"{options.check}: {len(manifest['outputs'])} files as converted")
        return
    if options.local_dir is None or options.target_dir is None:
        raise UserError("give --local_dir and --target_dir, or --check DIR (see --help)")
    if options.world_size is not None:
        from criticflow.checkpoint.reshard import reshard

        reshard(
            options.local_dir,
            options.target_dir,
            options.world_size,
            overwrite=options.overwrite,
            progress=True,
        )
        print(f"{options.target_dir}: shards for {options.world_size} ranks")
        return
    if kind == "critic":
        check_checkpoint(options.local_dir, options.loader)
    paths, *_ = find_rank_files(options.local_dir)
    with hashing(paths) as source_hashes:
        # Only now, for this imports torch, which takes as long as hashing gigabytes.
        from criticflow.checkpoint.convert import Options, convert

        how = Options(
            trust_remote_code=options.trust_remote_code,
            dtype=options.dtype,
            max_shard_size=options.max_shard_size,
            reload=not options.no_reload,
            overwrite=options.overwrite,
            progress=True,
        )
        manifest = convert(options.local_dir, options.target_dir, kind, how, source_hashes)
    for note in manifest["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{options.target_dir}: {manifest['architecture']}, "
        f"{manifest['parameters']:,} parameters, {manifest['dtype']}"
    )
