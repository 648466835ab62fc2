"""A checkpoint directory belongs to what its weights follow from: settings, inputs, code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from criticflow.config import Config, load_config
from criticflow.errors import UserError
from criticflow.planning.sources import training_files
from criticflow.training import deciding, identity
from criticflow.training.identity import NAME, build, claim, differences

VERSIONS = {"torch": "2.13.0", "verl": "0.9.1"}
CODE = Path(identity.__file__).parents[1]


def made_from(settings: dict, inputs: dict[str, list[Path]] | None = None) -> dict:
    return build(settings, 0, inputs or {}, {}, [])


def asides(directory: Path) -> list[Path]:
    return sorted(directory.parent.glob(f"{directory.name}.replaced-*"))


def test_the_same_run_keeps_its_checkpoints(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_bytes(b"rows")
    directory = tmp_path / "checkpoints"
    claim(directory, made_from({"lr": 1}, {"data": [data]}), VERSIONS)
    (directory / "global_step_1").mkdir()
    claim(directory, made_from({"lr": 1}, {"data": [data]}), VERSIONS)
    assert (directory / "global_step_1").exists()
    assert asides(directory) == []


def test_what_no_longer_fits_is_moved_aside_and_one_line_says_what_differs(tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"old")
    directory = tmp_path / "seed0"
    claim(directory, made_from({"train": {"lr": 1}}, {"model": [model]}), VERSIONS)
    (directory / "global_step_1").mkdir()
    (directory / "global_step_1" / "shard").write_bytes(b"weights")
    (model / "model.safetensors").write_bytes(b"new")
    new = made_from({"train": {"lr": 2}}, {"model": [model]})
    claim(directory, new, VERSIONS, accept="criticflow accept cold --seed 0")
    (aside,) = asides(directory)
    assert (aside / "global_step_1" / "shard").read_bytes() == b"weights"
    assert [path.name for path in directory.iterdir()] == [NAME]
    (line,) = capsys.readouterr().out.splitlines()
    assert "settings train.lr: 1 -> 2" in line
    assert "inputs model/model.safetensors differs" in line
    assert f"rm -r {aside}" in line
    assert f"criticflow accept cold --seed 0 --restore {aside.name}" in line


def test_two_that_are_moved_in_one_second_both_stay(tmp_path):
    directory = tmp_path / "seed0"
    for lr in range(3):
        claim(directory, made_from({"lr": lr}), VERSIONS)
    assert len(asides(directory)) == 2


def test_a_directory_that_does_not_say_what_it_belongs_to_is_not_trusted(tmp_path):
    directory = tmp_path / "checkpoints"
    (directory / "global_step_5").mkdir(parents=True)
    claim(directory, made_from({}), VERSIONS)
    assert not (directory / "global_step_5").exists()
    (aside,) = asides(directory)
    assert (aside / "global_step_5").exists()


# --- code ---------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package, whose files are hashed as if it were this one."""
    copy = tmp_path / "scripts" / "criticflow"
    shutil.copytree(CODE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "_PACKAGE", copy)
    return copy


def hashes(package: Path) -> dict[str, str]:
    watched = [path.relative_to(CODE) for path in training_files("countdown")]
    return identity.code(package / path for path in watched)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("verl_plugin/reward_mask.py", "masked", "covered"),
        ("tasks/countdown.py", "0.1", "0.2"),
        ("tasks/_arithmetic.py", "return", "return not"),
        ("verl_plugin/config/criticflow_trainer.yaml", "reward_mask_rescale: false", "x: false"),
    ],
)
def test_edited_code_is_another_identity(package, file, old, new):
    before = hashes(package)
    text = (package / file).read_text()
    (package / file).write_text(text.replace(old, new))
    after = hashes(package)
    assert differences({"code": before}, {"code": after}) == [f"code {file} differs"]


