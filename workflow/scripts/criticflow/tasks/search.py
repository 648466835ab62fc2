"""Questions that a model answers with a search engine's help, in the format of Search-R1.

The model writes ``<search>query</search>``, reads ``<information>...</information>``, and ends with
``<answer>...</answer>``. Score: 1 if the answer is one of the gold answers (exact match after
SQuAD's normalisation: case, punctuation, articles and spacing do not count), else 0; or the best F1
of the words, where the task asks for it (``search.reward: f1``).
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from criticflow.config import Source
from criticflow.errors import UserError
from criticflow.retrieval.corpus import Document
from criticflow.retrieval.protocol import FORMATS, Format
from criticflow.tasks import _facts
from criticflow.tasks._base import Dropped, Problem, Score
from criticflow.tasks._response import last_tagged
from criticflow.tasks._rows import rows
from criticflow.tasks._wording import text_key

MAX_ANSWER = 1000
"""Characters of an answer that are compared."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


class Search:
    """See the module. ``fields``: ``question``."""

    kind = "search"
    prompt = (
        "Answer the question below. Think first, between <think> and </think>, and think again "
        "about everything new that you read. Where you lack knowledge, ask a search engine: write "
        "<search> query </search>, and what it finds will stand between <information> and "
        "</information>. Search as often as you need. Once you know enough, write the answer "
        "alone, without explanation, between <answer> and </answer>, for example "
        "<answer> Beijing </answer>. Question: {question}"
    )

    tools_prompt = (
        "Answer the question below. Think first, between <think> and </think>, and think again "
        "about everything new that you read. Where you lack knowledge, call the tool search, one "
        "call at a time, as often as you need. Once you know enough, write the answer alone, "
        "without explanation, between <answer> and </answer>, for example "
        "<answer> Beijing </answer>. Question: {question}"
    )
    """Where the chat template shows the search engine as a tool."""

    def problems(self, source: Source, split: str) -> Iterator[Problem | Dropped]:
        """Generated questions, or rows with ``question`` and ``golden_answers`` (or ``answer``)."""
        if source.facts is not None:
            return map(_from_facts, _facts.questions(source.facts))
        return map(_from_row, rows(source, split))

    def documents(self, source: Source) -> Iterator[Document]:
        """The corpus that goes with generated questions.

        Raises:
            UserError: the questions come from elsewhere.
        """
        if source.facts is None:
            raise UserError(
                "search.corpus: these questions have no corpus of their own: name a file of "
                'documents, JSON lines of {"id": ..., "contents": ...}'
            )
        return _facts.documents(source.facts)

    def score(self, response: str, ground_truth: Any) -> Score:
        """``parts``: ``exact_match``, ``f1``, ``searches`` and, where the gold documents are known,
        ``gold_retrieved``, the share of them that was read.

        The answer stands in what the model wrote, not in what it read. ``format_ok``: it is the
        end of the response. ``ground_truth`` is ``{"answers": [...], "documents": [...],
        "reward": "exact_match" | "f1", "format": "tags" | "tool_calls"}`` (all but the first may be
        missing), or the same as JSON text; also Search-R1's ``{"target": [...]}``.

        Raises:
            UserError: the ground truth (never the response) is malformed.
        """
        answers, documents, reward, used = _read(ground_truth)
        text = used.written(response)
        answer = last_tagged(text, "answer")
        match = answer is not None and exact_match(answer, answers)
        overlap = 0.0 if answer is None else f1(answer, answers)
        parts = {
            "exact_match": float(match),
            "f1": overlap,
            "searches": float(len(used.searches(response))),
        }
        if documents:
            found = "\n".join(used.read(response))
            found = " ".join(normalised(found).split())
            seen = sum(normalised(document) in found for document in documents)
            parts["gold_retrieved"] = seen / len(documents)
        return Score(
            float(match) if reward == "exact_match" else overlap,
            correct=match,
            format_ok=answer is not None and text.rstrip().endswith("</answer>"),
            parts=parts,
        )


TASK = Search()


def normalised(text: str) -> str:
    """As SQuAD's evaluation compares answers (arXiv 1606.05250): lower case, no punctuation, no
    articles, single spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> bool:
    """Whether an answer is one of the gold ones after normalisation."""
    return normalised(answer[:MAX_ANSWER]) in {normalised(one) for one in gold}


def f1(answer: str, gold: Sequence[str]) -> float:
    """The best F1 of the answer's words and those of one gold answer, in [0, 1]."""
    given = Counter(normalised(answer[:MAX_ANSWER]).split())
    best = 0.0
    for one in gold:
        wanted = Counter(normalised(one).split())
        common = sum((given & wanted).values())
        if common:
            best = max(best, 2 * common / (given.total() + wanted.total()))
        elif not given and not wanted:
            best = 1.0
    return best


_Truth = tuple[tuple[str, ...], tuple[str, ...], str, Format]


def _read(ground_truth: Any) -> _Truth:
    if isinstance(ground_truth, str):
        return _parsed(ground_truth)
    return _checked(ground_truth)


@lru_cache(maxsize=65536)
def _parsed(ground_truth: str) -> _Truth:
    try:
        return _checked(json.loads(ground_truth))
    except ValueError:
        return _checked(ground_truth)


def _checked(ground_truth: Any) -> _Truth:
    if isinstance(ground_truth, Mapping):
        answers = ground_truth.get("answers", ground_truth.get("target"))
        answers = [answers] if isinstance(answers, str) else answers
        reward = ground_truth.get("reward", "exact_match")
        used = FORMATS.get(ground_truth.get("format", "tags"))
        if _texts(answers) and len(answers) and used and reward in ("exact_match", "f1"):
            return tuple(answers), tuple(ground_truth.get("documents") or ()), reward, used
    raise UserError(
        f'ground truth of search: expected {{"answers": ["Paris"]}}, not {str(ground_truth)[:80]!r}'
    )


def _texts(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(one, str) for one in values)


def _from_facts(question: _facts.Question) -> Problem:
    return Problem(
        key=" / ".join(f"{fact.relation} of {fact.subject}" for fact in question.facts),
        fields={"question": question.text},
        ground_truth={
            "answers": [question.answer],
            "documents": [fact.sentence for fact in question.facts],
        },
        solution=question.solution,
    )


def _from_row(row: dict[str, Any]) -> Problem | Dropped:
    question = row.get("question")
    answers = row.get("golden_answers")
    answers = row.get("answer") if answers is None else answers
    answers = [answers] if isinstance(answers, str) else answers
    if hasattr(answers, "tolist"):
        answers = answers.tolist()
    if not isinstance(question, str) or not question.strip() or not _texts(answers):
        return Dropped("malformed", row)
    if not (answers := [one.strip() for one in answers if one.strip()]):
        return Dropped("empty answer", row)
    asked = question.strip()
    asked = asked if asked.endswith("?") else f"{asked}?"
    return Problem(
        key=text_key(question), fields={"question": asked}, ground_truth={"answers": answers}
    )
