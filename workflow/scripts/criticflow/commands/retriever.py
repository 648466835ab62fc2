"""``criticflow retriever``: a corpus behind HTTP, for trainings on other machines."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path

_DESCRIPTION = """\
Answer searches in a corpus over HTTP, with the requests and replies of Search-R1.

input:   a corpus directory, as the rule build_corpus makes it
output:  POST /retrieve and GET /health on the address, until a signal ends it

On another address than 127.0.0.1 a token is needed, in the environment of this command and of the
training: CRITICFLOW_RETRIEVER_TOKEN.
"""
_EXAMPLE = """\
example:
  criticflow retriever --corpus results/corpora/facts --port 8000
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    result = argparse.ArgumentParser(
        prog="criticflow retriever",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--corpus", required=True, type=Path, help="corpus directory: results/corpora/TASK")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="0: any free one, which is printed (default: 8000)")
    # Of a training that starts its own: a socket that listens already.
    add("--socket", type=int, help=argparse.SUPPRESS)
    add("--topk", type=int, default=3, help="documents where a request does not say (default: 3)")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal ends it.

    Raises:
        UserError: the corpus is none, or the address is open to others and there is no token.
    """
    given = parser().parse_args(arguments)
    from criticflow.retrieval.protocol import TOKEN
    from criticflow.retrieval.service import app, check_address

    token = os.environ.get(TOKEN)
    check_address(given.host, token)
    import uvicorn

    from criticflow.models.corpora import open_corpus

    service = app(open_corpus(given.corpus), given.topk, token)
    config = uvicorn.Config(
        service, host=given.host, port=given.port, log_level="info", access_log=False
    )
    inherited = None if given.socket is None else [socket.socket(fileno=given.socket)]
    uvicorn.Server(config).run(sockets=inherited)
