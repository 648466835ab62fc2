"""Which raw checkpoints a run keeps while it trains, and once its models are converted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from criticflow.checkpoint.retention import TRACKER, keep_last, last_step, mend_tracker
from criticflow.errors import UserError
from criticflow.runtime import run_lock
from criticflow.training import identity
from criticflow.training.checkpoints import converting

SETTINGS = {"settings": {"steps": 4}, "inputs": {}}
VERSIONS = {"torch": "2.13.0"}
SMALL = {
    "fingerprint.json",
    "metrics/attempt-0000.jsonl",
    TRACKER,
    "global_step_4/data.pt",
    *(
        f"global_step_4/{kind}/{name}"
        for kind in ("actor", "critic")
        for name in ("extra_state_world_size_1_rank_0.pt", "huggingface/config.json")
    ),
}


def shard(kind: str, part: str) -> str:
    return f"global_step_4/{kind}/{part}_world_size_1_rank_0.pt"


ALL = SMALL | {shard(kind, part) for kind in ("actor", "critic") for part in ("model", "optim")}


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def saved(directory: Path, *steps: int, complete: bool = True) -> None:
    for step in steps:
        folder = directory / f"global_step_{step}"
        (folder / "actor").mkdir(parents=True)
        if complete:
            (folder / "data.pt").touch()
            (directory / TRACKER).write_text(str(step))


def left(directory: Path) -> list[int]:
    return sorted(int(path.name.rpartition("_")[2]) for path in directory.glob("global_step_*"))


@pytest.mark.parametrize(("number", "kept"), [(1, [30]), (2, [20, 30]), (3, [9, 20, 30])])
def test_the_last_complete_checkpoints_stay(tmp_path, number, kept):
    saved(tmp_path, 9, 20)
    saved(tmp_path, 25, complete=False)  # an attempt that was killed while it saved
    saved(tmp_path, 30)
    keep_last(tmp_path, number)
    assert left(tmp_path) == kept


def test_what_a_person_put_beside_the_checkpoints_is_none_of_them(tmp_path):
    saved(tmp_path, 9, 20)
    copies = ["global_step_20_copy2", "global_step_9_copy", "global_step_best"]
    for name in copies:
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.pt").touch()
    keep_last(tmp_path, 1)
    kept = sorted(path.name for path in tmp_path.glob("global_step_*"))
    assert kept == ["global_step_20", *copies]


def test_what_is_being_written_stays(tmp_path):
    saved(tmp_path, 9, 20)
    saved(tmp_path, 30, complete=False)
    keep_last(tmp_path, 1)
    assert left(tmp_path) == [20, 30]
    assert last_step(tmp_path) == 20


def test_a_tracker_that_was_cut_off_is_written_again(tmp_path):
    mend_tracker(tmp_path)
    assert last_step(tmp_path) == 0
    saved(tmp_path, 9, 20)
    saved(tmp_path, 30, complete=False)
    mend_tracker(tmp_path)
    assert last_step(tmp_path) == 20
    (tmp_path / TRACKER).write_text("")
    mend_tracker(tmp_path)
    assert last_step(tmp_path) == 20
    assert (tmp_path / TRACKER).read_text() == "20"


def test_a_tracker_of_nothing_goes(tmp_path):
    saved(tmp_path, 9, complete=False)
    (tmp_path / TRACKER).write_text("")
    mend_tracker(tmp_path)
    assert last_step(tmp_path) == 0


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The names that verl gives its files; `tests/e2e` has its own files."""
    monkeypatch.setattr(run_lock, "POLL", 0.05)
    directory = tmp_path / "seed0"
    for name in ALL:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    (directory / TRACKER).write_text("4")
    identity.write_stamp(directory, SETTINGS, VERSIONS)
    return directory