@pytest.mark.parametrize("file", ["verl_plugin/reward_mask.py", "verl_plugin/stopping.py"])
def test_comments_and_docstrings_are_not(package, file):
    before = hashes(package)
    text = (package / file).read_text()
    quote = '"""'
    assert text.count(quote) >= 4
    text = text.replace(quote, f"{quote}Edited. ", 1) + '\n# edited\n"""More text."""\n'
    first, second = text.index("def "), text.index(quote, text.index("def ") + 1)
    assert first < second
    (package / file).write_text(text[:second] + f"{quote}Edited." + text[second + 3 :])
    assert hashes(package) == before


def test_comments_in_yaml_are_not(package):
    before = hashes(package)
    path = package / "verl_plugin/config/criticflow_trainer.yaml"
    path.write_text("# edited\n" + path.read_text())
    assert hashes(package) == before


def test_the_scorer_of_another_task_has_no_part_in_it():
    files = [path.name for path in training_files("countdown")]
    assert "reward_mask.py" in files and "criticflow_trainer.yaml" in files
    assert "countdown.py" in files and "gsm8k.py" not in files


# --- inputs -------------------------------------------------------------------------------------


def write_model(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    config = {"architectures": ["X"], "transformers_version": "5.9.0", "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "conversion.json").write_text('{"versions": {"torch": "2.13.0"}, "notes": []}')
    return folder


def test_records_beside_a_critic_do_not_count_nor_where_it_lies(tmp_path):
    first, second = write_model(tmp_path / "a/critic"), write_model(tmp_path / "b/elsewhere")
    config = {"architectures": ["X"], "transformers_version": "6.0", "hidden_size": 8}
    (second / "config.json").write_text(json.dumps(config, indent=2))
    (second / "conversion.json").write_text('{"versions": {"torch": "3.0"}, "notes": ["new"]}')
    assert made_from({}, {"critic": [first]}) == made_from({}, {"critic": [second]})


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_weights_configuration_and_tokenizer_do(tmp_path, file):
    first, second = write_model(tmp_path / "a"), write_model(tmp_path / "b")
    (second / file).write_text('{"hidden_size": 9}')
    found = differences(*(made_from({}, {"critic": [one]}) for one in (first, second)))
    assert found == [f"inputs critic/{file} differs"]


def test_of_a_data_file_count_the_rows_not_who_wrote_them(tmp_path):
    rows = pd.DataFrame({"prompt": ["a", "b"], "n": [1, 2]})
    paths = [tmp_path / name / "train.parquet" for name in ("a", "b", "c")]
    for path in paths:
        path.parent.mkdir()
    rows.to_parquet(paths[0], compression="snappy")
    rows.to_parquet(paths[1], compression="gzip")
    rows[::-1].to_parquet(paths[2])
    assert paths[0].read_bytes() != paths[1].read_bytes()
    one, same, other = (made_from({}, {"data": [path]}) for path in paths)
    assert one == same != other


# --- environment --------------------------------------------------------------------------------


def test_variables_that_win_over_the_configuration_count_and_tokens_are_not_recorded(monkeypatch):
    for name in identity.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    before = made_from({})
    assert before["environment"] == {}
    monkeypatch.setenv("VERL_ATTN_IMPLEMENTATION", "eager")
    after = made_from({})
    found = differences(before, after)
    assert found == ["environment VERL_ATTN_IMPLEMENTATION: none -> eager"]
    assert "secret" not in json.dumps(after)


# --- settings -----------------------------------------------------------------------------------


def study(**changes: dict) -> Config:
    raw = {
        "models": {"tiny": {"path": "somewhere"}},
        "tasks": {
            "c": {
                "kind": "countdown",
                "source": {"files": {"train": "a.jsonl"}},
                "split": {"test": 1},
            }
        },
        "runs": {
            "cold": {
                "model": "tiny",
                "task": "c",
                "train": changes.get("train", {}),
                "resources": changes.get("own", {}),
            },
            "other": {"model": "tiny", "task": "c"},
        },
        "resources": changes.get("resources", {}),
    }
    return load_config(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"resources": {"cpu_ranks": 1}},
        {"resources": {"kv_cache_gb": 2}},
        {"resources": {"rollout_memory": 0.3}},
        {"train": {"micro_batch_size": 16}},
        {"train": {"save_every": 5}},
        {"train": {"verl": {"critic.fsdp.optimizer_offload": True, "trainer.nnodes": 2}}},
        {"train": {"verl": {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 4096}}},
    ],
    ids=lambda changes: str(changes),
)
def test_how_it_is_carried_out_does_not_decide_weights_and_is_recorded(changes):
    assert deciding.deciding(study(**changes), "cold") == deciding.deciding(study(), "cold")
    assert deciding.execution(study(**changes), "cold") != deciding.execution(study(), "cold")


