"""Damaged, incomplete and hostile checkpoints: one clear line, and never a target."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DeviceMesh, Partial, Shard

from checkpoint_writers import (
    distributed,
    shard_first_hsdp,
    tiny_actor,
    tiny_critic,
    write_checkpoint,
)
from criticflow.checkpoint.convert import Options, convert
from criticflow.checkpoint.verify import check_directory
from criticflow.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow/scripts"


@pytest.fixture
def source(tmp_path):
    return write_checkpoint(tmp_path / "in", tiny_critic(), 2)


def refused(source: Path, words: str, kind: str = "critic", **options) -> None:
    """The conversion fails, says ``words`` (a regular expression), and leaves nothing."""
    target = source.parent / "out"
    with pytest.raises(UserError, match=words) as caught:
        convert(source, target, kind, Options(**{"reload": False, **options}))
    assert "\n" not in str(caught.value)
    assert not target.exists()
    assert not list(source.parent.glob(".*")), "something was left behind"


def rank_file(source: Path, rank: int = 1) -> Path:
    (path,) = source.glob(f"model_world_size_*_rank_{rank}.pt")
    return path


def edit(source: Path, rank: int, change) -> None:
    """Load a rank's state dict, change it in place, and save it again."""
    path = rank_file(source, rank)
    state = torch.load(path, weights_only=False)
    change(state)
    torch.save(state, path)


def test_no_such_directory(tmp_path):
    (tmp_path / "work").mkdir()
    refused(tmp_path / "work/none", "not a directory")


def test_missing_rank_is_named(source):
    rank_file(source).unlink()
    refused(source, "rank 1")


def test_world_size_mismatch(source):
    (source / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 4}')
    refused(source, "says world size 4.*world size 2")


def test_files_of_two_world_sizes_without_config(source):
    shutil.copy(rank_file(source), source / "model_world_size_3_rank_0.pt")
    (source / "fsdp_config.json").unlink()
    refused(source, "world sizes 2, 3")


def test_swapped_ranks_are_noticed(source):
    zero, one = rank_file(source, 0), rank_file(source, 1)
    zero.rename(source / "tmp")
    one.rename(zero)
    (source / "tmp").rename(one)
    refused(source, "was written by rank 1")


def test_missing_model_config(source):
    (source / "huggingface/config.json").unlink()
    refused(source, "config.json is missing")


def test_unknown_family(source):
    path = source / "huggingface/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "nonesuch"}))
    refused(source, "nonesuch")


def test_config_of_another_model(source):
    path = source / "huggingface/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 40}))
    refused(source, "shape.*needs")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.95, 0.9999])
def test_truncated_file_is_named(source, fraction):
    path = rank_file(source)
    os.truncate(path, int(path.stat().st_size * fraction))
    refused(source, f"{path.name} is truncated")


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_flipped_byte_of_a_tensor_is_named(source):
    path = rank_file(source)
    state = torch.load(path, map_location="meta", weights_only=True)
    storage = state["model.layers.1.mlp.up_proj.weight"]._local_tensor.untyped_storage()
    flip(path, storage._checkpoint_offset + 100)
    refused(source, f"{path.name} is corrupt.*model.layers.1.mlp.up_proj.weight")


def test_flipped_byte_anywhere_is_refused_or_harmless(source, tmp_path):
    """Padding may change; whatever is converted has the original's tensors."""
    good = tmp_path / "good"
    convert(source, good, "critic", Options(reload=False))
    weights = (good / "model.safetensors").read_bytes()
    path, draw = rank_file(source), random.Random(0)
    original, refusals = path.read_bytes(), 0
    for attempt in range(60):
        flip(path, draw.randrange(len(original)))
        target = tmp_path / f"out{attempt}"
        try:
            convert(source, target, "critic", Options(reload=False))
            assert (target / "model.safetensors").read_bytes() == weights
        except UserError:
            refusals += 1
            assert not target.exists()
        path.write_bytes(original)
    assert refusals > 30


