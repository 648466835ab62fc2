"""The words of a dialogue with a search engine, in one of two formats.

``tags``, as in Search-R1 (arXiv 2503.09516): a model writes ``<search>query</search>`` and reads
``<information>...</information>``, all in one message.

``tool_calls``, what verl's tool loop calls ``hermes`` (Qwen's and Hermes' chat templates): it
writes ``<tool_call>{"name": "search", "arguments": {"query": "..."}}</tool_call>``, its message
ends, and in the next one it reads ``<tool_response>...</tool_response>``.

In both it ends with ``<answer>...</answer>``. Everything here is linear in the length of the text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

FormatName = Literal["tags", "tool_calls"]

SEARCH_END, CALL_END, ANSWER_END = "</search>", "</tool_call>", "</answer>"
OPEN, CLOSE = "<information>", "</information>"
RESPONSE_OPEN, RESPONSE_CLOSE = "<tool_response>", "</tool_response>"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the documents for a text, and return the best of them.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to search for."}},
            "required": ["query"],
        },
    },
}
"""The search engine as a chat template with tools shows it to a model."""
MAX_QUERY = 1000
"""Characters of a query that are searched for; the rest is left out."""

MAX_QUERIES = 4096
"""Queries of one request over HTTP."""
TOKEN = "CRITICFLOW_RETRIEVER_TOKEN"
"""Environment variable with a retriever's token, for service and client: a command line, which
everybody on a machine can read, would show it."""

_TAG = re.compile(r"</?(?:search|information|answer|think|tool_call|tool_response)>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Action:
    """What a turn asks for; ``content`` is the query or the answer."""

    kind: Literal["search", "answer", "none"]
    content: str = ""


@dataclass(frozen=True)
class Format:
    """How a model asks in one of the formats, and where what it reads stands.

    Attributes:
        open, close: around a search.
        tools: for the chat template; None: it needs to know of none.
        hint: what a model reads after a turn without action, where the task wants it to be told.
        reading: what was read, in a response without special tokens.
    """

    name: FormatName
    open: str
    close: str
    tools: list[dict[str, Any]] | None
    hint: str
    reading: re.Pattern[str]

    @property
    def stop(self) -> list[str]:
        """Strings that end a model's turn."""
        return [self.close, ANSWER_END]

    def ask(self, query: str) -> str:
        """A search as a model writes it."""
        if self.tools is None:
            return f"{self.open} {query} {self.close}"
        call = {"name": TOOL["function"]["name"], "arguments": {"query": query}}
        return f"{self.open}\n{json.dumps(call, ensure_ascii=False)}\n{self.close}"

    def action(self, turn: str) -> Action:
        """What a model's turn asks for: its first closed search or answer.

        Of several openings the last before the end counts. A query is cut to :data:`MAX_QUERY`
        characters, and its control characters become spaces. A call of another tool, or one that
        is no JSON, asks for nothing.
        """
        ends = {end: turn.find(end) for end in self.stop}
        found = [(at, end) for end, at in ends.items() if at >= 0]
        if not found:
            return Action("none")
        at, end = min(found)
        opening = self.open if end == self.close else "<answer>"
        start = turn.rfind(opening, 0, at)
        if start < 0:
            return Action("none")
        content = turn[start + len(opening) : at]
        if end == ANSWER_END:
            return Action("answer", content.strip())
        query = content if self.tools is None else _called(content)
        if query is None:
            return Action("none")
        return Action("search", _CONTROL.sub(" ", query[:MAX_QUERY]).strip())

    def written(self, response: str) -> str:
        """A response without what was read in it: a model's own words.

        What was read stands right after a search. There a model never writes: its turn is over.
        """
        return self.reading.sub("", response)

    def read(self, response: str) -> list[str]:
        """What was read in a response, search by search."""
        return self.reading.findall(response)

    def searches(self, response: str) -> list[str]:
        """The queries of a response, in order, those at its end that found no reader included."""
        turns = self.written(response).split(self.close)[:-1]
        asked = [self.action(turn + self.close) for turn in turns]
        return [one.content for one in asked if one.kind == "search"]


FORMATS: dict[FormatName, Format] = {
    "tags": Format(
        "tags",
        "<search>",
        SEARCH_END,
        None,
        "That was neither a search nor an answer. Write a query between <search> and </search>, or "
        "the final answer between <answer> and </answer>.",
        re.compile(r"(?<=</search>)\s*<information>(.*?)</information>", re.DOTALL),
    ),
    "tool_calls": Format(
        "tool_calls",
        "<tool_call>",
        CALL_END,
        [TOOL],
        "That was neither a search nor an answer. Call the tool search, or write the final answer "
        "between <answer> and </answer>.",
        # Between: the end of the message and the names of roles, as far as they are no special
        # tokens.
        re.compile(
            r"(?<=</tool_call>)[^<]*<tool_response>(.*?)</tool_response>(?:\s*assistant\b)?",
            re.DOTALL,
        ),
    ),
}


def _called(content: str) -> str | None:
    """The query of a tool call, JSON; None: it calls something else, or is none."""
    try:
        call = json.loads(content)
        query = call["arguments"]["query"] if call["name"] == TOOL["function"]["name"] else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return query if isinstance(query, str) else None


def other_format(turn: str, used: Format) -> Format | None:
    """The format that a turn searches in, if it is not the one in use."""
    others = (one for one in FORMATS.values() if one is not used)
    return next((one for one in others if one.action(turn).kind == "search"), None)


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
