"""One dialogue of a model with a search engine, as a state machine over tokens.

It neither samples nor searches: the rollouts of training
(:mod:`criticflow.verl_plugin.search_loop`), probe and evaluation
(:mod:`criticflow.models.dialogues`) and the fine-tuning of the base model
(:mod:`criticflow.stages.solved_dialogues`) ask it what comes next and tell it what came back. So
all of them have the same turns, limits and tokens.

Invariants, whatever the model writes and the documents contain:

- ``tokens`` are the tokens that were sampled and those that were read, never decoded and encoded
  again; ``written`` is 1 for the first kind, 0 for the second.
- The last token is one that the model wrote: the reward of a trajectory, which stands at its last
  token, is never where ``written`` is 0.
- A response has at most ``max_response_tokens`` tokens.
- What is read is closed (by ``</information>`` or the end of the tool's message), also where
  documents are cut.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from criticflow.errors import UserError
from criticflow.retrieval import protocol
from criticflow.retrieval.protocol import FORMATS, Format

ANSWER_ROOM = 32
"""Tokens that an observation leaves free for the answer, or a turn's limit if that is lower."""


@dataclass(frozen=True)
class Limits:
    """Of one dialogue, in tokens.

    Attributes:
        max_turns: turns in which the model may search; one more, in which it may only answer.
        max_turn_tokens: that a model may write in one turn.
        max_observation_tokens: of one observation, its tags included.
        max_response_tokens: of all turns and observations together.
        invalid: a turn without search and answer ends the dialogue, or is answered by a hint.
    """

    max_turns: int
    max_turn_tokens: int
    max_observation_tokens: int
    max_response_tokens: int
    invalid: Literal["end", "hint"] = "end"


