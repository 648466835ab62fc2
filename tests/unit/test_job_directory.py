"""A training job's own directory: nobody else's, short enough for sockets, gone at the end."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from criticflow.errors import UserError
from criticflow.verl_plugin import job_directory as jobs

VERLS = "ipc:///tmp/rl-colocate-zmq-01000000-replica-3-rank-12.sock"


@pytest.fixture
def job(monkeypatch):
    with jobs.job_directory() as made:
        monkeypatch.setenv(jobs.JOB, str(made))
        yield made


def test_a_jobs_directory_is_its_owners_alone_and_goes_with_all_that_was_made(job):
    assert stat.S_IMODE(job.stat().st_mode) == 0o700
    with jobs.job_directory() as other:
        assert other != job
        secret = jobs.token_file(other)
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert len(secret.read_text()) == 64
        killed = Path(f"{other}.0-0")  # by a rank that could not remove it
        (killed / "socket").mkdir(parents=True)
    assert not other.exists() and not killed.exists()
    assert job.exists()


def test_a_socket_is_named_after_the_job_and_stands_in_a_directory_while_it_is_used(job):
    handle = jobs.private_handle(VERLS)
    assert handle == f"ipc://{job}.3-12/socket"
    folder = Path(f"{job}.3-12")
    with jobs.socket_directory(handle):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with jobs.socket_directory(handle):
            pass  # what a killed process has left is taken
    assert not folder.exists()


def test_a_directory_that_others_may_enter_is_refused(job):
    handle = jobs.private_handle(VERLS)
    folder = Path(f"{job}.3-12")
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="is not this user's alone"), jobs.socket_directory(handle):
        pass


def test_another_name_than_verls_is_an_error(job):
    with pytest.raises(ValueError, match="not a name of verl"):
        jobs.private_handle("ipc:///tmp/other.sock")


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_temporary_folder_with_too_long_a_path_is_an_error(monkeypatch, tmp_path, letter):
    long = tmp_path / (letter * 60)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(UserError, match=r"bytes long.*100: set TMPDIR to a shorter path"):
        jobs.check_temporary_folder()
    monkeypatch.setenv(jobs.JOB, str(long / "criticflow-12345678"))
    with pytest.raises(UserError, match="set TMPDIR"):
        jobs.private_handle(VERLS)