def test_missing_tensor_on_one_rank(source):
    edit(source, 1, lambda state: state.pop("model.norm.weight"))
    refused(source, "do not hold the same tensors.*model.norm.weight")


@pytest.mark.parametrize("reload", [True, False])
def test_wrong_key(source, reload):
    for rank in (0, 1):
        edit(source, rank, lambda state: state.update({"extra": state["score.bias"]}))
    refused(source, "does not know: extra", reload=reload)


def test_missing_key(source):
    for rank in (0, 1):
        edit(source, rank, lambda state: state.pop("model.layers.0.mlp.up_proj.weight"))
    refused(source, "lacks model.layers.0.mlp.up_proj.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(source, value):
    def spoil(state):
        state["model.embed_tokens.weight"]._local_tensor[3, 5] = value

    edit(source, 1, spoil)
    refused(source, r"model.embed_tokens.weight.*rank 1.*NaN or infinite")


def test_overflow_of_a_narrower_type(source):
    def enlarge(state):
        state["model.embed_tokens.weight"]._local_tensor[3, 5] = 1e20

    edit(source, 1, enlarge)
    refused(source, "model.embed_tokens.weight as torch.float16", dtype="float16")


def test_replicas_that_differ(tmp_path):
    mesh = torch.arange(4).view(2, 2)
    source = write_checkpoint(
        tmp_path / "in", tiny_critic(), 0, mesh, ("ddp", "fsdp"), shard_first_hsdp
    )

    def nudge(state):
        state["score.weight"]._local_tensor[0, 0] += 1e-6

    edit(source, 2, nudge)
    refused(source, "score.weight.*rank 2.*differs from its copy on rank 0")


def test_shape_of_a_part_is_wrong(source):
    def cut(state):
        whole = state["model.norm.weight"]
        state["model.norm.weight"] = distributed(
            whole._local_tensor[:-1].clone(), whole, whole.device_mesh, (Shard(0),)
        )

    edit(source, 1, cut)
    refused(source, r"rank 1 should hold \(12,\) of model.norm.weight, but has \(11,\)")


def place_again(source: Path, placements, names) -> None:
    def change(state, rank):
        mesh = DeviceMesh(
            "cpu",
            torch.arange(2).view([2] + [1] * (len(names) - 1)),
            mesh_dim_names=names,
            _init_backend=False,
            _rank=rank,
        )
        tensor = state["model.norm.weight"]
        state["model.norm.weight"] = distributed(tensor._local_tensor, tensor, mesh, placements)

    for rank in (0, 1):
        edit(source, rank, lambda state, rank=rank: change(state, rank))


def test_tensor_parallel_is_refused_by_name(source):
    place_again(source, (Shard(0), Shard(0)), ("fsdp", "tp"))
    refused(source, "model.norm.weight lies on a device mesh.*tp")


def test_partial_is_refused_by_name(source):
    place_again(source, (Partial(),), ("fsdp",))
    refused(source, "model.norm.weight is placed as .*P")


def test_megatron_is_refused_by_name(tmp_path):
    source = tmp_path / "in"
    (source / "dist_ckpt").mkdir(parents=True)
    refused(source, "Megatron")


def test_lora_is_refused_by_name(source):
    for rank in (0, 1):
        edit(source, rank, lambda s: s.update({"x.lora_A.weight": s["score.bias"]}))
    refused(source, "LoRA")


def test_a_checkpoint_without_value_head_is_not_a_critic(tmp_path):
    source = write_checkpoint(tmp_path / "in", tiny_actor(), 2)
    refused(source, "no value head")


def test_a_critic_is_not_an_actor(source):
    refused(source, "value head", kind="actor")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch stolen",)


def test_a_checkpoint_cannot_run_code(source, monkeypatch):
    monkeypatch.chdir(source)
    path = rank_file(source)
    state = torch.load(path, weights_only=False)
    state["score.bias"] = Malicious()
    torch.save(state, path)
    refused(source, "could run code")
    assert not (source / "stolen").exists()


def test_not_a_state_dict(source):
    torch.save([1, 2], rank_file(source))
    refused(source, "no state dict")


def test_legacy_and_foreign_files(source):
    path = rank_file(source)
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    refused(source, "not a file written by torch.save")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello", "x")
    refused(source, "not a file written by torch.save")


def test_target_in_use(source, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("kept")
    with pytest.raises(UserError, match="not empty"):
        convert(source, target, "critic", Options(reload=False))
    assert (target / "mine").read_text() == "kept"
    convert(source, target, "critic", Options(reload=False, overwrite=True))
    assert not (target / "mine").exists() and (target / "conversion.json").exists()


def test_failed_overwrite_keeps_the_old_target(source, tmp_path):
    target = tmp_path / "out"
    convert(source, target, "critic", Options(reload=False))
    flip(rank_file(source), rank_file(source).stat().st_size // 2)
    with pytest.raises(UserError):
        convert(source, target, "critic", Options(reload=False, overwrite=True))
    check_directory(target)


def test_target_may_not_hold_the_source(source):
    with pytest.raises(UserError, match="contains the checkpoint"):
        convert(source, source, "critic", Options(overwrite=True))


def test_no_space_is_seen_beforehand(source, monkeypatch):
    usage = shutil.disk_usage(source)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    refused(source, "no space")


def test_check_sees_every_change(source, tmp_path):
    target = tmp_path / "out"
    convert(source, target, "critic", Options(reload=False))
    check_directory(target)
    flip(target / "model.safetensors", 5000)
    with pytest.raises(UserError, match=r"model\.safetensors has changed"):
        check_directory(target)
    flip(target / "model.safetensors", 5000)
    (target / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="not of this conversion"):
        check_directory(target)
    (target / "pytorch_model.bin").unlink()
    (target / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        check_directory(target)
    with pytest.raises(UserError, match=r"conversion\.json is missing"):
        check_directory(source)


def program(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPTS / "convert_critic_to_hf.py"), *map(str, arguments)]


def test_the_program_says_one_line_and_exits_with_2(source, tmp_path):
    rank_file(source).unlink()
    done = subprocess.run(
        program("--local_dir", source, "--target_dir", tmp_path / "out"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.seconds
def test_the_program_converts_checks_and_reshards(source, tmp_path):
    target, four = tmp_path / "out", tmp_path / "four"
    done = subprocess.run(
        program("--local_dir", source, "--target_dir", target, "--no-reload"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Qwen3ForTokenClassification" in done.stdout
    assert "reading shards: 100%" in done.stderr and "B/s" in done.stderr
    done = subprocess.run(program("--check", target), capture_output=True, text=True)
    assert done.returncode == 0 and "files as converted" in done.stdout
    arguments = ("--local_dir", source, "--target_dir", four, "--world-size", 4)
    assert subprocess.run(program(*arguments), capture_output=True).returncode == 0
    assert len(list(four.glob("model_world_size_4_rank_*.pt"))) == 4


def test_help_has_an_example():
    done = subprocess.run(program("--help"), capture_output=True, text=True, check=True)
    assert "example:" in done.stdout and "--local_dir checkpoints/" in done.stdout


@pytest.mark.slow
def test_full_disk(source, tmp_path):
    """A tmpfs too small: the space check is put off, so that writing itself fails."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(mount)])
    if made.returncode:
        pytest.skip("no right to mount a tmpfs here")
    try:
        for check in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if not check:
                    patch.setattr("criticflow.checkpoint.convert.require_space", lambda *_: None)
                with pytest.raises(UserError, match="no space"):
                    convert(source, mount / "out", "critic", Options(reload=False))
            assert not list(mount.iterdir())
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """20 kills spread over a whole conversion: the target is complete or absent."""
    source = write_checkpoint(tmp_path / "in", tiny_critic(), 2)
    target, draw = tmp_path / "out", random.Random(0)
    command = program("--local_dir", source, "--target_dir", target)
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - start
    shutil.rmtree(target)
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * draw.uniform(0.4, 1.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if target.exists():
            check_directory(target)
            shutil.rmtree(target)
    subprocess.run(command, check=True, capture_output=True)
    check_directory(target)
