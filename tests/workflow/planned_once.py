"""What every plan of the workflow imports and reads anew; imported before Snakemake is forked."""

import nbformat  # noqa: F401
import smart_open  # noqa: F401
from snakemake.cli import get_argument_parser

from criticflow.planning import code, sources, start  # noqa: F401
from criticflow.training import gpu_footprint, sampling_gpus  # noqa: F401

get_argument_parser()  # which looks for Snakemake's plugins, and imports them
for path in (sources.ROOT / sources.PACKAGE).rglob("*.py"):
    code._digest(path)
    sources.imported_files(path)
