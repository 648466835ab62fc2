"""The retriever over HTTP: the command that serves it, and the client that asks it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from criticflow.config import Facts, Service
from criticflow.errors import UserError
from criticflow.models.corpora import open_retriever
from criticflow.retrieval import client
from criticflow.retrieval.bm25 import Bm25
from criticflow.retrieval.client import ServiceRetriever
from criticflow.retrieval.protocol import MAX_QUERIES, TOKEN
from criticflow.retrieval.service import check_address

FACTS = Facts(people=50)
QUERIES = ["rival of Abel Birch", "mentor", "qqqq"]


@contextmanager
def served(corpus, token=None, *options):
    """``criticflow retriever`` on a free port; its address and its process."""
    env = {key: value for key, value in os.environ.items() if key != TOKEN}
    env |= {TOKEN: token} if token else {}
    command = [sys.executable, "-m", "criticflow", "retriever", "--corpus", str(corpus)]
    process = subprocess.Popen(
        [*command, "--port", "0", *options], env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stderr:
            if found := re.search(r"running on (http://\S+)", line):
                break
        else:
            raise AssertionError(f"no service: exit code {process.wait()}")
        yield found[1], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stderr.close()


@pytest.fixture(scope="module")
def url(corpus):
    with served(corpus) as (address, _):
        yield address


def test_it_speaks_as_search_r1_does(url):
    body = {"queries": QUERIES[:1], "topk": 2, "return_scores": True}
    (found,) = requests.post(f"{url}/retrieve", json=body, timeout=20).json()["result"]
    assert len(found) == 2 and found[0]["score"] >= found[1]["score"]
    assert set(found[0]["document"]) == {"id", "contents"}
    plain = requests.post(f"{url}/retrieve", json={"queries": QUERIES[:1]}, timeout=20).json()
    assert plain["result"][0][:2] == [one["document"] for one in found]
    assert len(plain["result"][0]) == 3


def test_over_http_the_same_is_found(corpus, url):
    service = open_retriever(Service(url=url), None)
    assert service.search(QUERIES, 3) == Bm25(corpus).search(QUERIES, 3)
    health = service.check()
    assert health == {"status": "ok", "documents": 300, "version": Bm25(corpus).version}
    many = service.search(["mentor"] * (MAX_QUERIES + 1), 1)
    assert len(many) == MAX_QUERIES + 1


def test_strange_requests_are_refused_and_strange_queries_are_not(url):
    def status(body):
        return requests.post(f"{url}/retrieve", json=body, timeout=20).status_code

    assert status({"queries": "mentor"}) == status({"topk": 3}) == 422
    assert status({"queries": ["x"], "topk": 0}) == status({"queries": ["x"], "topk": 10**9}) == 422
    assert status({"queries": ["x"] * (MAX_QUERIES + 1)}) == 422
    assert status({"queries": ["m" * 10**6, "\x00\x1b[0m", ""]}) == 200


def test_a_token_is_asked_for(corpus, monkeypatch):
    with served(corpus, "secret") as (url, _):
        body = {"queries": ["mentor"]}
        assert requests.post(f"{url}/retrieve", json=body, timeout=20).status_code == 401
        monkeypatch.delenv(TOKEN, raising=False)
        with pytest.raises(UserError, match=TOKEN):
            ServiceRetriever(Service(url=url)).check()
        monkeypatch.setenv(TOKEN, "secret")
        assert ServiceRetriever(Service(url=url)).search(["mentor"], 1)[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "node7"])
def test_an_open_address_needs_a_token(host):
    with pytest.raises(UserError, match="token"):
        check_address(host, None)
    check_address(host, "secret")
    for own in ("127.0.0.1", "::1", "localhost"):
        check_address(own, None)


def test_a_service_that_is_gone_is_a_clear_error(corpus, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    with served(corpus) as (url, process):
        retriever = ServiceRetriever(Service(url=url, retries=2))
        assert retriever.search(["mentor"], 1)[0]
        process.kill()
        process.wait()
        with pytest.raises(UserError, match="does not answer, tried 3 times"):
            retriever.search(["mentor"], 1)


class Faulty(BaseHTTPRequestHandler):
    """Fails as often as it is told, then answers."""

    failures = 0
    asked = 0
    reply = b'{"result": [[{"document": {"contents": "x"}, "score": 1}]]}'

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked += 1
        failed = type(self).asked <= type(self).failures
        self.send_response(503 if failed else 200)
        self.end_headers()
        self.wfile.write(self.reply)

    def log_message(self, *_):
        pass


@contextmanager
def faulty(**given):
    handler = type("Handler", (Faulty,), given)
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


def test_a_failure_that_passes_is_tried_again(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    with faulty(failures=2) as (url, handler):
        found = ServiceRetriever(Service(url=url, retries=2)).search(["a"], 3)
        assert found[0][0].document.contents == "x" and handler.asked == 3
    with faulty(failures=9) as (url, handler):
        with pytest.raises(UserError, match="refuses: 503"):
            ServiceRetriever(Service(url=url, retries=1)).search(["a"], 3)
        assert handler.asked == 2


@pytest.mark.parametrize("reply", [b"[]", b'{"result": []}', b'{"result": [[{}]]}', b"<html>"])
def test_another_service_is_found_out(reply):
    with faulty(reply=reply) as (url, _), pytest.raises(UserError, match="retriever"):
        ServiceRetriever(Service(url=url)).search(["a"], 3)


def test_a_service_that_is_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(UserError, match="does not answer"):
            ServiceRetriever(Service(url=url, timeout_seconds=0.3, retries=0)).search(["a"], 1)
        assert time.monotonic() - begun < 5
