"""The texts of a workspace, cut into chunks and held with their words and definitions in compact arrays.

Nothing here touches the disk. One thread writes, any thread may search. Sources: BM25 (Robertson and Zaragoza, 2009)
over the words of a chunk as a set; runs merged as they grow, as in the LSM-tree (O'Neil et al., 1996).
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitab_engine.symbols import Definition, Outline, outline
from habitab_engine.syntax import TRIPLE_QUOTES

CHUNK_LINES = 8
# A chunk with more characters is data, not code that anybody would write again.
_CHUNK_CHARACTERS = 2_000
# Entries of one search: rarer words come first, and what would go beyond is left out.
_MOST_POSTINGS = 100_000
# The share of a query's weight below which a chunk is not looked at.
_LEAST_SHARE = 0.05
# How much a long chunk is held back (BM25's b).
_LENGTH = 0.4
# Rows of removed chunks that are put up with before the arrays are made anew.
_DEAD = 8_192
_BREATH = 64  # chunks between two calls of `breathe`: a few milliseconds

WORD = re.compile(r"[^\W\d]\w+")
_BEGINS = re.compile(r"\s*(?:@|export\b|public\b|def\b|async def\b|class\b|fn\b|pub\b|impl\b|func\b|function\b|type\b)")

# One chunk: the number of its file, its lines, how many different words it has, its family, whether it still counts.
_ROW = np.dtype([("file", "u4"), ("first", "u4"), ("lines", "u2"), ("words", "u2"), ("family", "u1"), ("on", "?")])
Numbers = NDArray[np.uint64]
_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(eq=False, slots=True)
class Entry:
    """One file: its text packed, its rows, and its definitions.

    `names` `[n, 5]`: the name's hash, the first line, the head's last, the body's last, and 1 + the parent's index.
    """

    number: int
    path: str
    packed: bytes
    begin: int
    end: int
    names: NDArray[np.uint32]

    @property
    def text(self) -> str:
        return zlib.decompress(self.packed).decode()


@dataclass(frozen=True, slots=True)
class Found:
    """Lines `first` to `last` (exclusive) of a file; `score` is the share of the query's weight that they hold."""

    score: float
    path: str
    first: int
    last: int


def hash_of(word: str) -> int:
    """32 bits, the same in every run."""
    return zlib.crc32(word.encode(errors="replace"))


