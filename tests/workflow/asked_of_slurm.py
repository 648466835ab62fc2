"""Prints, as JSON, what each job of a plan asks for, and its line for sbatch.

    python asked_of_slurm.py SNAKEFILE WORKDIR CONFIGFILE NODES

With NODES 0 jobs run on this machine, and there is no line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

NAMES = {"run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir"}

snakefile, workdir, configfile, nodes = sys.argv[1:]
where = {"nodes": int(nodes)} if int(nodes) else {"cores": 8}
with SnakemakeApi(OutputSettings()) as api:
    workflow = api.workflow(
        resource_settings=ResourceSettings(**where),
        config_settings=ConfigSettings(configfiles=[Path(configfile)]),
        snakefile=Path(snakefile),
        workdir=Path(workdir),
    )
    workflow.dag().execute_workflow(executor="dryrun")
    for job in workflow._workflow.dag.jobs:
        asked = {key: value for key, value in job.resources.items() if key != "tmpdir"}
        params = dict.fromkeys(NAMES, "")
        line = get_submit_command(job, params) + set_gres_string(job) if int(nodes) else ""
        name = f"{job.rule.name} {' '.join(job.wildcards)}".strip()
        print("asked", json.dumps([name, asked, line]))
