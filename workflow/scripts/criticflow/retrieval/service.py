"""The retriever behind HTTP, with the requests and replies of Search-R1.

    POST /retrieve  {"queries": ["..."], "topk": 3, "return_scores": true}
        -> {"result": [[{"document": {"id": ..., "contents": ...}, "score": 4.3}, ...], ...]}
    GET  /health    -> {"status": "ok", "documents": 12000, "version": "..."}

Without ``return_scores`` a result is a list of documents. On another address than loopback every
request needs the token, as ``Authorization: Bearer TOKEN``.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from criticflow.errors import UserError
from criticflow.retrieval.corpus import Corpus
from criticflow.retrieval.protocol import MAX_QUERIES, MAX_QUERY, TOKEN

MAX_TOPK = 100


class Queries(BaseModel):
    """A request."""

    queries: Annotated[list[str], Field(max_length=MAX_QUERIES)]
    topk: Annotated[int, Field(ge=1, le=MAX_TOPK)] | None = None
    return_scores: bool = False


def app(retriever: Corpus, topk: int = 3, token: str | None = None) -> FastAPI:
    """The application.

    Args:
        topk: documents to a query where the request does not say.
        token: that requests must show; None: none.
    """

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise HTTPException(401, "this retriever needs its token (Authorization: Bearer ...)")

    service = FastAPI(title="criticflow retriever", docs_url=None, redoc_url=None)

    @service.get("/health", dependencies=[Depends(check)])
    def health() -> dict[str, Any]:
        return {"status": "ok", "documents": len(retriever), "version": retriever.version}

    @service.post("/retrieve", dependencies=[Depends(check)])
    def retrieve(asked: Queries) -> dict[str, Any]:
        # In a thread of the server's pool: a search holds no lock.
        queries = [query[:MAX_QUERY] for query in asked.queries]
        found = retriever.search(queries, asked.topk or topk)
        return {
            "result": [
                [
                    {"document": document, "score": one.score} if asked.return_scores else document
                    for one in documents
                    for document in [{"id": one.document.id, "contents": one.document.contents}]
                ]
                for documents in found
            ]
        }

    return service


def check_address(host: str, token: str | None) -> None:
    """Raise :class:`UserError` if others could ask this retriever, and it has no token."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not token:
        raise UserError(
            f"a retriever on {host} can be asked from other machines: give it a token "
            f"({TOKEN}), or leave it on 127.0.0.1"
        )
