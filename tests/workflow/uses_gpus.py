"""A rule's script that uses its GPUs for a moment, and says which and when."""

from criticflow.runtime.stage import run_stage


def main(snakemake) -> None:
    import json
    import os
    import time
    from pathlib import Path

    began = time.monotonic()
    Path("pid").write_text(str(os.getpid()))
    time.sleep(float(os.environ.get("SECONDS_TO_USE", "0.3")))
    given = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    Path(snakemake.output[0]).write_text(json.dumps([given, began, time.monotonic()]))


run_stage(snakemake, main)
