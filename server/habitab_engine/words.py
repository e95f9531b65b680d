"""Names that begin as the word before the cursor does: those of the text around it, of today's, of the workspace's.

The longest match says little where a name is used a second time, as what stands before it differs. What says more is
how near the name stands, what stands before it there, and how many files have it: a conditional logit of those.
"""

from __future__ import annotations

import heapq
import math
import re
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

NAME = re.compile(r"[^\W\d]\w*")
LEAST, MOST = 4, 64  # characters of a name worth keeping
NEAR = 20_000, 10_000  # characters before and after the cursor that are read anew each time
CANDIDATES = 32  # names of one source
_LEFT = 12  # characters before a name that are compared
_LEFT_GAINS = ((1, 0.65), (2, 0.2), (4, 0.2), (7, 0.4), (12, 0.5))  # for so many characters alike before the name
_LAST = "\U0010ffff"


def names_of(text: str) -> list[str]:
    """The names worth keeping, as often as they stand in `text`."""
    return [name for name in NAME.findall(text) if LEAST <= len(name) <= MOST]


class Today:
    """The names of today's texts and how often they stand there, updated in time proportional to the change."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._sorted: list[str] = []

    def exchange(self, gone: str, new: str) -> None:
        """Take away the names of a text that was there, and add those of another."""
        change = Counter(names_of(new))
        change.subtract(names_of(gone))
        fresh = []
        for name, difference in change.items():
            before = self._counts[name]
            self._counts[name] = before + difference
            if difference and not before:
                fresh.append(name)
            if not self._counts[name]:
                del self._counts[name], self._sorted[bisect_left(self._sorted, name)]
        if len(fresh) > CANDIDATES:
            self._sorted = sorted(self._counts)
        else:
            for name in fresh:
                insort(self._sorted, name)

    def beginning(self, typed: str) -> dict[str, int]:
        """The most frequent names that begin with `typed`, and how often they stand there."""
        names = self._sorted[bisect_left(self._sorted, typed) : bisect_left(self._sorted, typed + _LAST)]
        return {name: self._counts[name] for name in heapq.nlargest(CANDIDATES, names, key=self._counts.__getitem__)}


def packed(names: Iterable[str]) -> bytes:
    """Different names in little space, as a `Table` takes them."""
    return "\n".join(names).encode()


class Table:
    """The names of many files, packed: which file has which, how many have each."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        names = sorted({name for names in files.values() for name in names.split()})
        place = {name: at for at, name in enumerate(names)}
        self._blob = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)], dtype=np.uint32)
        kind = np.min_scalar_type(len(names))
        self._of = {path: np.array([place[name] for name in names.split()], kind) for path, names in files.items()}
        self._counts = np.zeros(len(names), np.int32)
        for places in self._of.values():
            self._counts[places] += 1

    def names(self, path: str) -> bytes:
        return b"\n".join(map(self._name, self._of[path].tolist()))

    def remove(self, path: str) -> None:
        self._counts[self._of.pop(path)] -= 1

    def beginning(self, typed: str) -> dict[str, int]:
        """The names in most files that begin with `typed`, and in how many."""
        names, key = range(len(self._counts)), typed.encode()
        begin = bisect_left(names, key, key=self._name)
        end = bisect_left(names, key + b"\xff", key=self._name)
        counts = self._counts[begin:end]
        best = np.argpartition(counts, -CANDIDATES)[-CANDIDATES:] if len(counts) > CANDIDATES else range(len(counts))
        return {self._name(begin + int(at)).decode(): int(counts[at]) for at in best if counts[at]}

    def _name(self, at: int) -> bytes:
        return self._blob[self._ends[at] : self._ends[at + 1]]


@dataclass(slots=True)
class _Sight:
    """What is seen of a name near the cursor: its nearest place before it, whether it stands after it, and how many
    characters before one of its places are those before the cursor's word."""

    distance: int = 0
    after: bool = False
    left: int = 0


def near(before: str, typed: str, after: str) -> dict[str, _Sight]:
    """The names around the cursor that begin with `typed`; `before` ends where the word begins."""
    seen: dict[str, _Sight] = {}
    wanted = before[-_LEFT:][::-1]
    for name, text, at in _places(before[-NEAR[0] :], typed):
        sight = seen.setdefault(name, _Sight())
        sight.distance = len(text) - at
        sight.left = max(sight.left, _shared(text[max(0, at - _LEFT) : at][::-1], wanted))
    for name, text, at in _places(after[: NEAR[1]], typed):
        sight = seen.setdefault(name, _Sight())
        sight.after = True
        sight.left = max(sight.left, _shared(text[max(0, at - _LEFT) : at][::-1], wanted))
    return seen


def _places(text: str, typed: str) -> Iterator[tuple[str, str, int]]:
    """The names in `text` that begin with `typed`, with where they begin."""
    for found in re.finditer(re.escape(typed) + r"\w*", text):
        at = found.start()
        if not (at and (text[at - 1].isalnum() or text[at - 1] == "_")):
            yield found.group(), text, at


def _shared(a: str, b: str) -> int:
    """The length of the common start of two short strings."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def ranked(
    before: str, typed: str, after: str, today: Mapping[str, int], files: Mapping[str, int]
) -> list[tuple[str, float]]:
    """The names that begin with `typed`, likeliest first, with their probabilities.

    `today` and `files` say how often such names stand in today's texts, and in how many files.
    """
    if not typed:
        return []
    seen, nothing = near(before, typed, after), _Sight()
    names = [*{*seen, *today, *files}]
    scores = [_score(seen.get(name, nothing), today.get(name, 0), files.get(name, 0)) for name in names]
    most = max(scores, default=0.0)
    shares = [math.exp(score - most) for score in scores]
    best = heapq.nlargest(CANDIDATES, zip(shares, names, strict=True))
    return [(name, share / sum(shares)) for share, name in best]


def _score(sight: _Sight, today: int, files: int) -> float:
    """The logarithm of a name's odds, fitted on four Python packages beside the base's own probability of the name."""
    score = 0.4 * math.log1p(today) + 0.1 * math.log1p(files) + 0.3 * sight.after
    if sight.distance:
        score += 0.1 + 0.17 * math.log(NEAR[0] / max(sight.distance, 20))
    return score + sum(gain for least, gain in _LEFT_GAINS if sight.left >= least)
