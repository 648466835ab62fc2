"""The words of a dialogue with a search engine: tags as in Search-R1 (arXiv 2503.09516).

A model writes ``<search>query</search>`` and reads ``<information>...</information>``; it ends with
``<answer>...</answer>``. Everything here is linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SEARCH_END, ANSWER_END = "</search>", "</answer>"
STOP = [SEARCH_END, ANSWER_END]
"""Strings that end a model's turn."""
OPEN, CLOSE = "<information>", "</information>"
MAX_QUERY = 1000
"""Characters of a query that are searched for; the rest is left out."""

MAX_QUERIES = 4096
"""Queries of one request over HTTP."""
TOKEN = "CRITICFLOW_RETRIEVER_TOKEN"
"""Environment variable with a retriever's token, for service and client: a command line, which
everybody on a machine can read, would show it."""

HINT = (
    "That was neither a search nor an answer. Write a query between <search> and </search>, or the "
    "final answer between <answer> and </answer>."
)
"""What a model reads after a turn without action, where the task wants it to be told."""

_TAG = re.compile(r"</?(?:search|information|answer|think)>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_READ = re.compile(r"(?<=</search>)\s*<information>(.*?)</information>", re.DOTALL)


@dataclass(frozen=True)
class Action:
    """What a turn asks for; ``content`` is the query or the answer."""

    kind: Literal["search", "answer", "none"]
    content: str = ""


def action(turn: str) -> Action:
    """What a model's turn asks for: its first closed ``<search>`` or ``<answer>``.

    Of several openings the last before the end counts. A query is cut to :data:`MAX_QUERY`
    characters, and its control characters become spaces.
    """
    ends = {end: turn.find(end) for end in STOP}
    found = [(at, end) for end, at in ends.items() if at >= 0]
    if not found:
        return Action("none")
    at, end = min(found)
    kind: Literal["search", "answer"] = "search" if end == SEARCH_END else "answer"
    opening = f"<{kind}>"
    start = turn.rfind(opening, 0, at)
    if start < 0:
        return Action("none")
    start += len(opening)
    if kind == "search":
        query = turn[start : min(at, start + MAX_QUERY)]
        return Action("search", _CONTROL.sub(" ", query).strip())
    return Action("answer", turn[start:at].strip())


def shown(documents: list[str]) -> str:
    """Documents as a model reads them, without the tags; best first.

    A document whose first line is a title, as in Search-R1's corpus, is numbered and shown with it;
    another as it is. Tags of the
    dialogue inside a document are taken out: a document cannot answer, nor search.
    """
    lines = []
    for number, contents in enumerate(documents, 1):
        title, newline, text = contents.partition("\n")
        if newline:
            named = title.strip().strip('"')
            contents = f"Doc {number}(Title: {named}) {text}"
        lines.append(_TAG.sub("", contents.strip()))
    return "\n".join(lines) or "nothing found"


def written(response: str) -> str:
    """A response without what was read in it: a model's own words.

    What was read stands right after ``</search>``. There a model never writes: its turn is over.
    """
    return _READ.sub("", response)


def read(response: str) -> list[str]:
    """What was read in a response, search by search."""
    return _READ.findall(response)


def searches(response: str) -> list[str]:
    """The queries of a response, in order, those at its end that found no reader included."""
    queries = []
    for part in written(response).split(SEARCH_END)[:-1]:
        asked = action(part + SEARCH_END)
        if asked.kind == "search":
            queries.append(asked.content)
    return queries