def spans(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Chunks of at most `CHUNK_LINES` lines, cut where the code has a joint; blank lines around them belong to none."""
    start, total = 0, len(lines)
    while start < total:
        if not lines[start].strip():
            start += 1
            continue
        end = min(start + CHUNK_LINES, total)
        if end < total:
            joints = (i for i in range(end, start + CHUNK_LINES // 3, -1) if _is_joint(lines, i))
            end = next(joints, end)
        last = end
        while not lines[last - 1].strip():
            last -= 1
        yield start, last
        start = end


def _is_joint(lines: list[str], i: int) -> bool:
    above, below = lines[i - 1], lines[i]
    if not above.strip():
        return True
    return _BEGINS.match(below) is not None and not above.lstrip().startswith(("@", "#", "//", *TRIPLE_QUOTES))


class Postings:
    """Sorted runs of `term << 32 | number`; a reader holds the runs of one moment, which nobody changes."""

    def __init__(self) -> None:
        self.runs: tuple[Numbers, ...] = ()

    def add(self, keys: Numbers) -> None:
        runs = [*self.runs, np.sort(keys)]
        while len(runs) > 1 and len(runs[-2]) <= 2 * len(runs[-1]):
            # A stable sort of two sorted runs is a merge; like all sorting of numbers it frees the GIL.
            runs[-2:] = [np.sort(np.concatenate(runs[-2:]), kind="stable")]
        self.runs = tuple(runs)

    def renumbered(self, numbers: NDArray[np.int64]) -> Postings:
        """The same with `numbers[old]` for each number; those below 0 are left out."""
        made = Postings()
        for run in self.runs:
            moved = numbers[(run & _LOW).astype(np.int64)]
            made.add(((run & ~_LOW) | moved.astype(np.uint64))[moved >= 0])
        return made


def _spans_of(runs: tuple[Numbers, ...], terms: Numbers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each term begins and ends in each run `[runs, 2, terms]`, and how often it is there `[terms]`."""
    low, high = terms << _SHIFT, (terms << _SHIFT) | _LOW
    found = [(np.searchsorted(run, low), np.searchsorted(run, high, "right")) for run in runs]
    bounds = np.array(found, np.int64).reshape(len(runs), 2, len(terms))
    return bounds, (bounds[:, 1] - bounds[:, 0]).sum(0)


def _read(lines: list[str], breathe: Callable[[], object]) -> tuple[list[tuple[int, int, int]], Numbers]:
    """The chunks (first line, lines, different words) and the hashes of their words, one after the other."""
    chunks: list[tuple[int, int, int]] = []
    hashes: list[int] = []
    seen: set[str] = set()
    for count, (first, end) in enumerate(spans(lines)):
        if count % _BREATH == 0:
            breathe()
        text = "\n".join(lines[first:end])
        if text in seen or len(text) > _CHUNK_CHARACTERS:
            continue
        seen.add(text)
        words = {hash_of(word) for word in set(WORD.findall(text))}
        hashes += words
        chunks.append((first, end - first, len(words)))
    return chunks, np.array(hashes, np.uint64)


def _table(definitions: tuple[Definition, ...]) -> NDArray[np.uint32]:
    """The definitions as in `Entry.names`."""
    rows = [(hash_of(d.name), d.first, d.head, d.last, d.parent + 1) for d in definitions]
    return np.array(rows, np.uint32).reshape(len(rows), 5)


class Index:
    """Many texts by path; `family` keeps languages apart that have nothing to say to each other."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._paths: dict[int, str] = {}  # by the number of an entry, which is never given twice
        self._families: dict[str, int] = {}
        self._next = 0
        self._rows = np.zeros(1024, _ROW)
        self._used = self._on = 0
        self._different = 0  # words, summed over the rows
        self._words, self._names = Postings(), Postings()
        # Held while the arrays are exchanged, and while a search takes hold of them.
        self._exchange = threading.Lock()

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def chunks(self) -> int:
        return self._on

    def paths(self) -> list[str]:
        return list(self._entries)

    def text(self, path: str) -> str:
        """The text of `path`, "" if there is none."""
        entry = self._entries.get(path)
        return entry.text if entry is not None else ""

    # ---- writing: one thread ----

    def put(self, path: str, text: str, language: str, family: str, breathe: Callable[[], object] = bool) -> Outline:
        """Index `text` in place of what `path` had; return its outline. `breathe` is called every few milliseconds."""
        around = outline(text, language, breathe)
        chunks, words = _read(text.split("\n"), breathe)
        number, self._next = self._next, self._next + 1
        begin, end = self._append(chunks, number, self._families.setdefault(family, len(self._families)))
        entry = Entry(number, path, zlib.compress(text.encode()), begin, end, _table(around.definitions))
        breathe()
        rows = np.repeat(np.arange(begin, end, dtype=np.uint64), [count for *_, count in chunks])
        self._words.add((words << _SHIFT) | rows)
        top = np.unique(entry.names[entry.names[:, 4] == 0, 0]).astype(np.uint64)
        self._names.add((top << _SHIFT) | np.uint64(number))
        self.drop(path)
        self._paths[number] = path
        self._entries[path] = entry
        return around

    def drop(self, path: str) -> None:
        """Forget the text of `path`, if there is one."""
        entry = self._entries.pop(path, None)
        if entry is not None:
            del self._paths[entry.number]
            self._rows["on"][entry.begin : entry.end] = False
            self._on -= entry.end - entry.begin

    def _append(self, chunks: list[tuple[int, int, int]], number: int, family: int) -> tuple[int, int]:
        if self._used > 2 * self._on + _DEAD:
            self._compact()
        begin, end = self._used, self._used + len(chunks)
        rows = self._rows
        if end > len(rows):
            rows = np.zeros(max(end, len(rows) * 3 // 2), _ROW)
            rows[:begin] = self._rows[:begin]
        rows[begin:end] = [(number, first, lines, words, family, True) for first, lines, words in chunks]
        with self._exchange:
            self._rows, self._used, self._on = rows, end, self._on + len(chunks)
            self._different += sum(words for *_, words in chunks)
        return begin, end

    def _compact(self) -> None:
        """New arrays without what is off; whoever searches keeps the old ones."""
        on = self._rows["on"][: self._used]
        moved = np.concatenate([[0], np.cumsum(on)])  # for each row, how many are on before it
        live = np.full(self._next, -1, np.int64)
        for entry in self._entries.values():
            live[entry.number] = entry.number
            entry.begin, entry.end = int(moved[entry.begin]), int(moved[entry.begin]) + entry.end - entry.begin
        rows = self._rows[: self._used][on]
        words, names = self._words.renumbered(np.where(on, moved[:-1], -1)), self._names.renumbered(live)
        with self._exchange:
            self._rows, self._used, self._words, self._names = rows, len(rows), words, names
            self._different = int(rows["words"].sum())

    # ---- searching: any thread ----

    def search(self, weights: Mapping[str, float], family: str) -> Search:
        """The chunks of `family` by the words they share with a query; `weights` are above 0."""
        with self._exchange:
            rows, words = self._rows[: self._used], self._words.runs
            mean = self._different / max(self._used, 1)
        terms = np.array([hash_of(word) for word in weights], np.uint64)
        bounds, frequency = _spans_of(words, terms)
        # Runs also hold what is switched off, so that a word may seem to be in more rows than there are.
        rarity = np.log1p((np.maximum(len(rows) - frequency, 0) + 0.5) / (frequency + 0.5))
        gains = np.array(list(weights.values()), np.float64) * rarity
        totals = _totals(len(rows), words, bounds, frequency, gains)
        hit = np.flatnonzero(totals > _LEAST_SHARE * gains.sum())
        hit = hit[rows["on"][hit] & (rows["family"][hit] == self._families.get(family, 255))]
        gain_of = dict(zip(weights, gains.tolist(), strict=True))
        return Search(rows[hit], totals[hit], self._entries, self._paths, gain_of, mean)

    def defining(self, name: str) -> list[str]:
        """The paths that define `name` at their top level."""
        with self._exchange:
            runs = self._names.runs
        bounds, _ = _spans_of(runs, np.array([hash_of(name)], np.uint64))
        numbers = [
            int(n & _LOW) for run, (begin, end) in zip(runs, bounds[:, :, 0], strict=True) for n in run[begin:end]
        ]
        return [path for n in sorted(numbers) if (path := self._paths.get(n)) is not None]

    def heads(self, path: str, name: str) -> list[list[tuple[int, int]]]:
        """For each top-level definition of `name` in `path`: its head's lines (ends included), then its members'."""
        entry = self._entries.get(path)
        if entry is None:
            return []
        first, head, parent = entry.names[:, 1], entry.names[:, 2], entry.names[:, 4]
        found = np.flatnonzero((entry.names[:, 0] == hash_of(name)) & (parent == 0))
        rows = (np.concatenate([[i], np.flatnonzero(parent == i + 1)]) for i in found)
        return [[(int(first[i]), int(head[i])) for i in group] for group in rows]


class Search:
    """What one query found, in the arrays as they were then."""

    def __init__(
        self,
        chunks: NDArray[Any],
        totals: NDArray[np.float64],
        entries: Mapping[str, Entry],
        paths: Mapping[int, str],
        gains: Mapping[str, float],
        mean: float,
    ) -> None:
        self._chunks, self._entries, self._paths = chunks, entries, paths
        self._gains, self._mean = gains, max(mean, 1.0)
        self._scores = totals / self._most(chunks["words"])

    def _most(self, words: Any) -> Any:
        """What a text of so many different words is measured by: a long one is held back."""
        return max(sum(self._gains.values()), 1e-9) * (1 - _LENGTH + _LENGTH * words / self._mean)

    def share(self, text: str) -> float:
        """The score of any text."""
        words = set(WORD.findall(text))
        return float(sum(gain for word, gain in self._gains.items() if word in words) / self._most(len(words)))

    def best(self, most: int, among: Collection[str] | None = None) -> list[Found]:
        """The `most` best chunks, of the paths `among` if given; the best first."""
        hit = np.arange(len(self._chunks))
        if among is not None:
            numbers = [entry.number for path in among if (entry := self._entries.get(path)) is not None]
            hit = np.flatnonzero(np.isin(self._chunks["file"], numbers))
        if len(hit) > most:
            hit = hit[np.argpartition(self._scores[hit], -most)[-most:]]
        ranked = hit[np.lexsort((hit, -self._scores[hit]))]
        return [found for i in ranked if (found := self._found(i)) is not None]

    def _found(self, i: np.int64) -> Found | None:
        chunk = self._chunks[i]
        path, first = self._paths.get(int(chunk["file"])), int(chunk["first"])
        return None if path is None else Found(float(self._scores[i]), path, first, first + int(chunk["lines"]))


def _totals(
    rows: int,
    runs: tuple[Numbers, ...],
    bounds: NDArray[np.int64],
    frequency: NDArray[np.int64],
    gains: NDArray[np.float64],
) -> NDArray[np.float64]:
    """For each row the gains of the terms in it `[rows]`."""
    order = np.argsort(frequency, kind="stable")
    taken = order[np.cumsum(frequency[order]) <= _MOST_POSTINGS]
    parts = [
        (run[begin:end], gains[t])
        for run, (begins, ends) in zip(runs, bounds, strict=True)
        for t, begin, end in zip(taken, begins[taken], ends[taken], strict=True)
        if begin < end
    ]
    if not parts:
        return np.zeros(rows)
    hit = (np.concatenate([part for part, _ in parts]) & _LOW).astype(np.int64)
    weights = np.repeat([gain for _, gain in parts], [len(part) for part, _ in parts])
    # A row that was added after the search took hold of them is nobody's yet.
    return np.bincount(hit, weights, rows)[:rows].astype(np.float64, copy=False)
