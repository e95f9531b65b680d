"""Today's text as a sorted multiset of windows: exact longest matches, updated in time proportional to the change.

A window stands for one place in a text: the `REACH` codes before it, nearest first, then the `AHEAD` codes that
follow. Sorted, the windows that share the longest context with a pattern are neighbours. An edit only exchanges the
windows that see it, which a suffix automaton could not do: it can only grow at its end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from habitab_engine.units import BORDER, Encoder

REACH, AHEAD = 32, 16  # codes of context that count, and of what follows them
LONGEST_UNIT = 1_000  # characters, a millisecond of work; nobody typed a longer line, so it counts as a border
OCCURRENCES = 64  # read of a match that has more; evenly spaced
_FAR = 4_000  # characters; a change that spans more is taken apart
_BLOCK = 512  # windows in a block; an insertion moves half of one
_MANY = 60  # windows for each block, from which on sorting all anew is cheaper than inserting one by one
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit took away and what it put there: a stretch of text around it, and windows."""

    gone_text: str
    new_text: str
    gone: list[bytes]
    new: list[bytes]


class Document:
    """One text as codes, kept up with its edits. A border may stand in it: nothing is seen across."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._width = encoder, encoder.width
        self.text = self.shown = ""  # `shown` has a border in the place of the hole
        self._codes = b""
        self._sizes = np.zeros(0, np.int64)  # of each unit, in characters
        self._counts = np.zeros(0, np.int64)  # of each unit, in codes

    def __len__(self) -> int:
        """The number of codes."""
        return len(self._codes) // self._width

    def update(self, text: str, hole: tuple[int, int] | None) -> list[Change]:
        """Make `text` the document's, without the characters `hole`; say what that changed."""
        shown = text if hole is None else f"{text[: hole[0]]}{BORDER}{text[hole[1] :]}"
        begin, end = changed(self.shown, shown)
        whole, self.text = self.text, text
        if end - begin <= _FAR:
            return [self._replace(shown, begin, end)]
        # Where the cursor has jumped, what lies between has not changed: close the hole and open it elsewhere.
        return [self._replace(step, *changed(self.shown, step)) for step in (whole, text, shown)]

    def _replace(self, shown: str, begin: int, end: int) -> Change:
        first, last, begin, end = self._units(begin, end)
        gone, new = self.shown[begin:end], shown[begin : end + len(shown) - len(self.shown)]
        units = self._encoder.cut(new)
        codes = [self._encoder(unit if len(unit) <= LONGEST_UNIT else BORDER) for unit in units]
        counts = [len(code) // self._width for code in codes]
        at, old = int(self._counts[:first].sum()), int(self._counts[first:last].sum())
        self.shown = shown
        self._sizes = _spliced(self._sizes, first, last, list(map(len, units)))
        self._counts = _spliced(self._counts, first, last, counts)
        return Change(gone, new, *self._exchange(at, at + old, b"".join(codes)))

    def _exchange(self, begin: int, end: int, codes: bytes) -> tuple[list[bytes], list[bytes]]:
        """Put `codes` in the place of the codes `begin:end`; return the windows gone and new."""
        width, old = self._width, self._codes[begin * self._width : end * self._width]
        lead = common(old, codes, width)
        tail = common(backward(old[lead * width :], width), backward(codes[lead * width :], width), width)
        begin, end = begin + lead, end - tail
        fresh = codes[lead * width : len(codes) - tail * width]
        gone = self._windows(begin - AHEAD, end + REACH)
        self._codes = b"".join((self._codes[: begin * width], fresh, self._codes[end * width :]))
        return gone, self._windows(begin - AHEAD, begin + len(fresh) // width + REACH)

    def windows(self) -> list[bytes]:
        return self._windows(0, len(self))

    def _units(self, begin: int, end: int) -> tuple[int, int, int, int]:
        """The units to be cut anew for a change of characters `begin:end`, as a range of units and of characters.

        One unit more on the left, and up to the first cut behind the change on the right: those cuts still stand.
        """
        ends = self._sizes.cumsum()
        first = max(0, int(np.searchsorted(ends, begin)) - 1)
        last = min(int(np.searchsorted(ends, end, "right")) + 1, len(ends))
        return first, last, int(ends[first - 1]) if first else 0, int(ends[last - 1]) if last else 0

    def _windows(self, begin: int, end: int) -> list[bytes]:
        """The windows at the codes `begin:end`, clipped; those at a border, where nothing follows, left out."""
        begin, end, width = max(0, begin), min(len(self), end), self._width
        low, high = begin - REACH, end + AHEAD
        codes = b"".join(
            (
                bytes(max(0, -low) * width),
                self._codes[max(0, low) * width : high * width],
                bytes(max(0, high - len(self)) * width),
            )
        )
        return list(windows_of(codes, width))


def windows_of(codes: bytes, width: int) -> Iterator[bytes]:
    """The windows at all places of `codes` that have `REACH` codes before them and `AHEAD` from them on."""
    before, size = backward(codes, width), len(codes)
    border, reach, ahead = bytes(width), REACH * width, AHEAD * width
    for at in range(reach, size - ahead, width):
        if codes[at : at + width] != border:
            yield before[size - at : size - at + reach] + codes[at : at + ahead]


def backward(codes: bytes, width: int) -> bytes:
    """The codes in opposite order."""
    return np.frombuffer(codes, f">u{width}")[::-1].tobytes()


def common(a: bytes, b: bytes, width: int) -> int:
    """How many codes of `width` bytes two byte strings share at their start."""
    size = min(len(a), len(b))
    differing = int.from_bytes(a[:size], "big") ^ int.from_bytes(b[:size], "big")
    return (size * 8 - differing.bit_length()) // 8 // width


def _spliced(numbers: Numbers, first: int, last: int, new: list[int]) -> Numbers:
    return np.concatenate([numbers[:first], np.array(new, np.int64), numbers[last:]])


def changed(old: str, new: str) -> tuple[int, int]:
    """The characters of `old` that a change to `new` touched: after their longest common start, before their end."""
    begin = _alike(old, new)
    most = min(len(old), len(new)) - begin
    end = most - _differ_last(old[len(old) - most :], new[len(new) - most :]) if most else 0
    return begin, len(old) - end


def _alike(a: str, b: str) -> int:
    """The length of the longest common start, found by halving."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _differ_last(a: str, b: str) -> int:
    """How many characters of two equally long texts stand before their longest common end."""
    low, high = 0, len(a)
    while low < high:
        middle = (low + high) // 2
        if a[middle:high] == b[middle:high]:
            high = middle
        else:
            low = middle + 1
    return low


class Windows:
    """A sorted multiset of windows in blocks, so that one can be added or taken away without moving all."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._blocks: list[list[bytes]] = []
        self._firsts: list[bytes] = []

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def exchange(self, gone: Sequence[bytes], new: Sequence[bytes]) -> None:
        """Take away the windows `gone`, each of which is there, and add `new`."""
        if len(gone) + len(new) > _MANY * max(1, len(self._blocks)):
            left = Counter(gone)
            kept = (window for window in chain(*self._blocks) if not (window in left and _take(left, window)))
            self._arrange(sorted(chain(kept, sorted(new))))  # two runs in order are merged in one go
            return
        for window in gone:
            self._discard(window)
        for window in new:
            self._add(window)

    def longest(self, pattern: bytes, ahead: int) -> tuple[int, list[bytes]]:
        """How many codes of `pattern`, nearest first, stand before a place here, at most, and what follows there.

        That is up to `ahead` codes in reading order; of many places, about `OCCURRENCES`.
        """
        index = self._block_of(pattern)
        block = self._blocks[index] if index >= 0 else []
        at = bisect_left(block, pattern)
        neighbours = [*block[max(0, at - 1) : at + 1], *self._firsts[index + 1 : index + 2]]
        length = max((common(pattern, window, self._width) for window in neighbours), default=0)
        return length, self._following(pattern[: length * self._width], ahead) if length else []

    def _following(self, shared: bytes, ahead: int) -> list[bytes]:
        first = max(0, bisect_left(self._firsts, shared) - 1)
        last = bisect_left(self._firsts, shared + b"\xff" * self._width)
        spans = []
        for block in self._blocks[first:last]:
            low = bisect_left(block, shared)
            spans.append((block, low, bisect_left(block, shared + b"\xff" * self._width, low)))
        stride = sum(high - low for _, low, high in spans) // OCCURRENCES + 1
        begin, end = REACH * self._width, (REACH + ahead) * self._width
        return [window[begin:end] for block, low, high in spans for window in block[low:high:stride]]

    def _block_of(self, window: bytes) -> int:
        return bisect_right(self._firsts, window) - 1

    def _add(self, window: bytes) -> None:
        if not self._blocks:
            self._arrange([window])
            return
        index = max(0, self._block_of(window))
        block = self._blocks[index]
        insort(block, window)
        self._firsts[index] = block[0]
        if len(block) > 2 * _BLOCK:
            self._blocks[index : index + 1] = [block[:_BLOCK], block[_BLOCK:]]
            self._firsts[index : index + 1] = [block[0], block[_BLOCK]]

    def _discard(self, window: bytes) -> None:
        index = self._block_of(window)
        block = self._blocks[index]
        del block[bisect_left(block, window)]
        if block:
            self._firsts[index] = block[0]
        else:
            del self._blocks[index], self._firsts[index]

    def _arrange(self, windows: list[bytes]) -> None:
        ends = [*range(0, len(windows), _BLOCK), len(windows)]
        self._blocks = [windows[begin:end] for begin, end in pairwise(ends)]
        self._firsts = [block[0] for block in self._blocks]


def _take(left: Counter[bytes], window: bytes) -> bool:
    """Whether one of `window` is left, which is then taken."""
    left[window] -= 1
    return left[window] >= 0
