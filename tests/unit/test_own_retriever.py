"""The retriever that a training starts for itself: it answers when work begins, ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
import requests

from criticflow.config import Facts, Service
from criticflow.errors import UserError
from criticflow.retrieval.bm25 import Bm25
from criticflow.retrieval.client import ServiceRetriever
from criticflow.training.own_retriever import own_retriever

FACTS = Facts(people=50)
QUERIES = ["rival of Abel Birch", "mentor", "qqqq"]


def test_it_finds_what_bm25_finds_and_ends_with_the_block(corpus, tmp_path):
    with own_retriever(corpus, tmp_path / "log") as retriever:
        retriever.check()
        client = ServiceRetriever(Service(url=retriever.url), retriever.token)
        assert client.search(QUERIES, 3) == Bm25(corpus).search(QUERIES, 3)
        assert retriever.url.startswith("http://127.0.0.1:")
        # Another user of the machine has no token.
        assert requests.get(f"{retriever.url}/health", timeout=20).status_code == 401
    assert retriever.process.poll() is not None
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{retriever.url}/health", timeout=5)


def test_one_that_cannot_start_says_where_to_look(tmp_path):
    with (
        pytest.raises(UserError, match=r"ended with exit code 2: see .*log"),
        own_retriever(tmp_path / "none", tmp_path / "log"),
    ):
        pass
    assert "is no corpus directory" in (tmp_path / "log").read_text()


def test_one_that_does_not_answer_in_time_is_ended(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("criticflow.training.own_retriever.CHECK_SECONDS", 0.01)
    before = psutil.Process().children()
    with (
        pytest.raises(UserError, match="does not answer"),
        own_retriever(corpus, tmp_path / "log", start_seconds=0),
    ):
        pass
    assert psutil.Process().children() == before


def test_one_that_is_gone_is_noticed(corpus, tmp_path):
    with own_retriever(corpus, tmp_path / "log") as retriever:
        retriever.process.kill()
        retriever.process.wait()
        with pytest.raises(UserError, match=r"the retriever of this training ended .* goes on"):
            retriever.check()


OWNER = """
import sys, time
from pathlib import Path
from criticflow.training.own_retriever import own_retriever
with own_retriever(Path(sys.argv[1]), Path(sys.argv[2])) as retriever:
    print(retriever.process.pid, flush=True)
    time.sleep(600)
"""


def test_it_ends_with_a_training_that_is_killed(corpus, tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(corpus), str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    lines = (line.strip() for line in owner.stdout)
    pid = int(next(line for line in lines if line.isdigit()))
    service = psutil.Process(pid)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    psutil.wait_procs([service], timeout=10)
    assert not service.is_running() or service.status() == psutil.STATUS_ZOMBIE
