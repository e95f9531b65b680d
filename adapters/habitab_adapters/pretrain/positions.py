"""Which cursors of a history's new lines a model is asked at, and what was written there; pure.

As for the replay, a commit's changes to a file are typed from the top down: above the cursor stands the file as the
commit leaves it, below it the same without the lines that the commit added there and that are still to come.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from habitab_engine.surroundings import columns

SEED = 0
LINE, INSIDE, NEXT_LINE, BLOCK = TASKS = ("rest of line", "inside a line", "next line", "block")
BLOCK_LINES = range(2, 9)
LEAST_WORDS = 2  # before a cursor: healing takes one back, and a model must be given something
BLOCK_CHARACTERS = 320  # about the tokens that the engine writes at most: a longer block could never be right


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit added to one file of a history: numbers of lines, from 0 on.

    `added` are all of them, `own` those that were not only moved or indented anew, `asked` those of these that are
    worth typing.
    """

    history: str
    commit: str
    path: str
    language: str
    added: frozenset[int]
    own: frozenset[int]
    asked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One line that is asked for."""

    change: Change
    number: int

    @property
    def id(self) -> str:
        return f"{self.change.commit}:{self.change.path}:{self.number + 1}"


@dataclass(frozen=True, slots=True)
class Question:
    """One cursor: between `prefix` and `suffix` the commit has `text`, for whole lines with the line break before."""

    task: str
    prefix: str
    suffix: str
    text: str


def in_turn(changes: Iterable[Change]) -> Iterator[Place]:
    """All places in an order drawn with a fixed seed: one of every commit, then a second one of every commit, …"""
    rng, commits = random.Random(SEED), dict[str, list[Place]]()
    for change in changes:
        commits.setdefault(change.commit, []).extend(Place(change, number) for number in change.asked)
    piles = [rng.sample(places, len(places)) for places in commits.values()]
    rng.shuffle(piles)
    for places in zip_longest(*piles):
        yield from (place for place in places if place is not None)


def questions(place: Place, content: Sequence[str]) -> list[Question]:
    """The cursors at a place, from the top down, of a file with the lines `content`.

    There is none before a line behind a blank one, nor inside a line of one character, nor before a block where the
    commit did not write all of it, nor where the file has only just begun.
    """
    number, line = place.number, content[place.number]
    first, end = len(line) - len(line.lstrip()), len(line.rstrip())
    found = []
    if (block := block_around(number, content, place.change.own)) is not None:
        text = "".join("\n" + content[i].rstrip() for i in block)
        found.append(Question(BLOCK, _above(block.start, content), _below(block.stop, place, content), text))
    above, below = _above(number, content), _below(number + 1, place, content)
    if number and content[number - 1].strip():
        found.append(Question(NEXT_LINE, above, below, "\n" + line[:end]))
    begun = above + "\n" if number else ""
    found.append(Question(LINE, begun + line[:first], below, line[first:end]))
    if inner := range(first + 1, end):
        cursor = random.Random(f"{SEED} {place.id}").choice(inner)
        found.append(Question(INSIDE, begun + line[:cursor], below, line[cursor:end]))
    return [question for question in found if len(question.prefix.split()) >= LEAST_WORDS]


def block_around(number: int, content: Sequence[str], own: frozenset[int]) -> range | None:
    """The lines around `number` that stand as deep as it, or deeper, below one that stands less deep.

    It ends at a blank line, at a line that stands less deep or at the end of the file. None where it is too long or
    too short, or is not all `own`.
    """
    first, end, depth = number, number + 1, columns(content[number])
    while first and _is_inside(content[first - 1], depth):
        first -= 1
    while end < len(content) and _is_inside(content[end], depth):
        end += 1
    block, opened = range(first, end), first > 0 and content[first - 1].strip()
    size = sum(len(content[i]) + 1 for i in block)
    if not opened or len(block) not in BLOCK_LINES or size > BLOCK_CHARACTERS or not own.issuperset(block):
        return None
    return block


def _is_inside(line: str, depth: int) -> bool:
    return bool(line.strip()) and columns(line) >= depth


def _above(number: int, content: Sequence[str]) -> str:
    """The text up to the end of the line before `number`."""
    return "\n".join(content[:number])


def _below(number: int, place: Place, content: Sequence[str]) -> str:
    """From the line break before `number` on, what stood there before the commit."""
    added = place.change.added
    return "".join("\n" + text for i, text in enumerate(content[number:], number) if i not in added)
