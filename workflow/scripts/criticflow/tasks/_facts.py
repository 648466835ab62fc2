"""Made-up facts about made-up people: a corpus, and questions that need it.

Every fact is one sentence, which is one document. A person has one of each relation, and is the
mentor (rival, ...) of one other, so that the search for a fact also finds one that reads like it,
the other way round. A question follows one fact or two. No two questions share a fact: whatever a
model learned from some of them by heart answers none of the others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from criticflow.config import Facts
from criticflow.errors import UserError
from criticflow.retrieval.corpus import Document

# Lists, but easier to read (and to extend) as words.
FIRST = (  # noqa: SIM905
    "Abel Bruno Clara Dora Edgar Frida Gustav Hanna Igor Julia Karl Lena Marko Nora Otto Petra "
    "Quint Rosa Stefan Tilda Ugo Vera Walter Xenia Yusuf Zora Anton Berta Casper Delia Emil Flora "
    "Gerd Helga Ivan Jonas Kira Lukas Mina Nils Olga Paul Rita Simon Thea Ulf Vito Wanda"
).split()
LAST = (  # noqa: SIM905
    "Alder Birch Cedar Dorn Elm Falk Gruber Hazel Ibsen Jung Kramer Linde Moser Nagel Olsen Pohl "
    "Quist Rowan Sander Thorn Ulrich Vogel Weber Xander Young Ziegler Arndt Brandt Conrad Decker "
    "Ebert Fischer Graf Huber Isler Jansen Keller Lorenz Maurer Neumann Oster Peters Rauch Stein "
    "Tanner Unger Voss Winter"
).split()
PEOPLE = ("mentor", "rival", "neighbour", "partner")
"""Relations to another person."""
VALUES = {
    "birthplace": (  # noqa: SIM905
        "Arlen Borova Cresk Dunmar Eastby Farrow Galen Harwick Istra Jarrow Kelmar Lowen Marsk "
        "Norwick Ostrava Pellow Quenby Rovan Selby Tarsk"
    ).split(),
    "instrument": (  # noqa: SIM905
        "banjo bassoon cello clarinet cornet drum fiddle flute guitar harp horn lute lyre oboe "
        "organ piano tuba viola violin zither"
    ).split(),
}
"""Relations to a thing."""


@dataclass(frozen=True)
class Fact:
    """``relation`` of ``subject`` is ``value``."""

    subject: str
    relation: str
    value: str

    @property
    def sentence(self) -> str:
        return f"The {self.relation} of {self.subject} is {self.value}."


@dataclass(frozen=True)
class Question:
    """A question and the facts that answer it, in the order in which they are needed."""

    facts: tuple[Fact, ...]

    @property
    def text(self) -> str:
        chain = " of ".join(f"the {fact.relation}" for fact in reversed(self.facts))
        word = "Who" if self.facts[-1].relation in PEOPLE else "What"
        return f"{word} is {chain} of {self.facts[0].subject}?"

    @property
    def answer(self) -> str:
        return self.facts[-1].value

    @property
    def solution(self) -> str:
        """What a model writes that solves it: its searches, and the answer."""
        searches = "".join(
            f"<search> {fact.relation} of {fact.subject} </search>" for fact in self.facts
        )
        return f"{searches}<answer> {self.answer} </answer>"


def facts(settings: Facts) -> dict[tuple[str, str], Fact]:
    """Every fact by subject and relation, from ``settings.seed`` alone.

    Raises:
        UserError: there are not so many names.
    """
    names = [f"{first} {last}" for first in FIRST for last in LAST]
    if settings.people > len(names):
        raise UserError(
            f"source.facts: asked for {settings.people} people, but there are {len(names)} names"
        )
    rng = random.Random(settings.seed)
    people = rng.sample(names, settings.people)
    known = {}
    for relation in PEOPLE:
        ring = people[:]
        rng.shuffle(ring)
        for subject, value in zip(ring, [*ring[1:], ring[0]], strict=True):
            known[subject, relation] = Fact(subject, relation, value)
    for relation, values in VALUES.items():
        for subject in people:
            known[subject, relation] = Fact(subject, relation, rng.choice(values))
    return known


def documents(settings: Facts) -> Iterator[Document]:
    """The corpus, one document a fact, in an order that says nothing."""
    known = sorted(facts(settings).values(), key=lambda fact: fact.sentence)
    random.Random(settings.seed + 1).shuffle(known)
    for number, fact in enumerate(known):
        yield Document(str(number), fact.sentence)


def questions(settings: Facts) -> Iterator[Question]:
    """Distinct questions, no two with a fact in common, from ``settings.seed`` alone.

    Raises:
        UserError: the facts do not suffice.
    """
    known = facts(settings)
    left = sorted(known)
    random.Random(settings.seed + 2).shuffle(left)
    rng = random.Random(settings.seed + 3)
    used: set[tuple[str, str]] = set()
    made = 0
    while made < settings.questions:
        if not left:
            raise UserError(
                f"source.facts: asked for {settings.questions} questions, but {len(known)} facts "
                f"make only about {made} that share none: ask for more people or fewer questions"
            )
        first = left.pop()
        if first in used:
            continue
        chain = [known[first]]
        if rng.choice(settings.hops) == 2:
            if first[1] not in PEOPLE:
                continue  # a thing has no relations
            relation = rng.choice([*PEOPLE, *VALUES])
            second = (chain[0].value, relation)
            if second in used or second == first:
                continue
            chain.append(known[second])
        used |= {(fact.subject, fact.relation) for fact in chain}
        made += 1
        yield Question(tuple(chain))
