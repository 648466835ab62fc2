"""Tasks: problems, prompt, lengths, and search in the loop."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from criticflow.config.fields import NotNegative, Positive, Strict, exactly_one
from criticflow.config.names import Name


class Generate(Strict):
    """Problems made by a task's own generator (Countdown)."""

    numbers: list[Positive] = Field([2, 3], min_length=1, description="how many numbers, each size")
    low: Positive = Field(1, description="smallest number")
    high: Positive = Field(9, description="largest number")
    operators: Annotated[str, Field(pattern=r"^[-+*/]+$")] = Field(
        "+-*/", description="operators of the worked solutions; a response may use all four"
    )
    max_target: Positive = Field(99, description="largest target")
    max_answer_length: Positive = Field(16, description="characters of the worked solution")
    problems: Positive = Field(2048, description="distinct problems to make")
    seed: int = Field(0, description="of the problems")


class Facts(Strict):
    """Questions about made-up people, and the facts that answer them as a corpus (search)."""

    people: Positive = Field(2000, description="each with six facts, every one a document")
    questions: Positive = Field(4000, description="distinct questions; no two share a fact")
    hops: list[Literal[1, 2]] = Field(
        [1, 2], min_length=1, description="facts that a question needs"
    )
    seed: int = Field(0, description="of the facts and the questions")


class Source(Strict):
    """Where a task's problems come from."""

    hub: str | None = Field(None, description="name of a Hugging Face data set")
    name: str | None = Field(None, description="its configuration, if it has several")
    revision: str | None = Field(None, description="commit or tag of the data set")
    stream: bool = Field(False, description="read the hub row by row, without a local copy")
    files: dict[Literal["train", "val", "test"], str] | None = Field(
        None, description="jsonl, parquet or csv per split"
    )
    generate: Generate | None = Field(None, description="problems of the task's own generator")
    facts: Facts | None = Field(None, description="the same for a task with search")

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        exactly_one(self, "hub", "files", "generate", "facts")
        return self

    @property
    def made(self) -> int | None:
        """How many problems a generator makes; None: there is none."""
        if self.facts is not None:
            return self.facts.questions
        return None if self.generate is None else self.generate.problems


class Split(Strict):
    """Sizes of the splits, disjoint by problem. What the source does not split, we do."""

    train: Positive | None = Field(None, description="at most this many; null: all that is left")
    val: Positive = Field(128, description="taken from train where the source has no val")
    test: Positive | None = Field(None, description="at most this many; null: all of the source's")
    seed: int = Field(0, description="which problem goes where")


class Service(Strict):
    """A retriever in another process, reached over HTTP."""

    url: str | None = Field(
        None, description="its address, without /retrieve; null: each training starts its own"
    )
    timeout_seconds: float = Field(30, gt=0, description="for one request")
    retries: NotNegative = Field(4, description="after a failed request, with growing pauses")


class Dense(Strict):
    """Search by an encoder's vectors (E5's, or of one that is used like it) and faiss."""

    encoder: str = Field(
        "intfloat/e5-base-v2", description="a model of the Hugging Face hub, or a directory"
    )
    revision: str | None = Field(None, description="its commit or tag on the hub")
    max_tokens: Positive = Field(512, description="of a text; the rest is not encoded")
    index: str = Field(
        "Flat", description="what faiss makes of the vectors, in the words of its index factory"
    )
    probes: Positive = Field(64, description="lists of an IVF index that a query looks into")


class Search(Strict):
    """Search in the loop: how a dialogue goes, and what is searched."""

    corpus: str | None = Field(
        None, description='JSON lines of {"id", "contents"}; null: the generator\'s documents'
    )
    service: Service | None = Field(
        None, description="a retriever behind HTTP; null: the corpus is searched inside the job"
    )
    dense: Dense | None = Field(
        None, description="how the corpus is searched: an encoder and faiss; null: BM25"
    )
    format: Literal["tags", "tool_calls"] = Field(
        "tags", description="how a model searches: Search-R1's tags, or its chat template's tools"
    )
    topk: Positive = Field(3, description="documents that a search finds")
    max_turns: Positive = Field(
        4, description="turns in which the model may search; in one more it may only answer"
    )
    max_turn_tokens: Positive = Field(500, description="tokens that it may write in a turn")
    max_observation_tokens: Positive = Field(500, description="tokens of what a search shows it")
    invalid: Literal["end", "hint"] = Field(
        "end", description="a turn without search or answer ends the dialogue, or earns a hint"
    )
    reward: Literal["exact_match", "f1"] = Field(
        "exact_match", description="the score: 1 for the exact answer, or the F1 of its words"
    )


class Task(Strict):
    """A task: problems, prompt, and lengths. ``kind`` names a module of ``criticflow.tasks``."""

    kind: Name = Field(description="module of criticflow.tasks: prompt, answer format and reward")
    source: Source = Field(description="where problems come from")
    test_source: Source | None = Field(None, description="another origin for the test split")
    split: Split = Field(Split(), description="sizes of the splits, in problems")
    prompt: str | None = Field(None, description="the user's message; null: the task's own")
    system: str | None = Field(None, description="a system message; null: none")
    max_prompt_length: Positive = Field(512, description="tokens; longer prompts are left out")
    max_response_length: Positive = Field(
        1024, description="tokens; with search those that are read count"
    )
    search: Search | None = Field(None, description="search in the loop; null: none")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if not kind.isidentifier() or importlib.util.find_spec(f"criticflow.tasks.{kind}") is None:
            raise ValueError(f"no such task kind: there is no criticflow/tasks/{kind}.py")
        return kind

    @property
    def corpus_elsewhere(self) -> bool:
        """Whether a retriever that runs elsewhere has the documents of this task's searches."""
        return bool(self.search and self.search.service and self.search.service.url)

    @model_validator(mode="after")
    def _search_has_a_corpus(self) -> Task:
        if (self.kind == "search") != (self.search is not None):
            raise ValueError("kind: search and a section `search` go together (it may be {})")
        own = self.search and (self.source.facts or self.search.corpus)
        if self.search and not (own or self.corpus_elsewhere):
            raise ValueError("search: give a corpus (a file), or the url of a service that has one")
        if self.search and self.search.dense and self.corpus_elsewhere:
            raise ValueError("search.dense: the retriever at search.service.url has its own index")
        if self.source.facts and self.search is None:
            raise ValueError("source.facts: these questions are for a task with search")
        return self