@pytest.mark.parametrize(
    ("freed", "gone"), [("none", set()), ("optimizer", {shard("actor", "optim")})]
)
def test_what_is_freed_of_the_kind_that_was_converted(run, freed, gone):
    with converting(run, "actor", freed) as folder:
        assert folder == run / "global_step_4/actor"
        assert files(run) == ALL
    assert files(run) == ALL - gone


def test_all_goes_with_the_last_kind_and_not_before(run):
    with converting(run, "actor", "all"):
        pass
    gone = {shard("actor", "model"), shard("actor", "optim"), identity.NAME}
    assert files(run) == ALL - gone
    with converting(run, "critic", "all"):
        pass
    assert not run.exists()


def test_a_training_starts_afresh_where_weights_are_gone(run):
    with converting(run, "actor", "all"):
        pass
    identity.claim(run, SETTINGS, VERSIONS)
    assert files(run) == {identity.NAME}


def test_kinds_converted_side_by_side_leave_nothing(run):
    barrier = threading.Barrier(2)

    def convert(kind: str) -> None:
        with converting(run, kind, "all"):
            barrier.wait()

    threads = [threading.Thread(target=convert, args=[kind]) for kind in ("actor", "critic")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not run.exists()


def test_a_failed_conversion_frees_nothing(run):
    with pytest.raises(UserError, match="disk"), converting(run, "actor", "all"):
        raise UserError("the disk is full")
    assert files(run) == ALL


@pytest.mark.parametrize("waited", [False, True], ids=["before", "while waiting for the lock"])
def test_a_directory_that_another_training_took_meanwhile_is_left_alone(run, waited):
    """As when Snakemake was killed, and its conversion went on in Slurm beside a new training."""
    other = SETTINGS | {"settings": {"steps": 8}}
    theirs = run / shard("actor", "optim")

    def train() -> None:
        identity.claim(run, other, VERSIONS)
        theirs.parent.mkdir(parents=True)
        theirs.touch()
        (run / TRACKER).write_text("4")

    def hold() -> None:
        with run_lock.run_lock(run):
            held.set()
            wanted.wait(10)
            train()

    held, wanted = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold)
    with converting(run, "actor", "optimizer"):
        if waited:
            holder.start()
            held.wait(10)
            threading.Timer(0.2, wanted.set).start()
        else:
            train()
    if waited:
        holder.join()
    assert theirs.exists()


@pytest.mark.parametrize("kept", [["critic"], []], ids=["other kind left", "nothing left"])
def test_a_conversion_of_what_was_deleted_says_how_to_get_it_again(run, kept):
    for kind in {"actor", "critic"} - set(kept):
        with converting(run, kind, "all"):
            pass
    error = r"no weights of the actor.*free_converted.*delete that directory.*metrics\.parquet"
    with pytest.raises(UserError, match=error), converting(run, "actor", "all"):
        pass


def test_steps_that_are_asked_for_stay(tmp_path):
    saved(tmp_path, 10, 20, 30, 40)
    keep_last(tmp_path, 1, also=[20, 35])
    assert left(tmp_path) == [20, 40]


def test_a_kept_step_keeps_its_weights_until_it_is_converted(tmp_path):
    for step in (2, 4):
        for kind in ("actor", "critic"):
            folder = tmp_path / f"global_step_{step}" / kind
            folder.mkdir(parents=True)
            for part in ("model", "optim"):
                (folder / f"{part}_world_size_1_rank_0.pt").touch()
        (tmp_path / f"global_step_{step}" / "data.pt").touch()
    (tmp_path / TRACKER).write_text("4")
    weights = "model_world_size_1_rank_0.pt"
    for kind in ("actor", "critic"):
        with converting(tmp_path, kind, "all", kept=[2]) as folder:
            assert folder == tmp_path / "global_step_4" / kind
        assert not (folder / weights).exists()
    for kind in ("critic", "actor"):
        with converting(tmp_path, kind, "all", step=2, kept=[2]) as folder:
            assert (folder / weights).exists()
            assert not (folder / "optim_world_size_1_rank_0.pt").exists()
    assert not tmp_path.exists()
