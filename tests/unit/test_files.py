"""Files are complete or absent, whatever interrupts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from criticflow.errors import UserError
from criticflow.files import read_json, replacing, sha256, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "result.txt"
    with replacing(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["result.txt"]


def test_a_directory_takes_the_place_of_another(tmp_path):
    target = tmp_path / "model"
    for weights in ("old", "new"):
        with replacing(target) as partial:
            partial.mkdir()
            (partial / f"{weights}.bin").write_text(weights)
    assert names(target) == ["new.bin"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [ValueError("defect"), KeyboardInterrupt(), SystemExit(1)])
def test_what_was_there_stays_when_the_block_fails(tmp_path, error):
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.txt"]


def test_a_kill_leaves_no_target(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from criticflow.files import replacing\n"
        "with replacing(sys.argv[1]) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "result.txt"
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -9
    assert not target.exists()
    with replacing(target) as partial:  # and the next attempt is not disturbed
        partial.write_text("whole")
    assert target.read_text() == "whole"


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    full = pytest.raises(UserError, match=r"no space left while writing .*result\.txt")
    with full, replacing(tmp_path / "result.txt") as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_really_full_disk(tmp_path):
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    full = pytest.raises(UserError, match="no space left")
    with full, replacing(tmp_path / "result.txt") as partial:
        partial.symlink_to("/dev/full")
        partial.write_text("x" * 100_000)
    assert names(tmp_path) == []


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"name": "Größe", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


def test_broken_json_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "value.json").write_text('{"half":')
    with pytest.raises(UserError, match=r"value\.json is not valid JSON"):
        read_json(tmp_path / "value.json")


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")