class Codec:
    """A tokenizer as dialogues need it: text to ids without further tokens, and back.

    Args:
        tokenizer: of ``transformers``.
        used: how the model asks, and what stands around what it reads.

    Raises:
        UserError: the tokenizer's chat template has no tools, and the format needs them.
    """

    def __init__(self, tokenizer: Any, used: Format = FORMATS["tags"]) -> None:
        self.tokenizer, self.format = tokenizer, used
        self.special = [text for text in tokenizer.all_special_tokens if text]
        before, after = frame(tokenizer, used)
        self.opening, self.closing = self.ids(before), self.ids(after)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """Without special tokens, as verl hands a response to the reward."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def observation(self, text: str, most: int) -> list[int]:
        """Ids of what is read: at most ``most``, tags included; none if not even these fit.

        Special tokens in a document (an end of message) are taken out.
        """
        room = most - len(self.opening) - len(self.closing)
        if room < 0:
            return []
        for special in self.special:
            text = text.replace(special, "")
        # A token has at least one character, or nearly always: the text need not be encoded whole.
        return [*self.opening, *self.ids(text[: 64 * room])[:room], *self.closing]


def frame(tokenizer: Any, used: Format) -> tuple[str, str]:
    """What stands before and after the documents that a model reads.

    With tool calls it is what the chat template makes of a tool's message: the end of the model's
    own message, the tool's, and where the model's next begins.

    Raises:
        UserError: the chat template shows no tools, or shows what they say in another way.
    """
    if used.tools is None:
        return f"\n\n{protocol.OPEN}", f"{protocol.CLOSE}\n\n"
    said, found = "SAID", "FOUND"
    messages = [
        {"role": "user", "content": "-"},
        {"role": "assistant", "content": said},
        {"role": "tool", "content": found},
    ]
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=used.tools, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # noqa: BLE001  whatever a template raises (jinja2's or its own)
        text = f"{error.__class__.__name__}: {error}"
    shown, _, rest = text.partition(said)
    before, _, after = rest.partition(found)
    if (
        protocol.TOOL["function"]["description"] not in shown
        or not before.rstrip().endswith(protocol.RESPONSE_OPEN)
        or not after.lstrip().startswith(protocol.RESPONSE_CLOSE)
    ):
        raise UserError(
            "search.format: tool_calls needs a model whose chat template shows tools, and what "
            f"they say between {protocol.RESPONSE_OPEN} and {protocol.RESPONSE_CLOSE}, as Qwen's "
            f"does; this one gives {text[-120:]!r}: use format: tags"
        )
    return before, after


@dataclass(frozen=True)
class Request:
    """What to sample next: ids so far, the most tokens that may follow, the turn from 0."""

    ids: list[int]
    max_tokens: int
    turn: int


@dataclass
class Dialogue:
    """See the module. Use: while ``request`` is not None: sample, ``wrote``; if ``query`` is not
    None: search, ``observed``."""

    prompt: list[int]
    limits: Limits
    codec: Codec
    tokens: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of the written tokens."""
    turns: int = 0
    """Turns that the model has written."""
    queries: list[str] = field(default_factory=list)
    answered: bool = False
    truncated: bool = False
    """Ended by a limit of tokens."""
    query: str | None = None
    """What has to be searched for now."""
    begun: list[int] = field(default_factory=list)
    """Tokens of the turn at hand that are there already."""
    foreign: Format | None = None
    """The format in which the last turn searched in vain: not the one in use."""
    over: bool = False

    @classmethod
    def after(
        cls,
        prompt: Sequence[int],
        tokens: Sequence[int],
        written: Sequence[int],
        limits: Limits,
        codec: Codec,
    ) -> Dialogue:
        """A dialogue that has come so far, to where a turn begins or some way into one.

        Args:
            tokens, written: the first ones of a dialogue with these limits that went on.
        """
        dialogue = cls(list(prompt), limits, codec)
        seen = 0
        for by_model, part in groupby(zip(written, tokens, strict=True), key=itemgetter(0)):
            ids = [token for _, token in part]
            seen += len(ids)
            if by_model and seen == len(tokens):
                dialogue.begun = ids
            elif by_model:
                dialogue.wrote(ids)
            elif dialogue.query is not None:  # else it is a hint, and stands there already
                dialogue.query = None
                dialogue._add(ids, by_model=False)
        return dialogue

    @property
    def request(self) -> Request | None:
        """What to sample next; None: the dialogue is over, or waits for documents."""
        if self.over or self.query is not None:
            return None
        room = self.limits.max_response_tokens - len(self.tokens)
        most = min(self.limits.max_turn_tokens, room)
        ids = [*self.prompt, *self.tokens, *self.begun]
        return Request(ids, most - len(self.begun), self.turns)

    def wrote(self, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """The model's turn: the ids that were sampled for :attr:`request`."""
        request = self.request
        if request is None:
            raise ValueError("the dialogue is over, or waits for documents")
        new, begun = self._of_this_turn(list(ids)[: request.max_tokens]), self.begun
        self.begun = []
        self._add([*begun, *new], by_model=True)
        if not new:  # an engine that was stopped
            self._end(truncated=True)
            return
        if logprobs is not None:
            self.logprobs += list(logprobs)[: len(new)]
        self.turns += 1
        last = self.turns > self.limits.max_turns
        text = self.codec.text([*begun, *new])
        asked = self.codec.format.action(text)
        if asked.kind == "answer":
            self.answered = True
            self._end()
        elif asked.kind == "search":
            self.queries.append(asked.content)
            if last:
                self._end()
            else:
                self.query = asked.content
        else:
            self.foreign = protocol.other_format(text, self.codec.format)
            if last or self.limits.invalid == "end":
                self._end(truncated=len(new) == request.max_tokens)
            else:
                self._observe(self.codec.format.hint)

    def observed(self, documents: list[str]) -> None:
        """The contents of the documents that were found for :attr:`query`, best first."""
        if self.query is None:
            raise ValueError("nothing was searched for")
        self.query = None
        self._observe(protocol.shown(documents))

    def _of_this_turn(self, ids: list[int]) -> list[int]:
        """What was sampled, up to where the turn ends.

        An engine stops at a text of ``Format.stop`` itself, unless it began before the engine did.
        """

        def over(count: int) -> bool:
            text = self.codec.text([*self.begun, *ids[:count]])
            return any(stop in text for stop in self.codec.format.stop)

        if not self.begun or not over(len(ids)):
            return ids
        return ids[: bisect_left(range(len(ids) + 1), True, key=over)]

    def _observe(self, text: str) -> None:
        answer_room = min(ANSWER_ROOM, self.limits.max_turn_tokens)
        room = self.limits.max_response_tokens - len(self.tokens) - answer_room
        ids = self.codec.observation(text, min(room, self.limits.max_observation_tokens))
        if ids:
            self._add(ids, by_model=False)
        else:
            self._end(truncated=True)

    def _add(self, ids: list[int], by_model: bool) -> None:
        self.tokens += ids
        self.written += [int(by_model)] * len(ids)

    def _end(self, truncated: bool = False) -> None:
        self.truncated, self.over = truncated, True
        while self.written and not self.written[-1]:  # documents that nobody has read
            self.tokens.pop()
            self.written.pop()
