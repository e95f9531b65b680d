"""The workspace's files in suffix order: exact longest matches over millions of tokens at six bytes each.

A segment holds about a million codes of many files, each file backwards, and the order of all its places by the
`REACH` codes before them, found by doubling prefixes (Manber and Myers, 1993) in a few sorts with pauses between.
A file that changes leaves its segment's order at once and comes back in a new segment; small segments are built anew
as one, as in a log-structured merge tree (O'Neil and others, 1996).
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from habitab_engine.units import Encoder
from habitab_engine.windows import OCCURRENCES, REACH, backward, common
from habitab_engine.words import Table, names_of, packed

SEGMENT = 1_000_000  # codes; more would make the pauses rarer, less the searches more
MOST = 11_000_000  # codes in all: 66 MB with a vocabulary of at most 65,534
_ASKED = 4  # segments that are read where many have the longest match: it is a short one then
Codes = npt.NDArray[np.unsignedinteger[Any]]
Order = npt.NDArray[np.int32]
Pause = Callable[[], None]


@dataclass(frozen=True, slots=True)
class File:
    """What is kept of one file: its codes in reading order, and its names, packed."""

    codes: bytes
    names: bytes


class Segment:
    """Some files in suffix order. Nothing is added later; files can be taken away."""

    def __init__(self, files: Mapping[str, File], width: int, pause: Pause) -> None:
        self._width = width
        border = bytes(width)
        self._codes = border + b"".join(backward(file.codes, width) + border for file in files.values())
        ends = np.cumsum([1, *(len(file.codes) // width + 1 for file in files.values())]).tolist()
        self._spans = {path: (ends[i], ends[i + 1] - 1) for i, path in enumerate(files)}
        self.live = self._size = ends[-1] - 1 - len(files)  # codes that count, and all
        self.table = Table({path: file.names for path, file in files.items()})
        pause()
        self._places = _order(np.frombuffer(self._codes, f">u{width}"), pause).data

    def __contains__(self, path: str) -> bool:
        return path in self._spans

    @property
    def wasted(self) -> bool:
        """True where most of what is held counts no longer."""
        return self.live * 2 < self._size

    def files(self) -> dict[str, File]:
        return {path: self.file(path) for path in self._spans}

    def file(self, path: str) -> File:
        begin, end = self._spans[path]
        codes = backward(self._codes[begin * self._width : end * self._width], self._width)
        return File(codes, self.table.names(path))

    def remove(self, path: str) -> None:
        begin, end = self._spans.pop(path)
        self.live -= end - begin
        places = np.asarray(self._places)
        self._places = places[(places < begin) | (places >= end)].data
        self.table.remove(path)

    def length(self, pattern: bytes) -> int:
        """How many codes of `pattern`, nearest first, stand before a place here, at most."""
        before = self._before(len(pattern))
        at = bisect_left(self._places, pattern, key=before)
        around = self._places[max(0, at - 1) : at + 1]
        return max((common(pattern, before(place), self._width) for place in around), default=0)

    def following(self, shared: bytes, ahead: int, most: int) -> list[bytes]:
        """The up to `ahead` codes at places that have `shared` before them; of many places, about `most`."""
        before, width = self._before(len(shared)), self._width
        low = bisect_left(self._places, shared, key=before)
        high = bisect_right(self._places, shared, low, key=before)
        places = self._places[low : high : (high - low) // most + 1]
        spans = [self._codes[max(0, place - ahead) * width : place * width] for place in places]
        return spans if ahead == 1 else [backward(span, width) for span in spans]

    def _before(self, size: int) -> Callable[[int], bytes]:
        codes, width = self._codes, self._width
        return lambda place: codes[place * width : place * width + size]


def _order(codes: Codes, pause: Pause) -> Order:
    """The places that have a code on both sides, sorted by the `REACH` codes from each on."""
    size, reach = len(codes), 8 // codes.itemsize
    key = np.zeros(size, np.uint64)
    for i in range(reach):
        key[: max(0, size - i)] |= codes[i:].astype(np.uint64) << np.uint64(64 - 8 * codes.itemsize * (i + 1))
    order = np.argsort(key)
    while reach < REACH:
        pause()
        ranks = _ranks(key, order)
        pause()
        key = ranks << np.uint64(32)
        key[: max(0, size - reach)] |= ranks[reach:]
        del ranks
        order = np.argsort(key)
        reach *= 2
    order = order.astype(np.int32)
    pause()
    return order[(codes[order] != 0) & (codes[order - 1] != 0)]


def _ranks(key: npt.NDArray[np.uint64], order: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    """From 1 on, equal for equal keys."""
    ordered = key[order]
    ranks = np.empty(len(key), np.uint64)
    ranks[order] = np.concatenate([[True], ordered[1:] != ordered[:-1]]).cumsum()
    return ranks


class Files:
    """The files of a workspace. One thread changes them in the background, another asks, hides and shows."""

    def __init__(self, encoder: Encoder, pause: Pause) -> None:
        self._encoder, self._pause = encoder, pause
        self._lock = threading.Lock()
        self._segments: tuple[Segment, ...] = ()
        self._waiting: dict[str, File] = {}
        self._building: dict[str, File] = {}
        self._hidden: dict[str, File | None] = {}

    def __len__(self) -> int:
        """The number of codes, those not yet in order included."""
        width, unordered = self._encoder.width, (*self._waiting.values(), *self._building.values())
        return sum(segment.live for segment in self._segments) + sum(len(file.codes) // width for file in unordered)

    def add(self, path: str, text: str) -> bool:
        """Take `text` as what the file holds now; False where there is no room for it."""
        file = self._read(text)
        with self._lock:
            self._take(path)
            if path in self._hidden:
                self._hidden[path] = file
                return True
            if len(self) + len(file.codes) // self._encoder.width > MOST:
                return False
            self._waiting[path] = file
            full = sum(len(file.codes) for file in self._waiting.values()) >= SEGMENT * self._encoder.width
        if full:
            self.build()
        return True

    def remove(self, path: str) -> None:
        with self._lock:
            self._take(path)
            if path in self._hidden:
                self._hidden[path] = None

    def hide(self, path: str) -> None:
        """Let the file not count until it is shown again: an editor has it open."""
        with self._lock:
            if path not in self._hidden:
                self._hidden[path] = self._take(path)

    def show(self, path: str) -> None:
        """Let a hidden file count again, at once."""
        with self._lock:
            file = self._hidden.pop(path, None)
            if file:
                self._segments += (Segment({path: file}, self._encoder.width, _no_pause),)

    def build(self) -> None:
        """Put into order what waits, together with segments that are no bigger; for the background thread."""
        with self._lock:
            group = self._group()
            self._building = {path: file for segment in group for path, file in segment.files().items()}
            self._building |= self._waiting
            self._waiting = {}
            files = dict(self._building)
        built = [Segment(files, self._encoder.width, self._pause)] if files else []
        with self._lock:
            for path in files.keys() - self._building.keys():  # taken away since
                built[0].remove(path)
            self._building = {}
            self._segments = (*(segment for segment in self._segments if segment not in group), *built)

    def longest(self, pattern: bytes, ahead: int, least: int) -> tuple[int, list[bytes]]:
        """How many codes of `pattern`, nearest first, stand before a place here, at most, and what follows there.

        What follows a match of less than `least` codes is not asked; of many segments, a few are.
        """
        found = [(segment.length(pattern), segment) for segment in self._segments]
        length = max((n for n, _ in found), default=0)
        if length < max(least, 1):
            return length, []
        best = [segment for n, segment in found if n == length][:_ASKED]
        shared, most = pattern[: length * self._encoder.width], OCCURRENCES // len(best) + 1
        return length, [codes for segment in best for codes in segment.following(shared, ahead, most)]

    def beginning(self, typed: str) -> dict[str, int]:
        """Names that begin with `typed`, and in how many files they stand."""
        counts: Counter[str] = Counter()
        for segment in self._segments:
            counts.update(segment.table.beginning(typed))
        return counts

    def _read(self, text: str) -> File:
        codes: list[bytes] = []
        names: set[str] = set()
        for stretch in self._encoder.stretches(text):
            self._pause()
            codes.append(self._encoder(stretch))
            names.update(names_of(stretch))
        return File(b"".join(codes), packed(names))

    def _take(self, path: str) -> File | None:
        """The file, which is then nowhere here any more."""
        unordered = self._waiting.pop(path, None), self._building.pop(path, None)
        file = unordered[0] or unordered[1]
        for segment in self._segments:
            if path in segment:
                file = file or segment.file(path)
                segment.remove(path)
        return file

    def _group(self) -> list[Segment]:
        """The segments to build anew together with what waits."""
        total = sum(len(file.codes) // self._encoder.width for file in self._waiting.values())
        group: list[Segment] = []
        for segment in sorted(self._segments, key=lambda segment: segment.live):
            if total + segment.live <= SEGMENT and (segment.live <= 2 * total or not total or segment.wasted):
                group.append(segment)
                total += segment.live
        alone = not self._waiting and len(group) == 1 and not group[0].wasted
        return [] if alone else group


def _no_pause() -> None:
    """What a file that was shown again is built with: it must count at once."""
