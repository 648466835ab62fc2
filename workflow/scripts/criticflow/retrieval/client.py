"""A retriever behind HTTP: ours, or any that speaks as Search-R1's does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from criticflow.config import Service
from criticflow.errors import UserError
from criticflow.retrieval.corpus import Document, Found
from criticflow.retrieval.protocol import MAX_QUERIES, TOKEN

BACKOFF = 0.5
"""Seconds before the second retry; each further pause is twice as long."""
PASSING = (429, 500, 502, 503, 504)
"""Replies that another try may change."""


class ServiceRetriever:
    """Asks a service, and says plainly when it is gone.

    Args:
        token: goes with every request; None: that of the environment
            (:data:`criticflow.retrieval.protocol.TOKEN`), if it has one.
    """

    def __init__(self, service: Service, token: str | None = None) -> None:
        if service.url is None:
            raise ValueError("a service without address")
        self.url, self.timeout = service.url.rstrip("/"), service.timeout_seconds
        self.tries = service.retries + 1
        retry = Retry(
            total=service.retries,
            backoff_factor=BACKOFF,
            status_forcelist=PASSING,
            allowed_methods=None,  # to search changes nothing: a POST may be sent again
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy between the nodes of a cluster
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))
        if token := token or os.environ.get(TOKEN):
            self.session.headers["Authorization"] = f"Bearer {token}"

    def check(self) -> dict[str, Any]:
        """What the service says of itself; nothing if it has no ``/health``, as Search-R1's.

        Raises:
            UserError: it does not answer, or wants a token.
        """
        reply = self._send("GET", "/health", None)
        return {} if reply.status_code in (404, 405) else self._json(reply)

    def search(self, queries: Sequence[str], topk: int) -> list[list[Found]]:
        """By query: at most ``topk`` documents, best first.

        Raises:
            UserError: after all retries the service has not answered, or it answers otherwise than
                Search-R1's does.
        """
        found: list[list[Found]] = []
        for start in range(0, len(queries), MAX_QUERIES):
            part = list(queries[start : start + MAX_QUERIES])
            body = {"queries": part, "topk": topk, "return_scores": True}
            found += self._found(self._json(self._send("POST", "/retrieve", body)), len(part))
        return found

    def _found(self, reply: Any, count: int) -> list[list[Found]]:
        try:
            results = [
                [
                    Found(
                        Document(str(one["document"].get("id")), str(one["document"]["contents"])),
                        float(one["score"]),
                    )
                    for one in documents
                ]
                for documents in reply["result"]
            ]
            if len(results) != count:
                raise ValueError(f"{len(results)} results")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the retriever at {self.url} answers {count} queries with {str(reply)[:80]!r} "
                f"({error!r}): is it a Search-R1 retriever?"
            ) from None
        return results

    def _send(self, method: str, path: str, body: Any) -> requests.Response:
        try:
            return self.session.request(
                method, f"{self.url}{path}", json=body, timeout=self.timeout, allow_redirects=False
            )
        except requests.RequestException as error:
            raise UserError(
                f"the retriever at {self.url} does not answer, tried {self.tries} times "
                f"({error.__class__.__name__}): start it (criticflow retriever), or name another "
                "(search.service.url); the training goes on from its last checkpoint"
            ) from None

    def _json(self, reply: requests.Response) -> Any:
        if reply.status_code != 200:
            hint = f": set {TOKEN}" if reply.status_code == 401 else ""
            raise UserError(
                f"the retriever at {self.url} refuses: {reply.status_code} {reply.text[:200]}{hint}"
            )
        try:
            return reply.json()
        except ValueError:
            raise UserError(f"{self.url} is no retriever: it answers {reply.text[:80]!r}") from None
