"""``criticflow fetch``: models and data of a study into the local cache, where there is internet.

Nodes of a cluster may have none. Everything later takes the commits that are fetched here: a job
that cannot ask the hub what a name stands for finds the same in the cache.

    criticflow fetch --configfile config/experiments/qwen3-0.6b-gsm8k-ppo.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from criticflow.commands.arguments import add_study, command_parser
from criticflow.config import Config, Source
from criticflow.errors import run_program

RECORD = Path("results/fetched.json")
"""In the working directory: what was fetched, with commit and folder."""

_DESCRIPTION = """\
Bring the models and data that a study names on the Hugging Face hub into the local cache.

input:   config/config.yaml and the files that are given; the hub (HF_ENDPOINT, HF_TOKEN)
output:  the cache (HF_HOME), which the nodes must share; results/fetched.json in the working
         directory: each name with its commit
"""
_EXAMPLE = """\
example:
  criticflow fetch --configfile config/experiments/qwen3-0.6b-gsm8k-ppo.yaml
"""


def main(argv: list[str] | None = None) -> None:
    """Fetch, print what came, and write the record.

    Raises:
        UserError: the configuration is wrong, or neither hub nor cache has something.
    """
    parser = command_parser("fetch", _DESCRIPTION, _EXAMPLE)
    add_study(parser)
    arguments = parser.parse_args(argv)
    from criticflow.files import write_json  # with all below it slow to import
    from criticflow.planning.study import read_study

    config = read_study(arguments.configfile)
    record = {"models": fetch_models(config), "data": fetch_data(config)}
    if not (record["models"] or record["data"]):
        print("this study names nothing on the hub: there is nothing to fetch")
        return
    path = arguments.directory / RECORD
    write_json(path, record)
    print(f"written: {path}")


def fetch_models(config: Config) -> list[dict[str, Any]]:
    """Base models, critics and encoders that are named: weights, configuration, tokenizer."""
    from criticflow.models import hub

    used = {run.model for run in config.runs.values()}
    used |= {critic.model for critic in config.critics.values()}
    origins = [(config.models[name].path, config.models[name].revision) for name in sorted(used)]
    origins += [(run.critic.path, run.critic.revision) for run in config.runs.values()]
    searches = [config.tasks[run.task].search for run in config.runs.values()]
    dense = [search.dense for search in searches if search and search.dense]
    origins += [(one.encoder, one.revision) for one in dense]
    fetched = []
    for name, revision in dict.fromkeys(origins):
        if name is None or not hub.is_name(name):
            continue
        commit = hub.commit(name, revision)
        folder = hub.local_copy(name, commit)
        print(f"model {name}: commit {commit}, in {folder}")
        fetched.append({"name": name, "revision": revision, "commit": commit, "folder": folder})
    return fetched


def fetch_data(config: Config) -> list[dict[str, Any]]:
    """Data sets of the tasks that runs use. One that is read row by row (``stream``) stays on the
    hub, and is prepared by the target ``data`` where there is internet."""
    from criticflow.models import hub
    from criticflow.tasks._rows import splits

    tasks = [config.tasks[name] for name in sorted({run.task for run in config.runs.values()})]
    sources = [source for task in tasks for source in (task.source, task.test_source) if source]
    fetched = []
    for source in _each_once(sources):
        has = splits(source)
        commit = hub.data_commit(source.hub, source.revision)
        how = "read row by row, not kept" if source.stream else "in the cache"
        print(f"data {source.hub}: commit {commit}, {', '.join(has)}, {how}")
        described = source.model_dump(mode="json", include={"hub", "name", "revision", "stream"})
        fetched.append({**described, "commit": commit, "splits": has})
    return fetched


def _each_once(sources: list[Source]) -> list[Source]:
    named = {(one.hub, one.name, one.revision): one for one in sources if one.hub is not None}
    return list(named.values())


if __name__ == "__main__":
    run_program(main)