@pytest.mark.parametrize("key", ["stall_minutes", "rollout_stall_minutes", "save_minutes"])
def test_how_long_one_waits_has_no_part_in_anything(key):
    waiting = study(resources={key: 7.0})
    assert deciding.deciding(waiting, "cold") == deciding.deciding(study(), "cold")
    assert deciding.execution(waiting, "cold") == deciding.execution(study(), "cold")


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"actor_lr": 0.5}},
        {"train": {"mini_batch_size": 128}},
        {"train": {"verl": {"actor_rollout_ref.actor.clip_ratio": 0.1}}},
        {"resources": {"gpu": 1}},
    ],
    ids=lambda changes: str(changes),
)
def test_what_is_learned_with_decides_weights(changes):
    assert deciding.deciding(study(**changes), "cold") != deciding.deciding(study(), "cold")


def test_a_runs_own_nodes_and_gpus_do_not_decide_its_weights_and_are_recorded():
    changed, same = (
        study(own=own, train={"micro_batch_size": 8}) for own in ({"nodes": 2, "cpu_ranks": 4}, {})
    )
    assert deciding.deciding(changed, "cold") == deciding.deciding(same, "cold")
    assert deciding.execution(changed, "cold")["resources"]["nodes"] == 2
    assert (deciding.ranks(changed, "cold"), deciding.ranks(same, "cold")) == (8, 2)
    assert deciding.ranks(changed, "other") == 2
    assert deciding.execution(changed, "other") == deciding.execution(same, "other")


def test_a_control_that_is_off_leaves_runs_of_before_it_what_they_were():
    assert "shuffle" not in deciding.deciding(study(), "cold")["run"]["critic"]
    config = study()
    critic = config.runs["cold"].critic.model_copy(update={"freeze": True, "shuffle": True})
    config.runs["cold"] = config.runs["cold"].model_copy(update={"critic": critic})
    assert deciding.deciding(config, "cold")["run"]["critic"]["shuffle"] is True


def test_nodes_and_ranks_together():
    verl = {"trainer.nnodes": 2}
    assert deciding.ranks(study(train={"verl": verl}), "cold") == 4
    assert deciding.ranks(study(resources={"gpu": 2}), "cold") == 2


# --- versions -----------------------------------------------------------------------------------


def test_half_a_training_asks_before_it_goes_on_with_other_versions(tmp_path):
    directory = tmp_path / "seed0"
    claim(directory, made_from({}), VERSIONS)
    newer = VERSIONS | {"torch": "2.14.0"}
    with pytest.raises(UserError) as error:
        claim(directory, made_from({}), newer, saved=2, steps=4, accept="criticflow accept cold")
    assert "2 of 4 steps" in str(error.value)
    assert "torch: 2.13.0 -> 2.14.0" in str(error.value)
    assert "`criticflow accept cold`" in str(error.value)
    assert f"`mv {directory} {directory}.replaced`" in str(error.value)
    assert asides(directory) == []


@pytest.mark.parametrize("saved", [0, 4], ids=["nothing saved", "finished"])
def test_otherwise_versions_end_no_training(tmp_path, saved):
    directory = tmp_path / "seed0"
    claim(directory, made_from({}), VERSIONS)
    (directory / "kept").touch()
    claim(directory, made_from({}), VERSIONS | {"torch": "2.14.0"}, saved=saved, steps=4)
    assert (directory / "kept").exists()
    recorded = identity.read_stamp(directory)["versions"]["torch"]
    assert recorded == ("2.14.0" if saved == 0 else "2.13.0")
