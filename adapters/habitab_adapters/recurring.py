"""A word that stands in one line alone is not learned: it may be a secret, and is hardly ever of use again.

A word that comes back is what weights can know and a memory of the open workspace cannot. Words that do not are the
most surprising ones, and so what an adapter would remember to the letter (N. Carlini et al., "The Secret Sharer",
USENIX Security 2019). Names count part by part: of `test_rare_thing` what recurs is learned.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from habitab_adapters.handwork import content_of, is_typed
from habitab_adapters.repository import Commit, Repository
from habitab_adapters.tuned import Lesson

_WORD = re.compile(rb"[A-Za-z0-9\x80-\xff]+")
_PART = re.compile(rb"[A-Z]+(?![a-z])|[A-Z]?[a-z\x80-\xff]+")  # of a word in camel case
_DIGIT = re.compile(rb"[0-9]")

Part = tuple[int, int, bytes]  # where it begins and ends, and what it is


def words_of(repository: Repository, commit: Commit) -> Counter[bytes]:
    """By word, how many lines have it in the files that people wrote, as `commit` leaves them."""
    counts = Counter[bytes]()
    for path, blob in repository.changes(repository.empty_tree, commit.id):
        for line in content_of(repository, commit.id, path) if blob and is_typed(path) else []:
            counts.update({word for _, _, word in parts(line.encode())})
    return counts


def without_rare(lessons: Sequence[Lesson], counts: Counter[bytes], pieces: Sequence[bytes]) -> list[Lesson]:
    """The lessons, in which tokens of words that fewer than two lines have by `counts` weigh nothing.

    `pieces` are the bytes of each token.
    """
    return [_weighted(lesson, counts, pieces) for lesson in lessons]


def parts(text: bytes) -> Iterator[Part]:
    """The words of `text`; those in camel case part by part, but not where digits stand in them, as in a key."""
    for word in _WORD.finditer(text):
        found = [word] if _DIGIT.search(word.group()) else [*_PART.finditer(text, *word.span())]
        yield from ((*part.span(), part.group().lower()) for part in found)


def _weighted(lesson: Lesson, counts: Counter[bytes], pieces: Sequence[bytes]) -> Lesson:
    text = b"".join(pieces[token] for token in lesson.written)
    rare = [(begin, end) for begin, end, word in parts(text) if counts[word] < 2]
    begins, weights, at = [begin for begin, _ in rare], list[float](), 0
    for token, weight in zip(lesson.written, lesson.weights, strict=True):
        end = at + len(pieces[token])
        before = bisect_right(begins, end - 1)  # those that begin within the token or ahead of it
        weights.append(0.0 if before and rare[before - 1][1] > at else weight)
        at = end
    return replace(lesson, weights=weights)
