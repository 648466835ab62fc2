"""When a job ends, as far as Slurm says so."""

from criticflow.runtime.slurm import end_time


def test_outside_of_slurm_there_is_no_end(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert end_time() is None


def test_what_slurm_told_the_job_is_taken(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1795209380")
    assert end_time() == 1795209380


def test_no_answer_is_no_end(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert end_time() is None
