"""What was suggested a moment ago: served again while it is typed through, kept away once it was rejected."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from habitab_server.documents import Snapshot

# How much text on both sides of a cursor tells one place from another.
_HEAD_CHARACTERS = 2_000
_TAIL_CHARACTERS = 1_000
_ENTRIES = 16
OPENERS = {")": "(", "]": "[", "}": "{", ">": "<", '"': '"', "'": "'", "`": "`"}
_MOST_CLOSERS = 4
_REJECTED = 32
_REJECTED_CHARACTERS = 300
REJECTED_SECONDS = 30.0


class Typed(NamedTuple):
    """What was typed since, and how many closing characters the editor put right of the cursor meanwhile."""

    text: str
    closers: int


class Fit(NamedTuple):
    """A suggestion's rest at a cursor; it takes the place of `replaced` characters right of it."""

    id: str
    text: str
    replaced: int


@dataclass(frozen=True, slots=True)
class Spot:
    """The place a suggestion was asked for; `must_start` is the menu item that it was bound to."""

    cursor: int
    head: str
    tail: str
    must_start: str = ""

    @classmethod
    def at(cls, snapshot: Snapshot, must_start: str = "") -> Spot:
        head, tail = snapshot.prefix[-_HEAD_CHARACTERS:], snapshot.suffix[:_TAIL_CHARACTERS]
        return cls(snapshot.cursor, head, tail, must_start)

    def typed(self, snapshot: Snapshot) -> Typed | None:
        """What was typed between this spot and `snapshot`; None if anything else happened."""
        count = snapshot.cursor - self.cursor
        if not 0 <= count <= len(snapshot.prefix):
            return None
        cut = len(snapshot.prefix) - count
        before, text = snapshot.prefix[max(0, cut - _HEAD_CHARACTERS) : cut], snapshot.prefix[cut:]
        if not (before.endswith(self.head) or self.head.endswith(before)):
            return None
        closers = _closers(text, self.tail, snapshot.suffix)
        return None if closers is None else Typed(text, closers)


def _closers(typed: str, tail: str, suffix: str) -> int | None:
    """How many closers stand in `suffix` before `tail`, each for an opener in `typed`; None if it differs."""
    for count in range(_MOST_CLOSERS + 1):
        if suffix[count : count + _TAIL_CHARACTERS] == tail:
            return count
        if count == len(suffix) or OPENERS.get(suffix[count], "\0") not in typed:
            return None
    return None


def _in_order(wanted: str, text: str) -> bool:
    """Whether the characters of `wanted` occur in `text` in this order."""
    rest = iter(text)
    return all(character in rest for character in wanted)


@dataclass(frozen=True, slots=True)
class Entry:
    """The answer for one spot: (id, text) best first, of `count` that were asked for."""

    spot: Spot
    suggestions: tuple[tuple[str, str], ...]
    count: int = 1

    def fits(self, snapshot: Snapshot, must_start: str = "") -> Iterator[Fit]:
        """The rests of the suggestions that what was typed since agrees with."""
        typed = self.spot.typed(snapshot)
        if typed is None or not (typed.text + must_start).startswith(self.spot.must_start):
            return
        closing = snapshot.suffix[: typed.closers]
        for identity, text in self.suggestions:
            rest = text[len(typed.text) :]
            if not text.startswith(typed.text) or not _extends(rest, must_start):
                continue
            # An inserted closer is replaced, not doubled, which needs the suggestion to hold it itself.
            if _in_order(closing, rest.partition("\n")[0]):
                yield Fit(identity, rest, typed.closers)


def _extends(rest: str, must_start: str) -> bool:
    return rest.startswith(must_start) and bool(rest[len(must_start) :].strip())


class Suggestions:
    """The last answers of one document, newest first; bounded."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_ENTRIES)

    def add(self, entry: Entry) -> None:
        self._entries.appendleft(entry)

    def find(self, snapshot: Snapshot, must_start: str = "", count: int = 1) -> list[Fit]:
        """What can be shown at once at `snapshot`; empty if the engine has to be asked."""
        for entry in self._entries:
            if entry.count >= count and (fits := list(entry.fits(snapshot, must_start))):
                return fits[:count]
        return []

    def clear(self) -> None:
        self._entries.clear()


class Rejected:
    """Suggestions that a person sent away; each is forgotten after REJECTED_SECONDS."""

    def __init__(self) -> None:
        self._when: OrderedDict[str, float] = OrderedDict()

    def add(self, prefix: str, text: str, now: float) -> None:
        """Remember that `text` was not wanted behind `prefix`; `now` in seconds."""
        self._when[becomes(prefix, text)] = now
        while len(self._when) > _REJECTED:
            self._when.popitem(last=False)

    def holds(self, prefix: str, text: str, now: float) -> bool:
        when = self._when.get(becomes(prefix, text))
        return when is not None and now - when < REJECTED_SECONDS


def becomes(prefix: str, text: str) -> str:
    """What the text would make of its place: the same for a suggestion and for its rest once its head was typed."""
    return (prefix[-_REJECTED_CHARACTERS:] + text)[-_REJECTED_CHARACTERS:]
