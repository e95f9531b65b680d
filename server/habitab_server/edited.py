"""Where one document was edited lately: lines that must settle, and spans of typing that replay a session; pure.

Times are in seconds on the caller's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from habitab_server.anchors import shifted
from habitab_server.documents import Document, Edit, Place

# A line that was not edited for so long has settled.
QUIET_SECONDS = 15.0
# So long an edited line is looked at for a secret that was typed piece by piece.
RECENT_SECONDS = 300.0
_MOST_LINES = 200
_MOST_CHARACTERS = 20_000
_NEAR_LINES = 3
# The body of a private key is known by the first line, which stands at most so far above.
_KEY_LINES = 100
_LOST = 64
_LOST_CHARACTERS = 2_000


class Busy(NamedTuple):
    """A line that somebody types in since `begun`."""

    line: int
    begun: float


def settled(busy: Iterable[Busy], first: int, last: int, since: float = float("-inf")) -> bool:
    """Whether the lines from `first` to `last` are at rest, and whatever line was being typed in at `since`."""
    return not any(first <= line <= last or begun <= since for line, begun in busy)


class Lines:
    """Which lines were edited when, and what stood in them before text was deleted."""

    def __init__(self) -> None:
        # The first and the last edit of each line.
        self._edits: dict[int, tuple[float, float]] = {}
        self._lost: deque[tuple[float, str]] = deque(maxlen=_LOST)
        # The line of the last edit, if that only deleted.
        self._deleting: int | None = None

    def edited(self, document: Document, edit: Edit, now: float) -> None:
        """Note an edit that was just made in `document`."""
        self._remember(document, edit, now)
        start, end, reached = edit.start.line, edit.end.line, edit.reached
        first, last = self.begun(start, now), self.begun(end, now)
        if start == end == reached.line:
            self._edits[start] = (first, now)
            return
        self._renumber(start, end, reached.line - end, now)
        for line in range(start + 1, min(reached.line, start + _MOST_LINES)):
            self._edits[line] = (now, now)
        moved = len(document.line(reached.line)) > reached.column
        self._edits[reached.line] = (last if moved else now, now)
        self._edits[start] = (min(first, last) if reached.line == start else first, now)

    def rest(self, but: int | None) -> None:
        """Every line but this one has settled: the person has left them, and saved."""
        for line, (first, last) in self._edits.items():
            if line != but:
                self._edits[line] = (first, min(last, last - QUIET_SECONDS))

    def busy(self, now: float) -> list[Busy]:
        """The lines that have not settled."""
        return [Busy(line, begun) for line, (begun, last) in self._edits.items() if now - last < QUIET_SECONDS]

    def around(self, document: Document, first: int, last: int, now: float) -> str:
        """The lines from `first` to `last` with those next to them, and every line that was edited lately.

        With them goes what was deleted lately: a secret typed in halves may never have stood there when it was looked
        at.
        """
        near = range(max(0, first - _NEAR_LINES), min(last + _NEAR_LINES, document.end.line) + 1)
        recent = {line for line, (_, when) in self._edits.items() if now - when < RECENT_SECONDS}
        lines = [*near, *sorted(recent - set(near))]
        texts = [document.line(line) for line in lines if line <= document.end.line]
        texts += [_key_above(document, first)]
        texts += [text for when, text in self._lost if now - when < RECENT_SECONDS]
        return "\n".join(_within(texts, _MOST_CHARACTERS))

    def begun(self, line: int, now: float) -> float:
        """When the person began with this line."""
        first, last = self._edits.get(line, (now, now))
        return first if now - last < RECENT_SECONDS else now

    def _renumber(self, start: int, end: int, grown: int, now: float) -> None:
        """Forget the lines from `start` to `end` and what is long ago; those below move by `grown` lines."""
        recent = [(line, times) for line, times in self._edits.items() if now - times[1] < RECENT_SECONDS]
        outside = [(line, times) for line, times in recent if not start <= line <= end]
        self._edits = {line + grown if line > end else line: times for line, times in outside}

    def _remember(self, document: Document, edit: Edit, now: float) -> None:
        """Keep what the first of several deletions took apart; the later ones only take more of it."""
        only_deletes = bool(edit.removed) and not edit.text
        if edit.removed and not (only_deletes and self._deleting == edit.end.line):
            head = document.line(edit.start.line)[: edit.start.column]
            tail = document.line(edit.reached.line)[edit.reached.column :]
            self._lost.append((now, (head + edit.removed + tail)[:_LOST_CHARACTERS]))
        self._deleting = edit.start.line if only_deletes else None


def _key_above(document: Document, line: int) -> str:
    """The first line of the private key that `line` is in the middle of, or ""."""
    for number in range(line, max(-1, line - _KEY_LINES), -1):
        text = document.line(number)
        if "-----BEGIN" in text:
            return text
        if "-----END" in text and number != line:
            return ""
    return ""


def _within(texts: list[str], room: int) -> Iterator[str]:
    for text in texts:
        yield text[:room]
        room -= len(text) + 1
        if room <= 0:
            return


@dataclass(slots=True)
class Region:
    """A stretch that was edited: `before` became what stands between `begin` and `end`."""

    begin: Place
    end: Place
    before: str
    when: float


class Spans:
    """The stretches of one document that are being edited; what is taken out of here, in order, replays the edits.

    Keys that follow each other make one stretch; a new line begins another, so that whoever types on and on leaves
    finished ones behind.
    """

    def __init__(self) -> None:
        self._regions: list[Region] = []

    def __len__(self) -> int:
        return len(self._regions)

    def edited(self, edit: Edit, now: float) -> None:
        """Take in an edit that was just made."""
        first, last = self._touched(edit)
        merged = _merged(self._regions[first:last], edit, now)
        above, below = self._regions[:first], self._regions[last:]
        for region in below:
            region.begin, region.end = shifted(region.begin, edit), shifted(region.end, edit)
        self._regions = [*above, merged, *below]

    def take(self, settled: Callable[[Region], bool]) -> Iterator[tuple[Region, Place]]:
        """Take out the regions that have settled.

        With each comes the place of its beginning in a document in which all that were taken out before it are edited
        and those that stay are not.
        """
        staying: list[Region] = []
        taken = []
        for region in self._regions:
            if not settled(region):
                staying.append(region)
                continue
            place = region.begin
            for other in reversed(staying):
                place = shifted(place, Edit(0, other.begin, other.end, other.before))
            taken.append((region, place))
        self._regions = staying
        yield from taken

    def _touched(self, edit: Edit) -> tuple[int, int]:
        """The regions that the edit belongs to, as a slice; an empty one is where a new region belongs."""
        touched = [
            number
            for number, region in enumerate(self._regions)
            if region.begin <= edit.end and edit.start <= region.end and not _begins_behind(edit, region)
        ]
        if not touched:
            number = sum(region.end <= edit.start for region in self._regions)
            return number, number
        # What is inserted between two belongs to the first.
        return touched[0], touched[0] + 1 if edit.start == edit.end else touched[-1] + 1


def _begins_behind(edit: Edit, region: Region) -> bool:
    """Whether the edit is a new line behind the region."""
    return edit.start == edit.end == region.end != region.begin and edit.text.startswith("\n")


def _merged(regions: list[Region], edit: Edit, now: float) -> Region:
    """One region of those and the edit, which touches each of them."""
    before, at = "", edit.start
    for region in regions:
        if at < region.begin:
            before += _slice(edit, at, region.begin)
        before += region.before
        at = max(at, region.end)
    if at < edit.end:
        before += _slice(edit, at, edit.end)
    begin = min([edit.start, *(region.begin for region in regions)])
    end = max([edit.end, *(region.end for region in regions)])
    return Region(begin, shifted(end, edit), before, now)


def _slice(edit: Edit, start: Place, end: Place) -> str:
    """What of the removed text stood between two places."""
    return edit.removed[_offset(edit, start) : _offset(edit, end)]


def _offset(edit: Edit, place: Place) -> int:
    lines = edit.removed.split("\n")[: place.line - edit.start.line]
    columns = place.column - (edit.start.column if place.line == edit.start.line else 0)
    return sum(map(len, lines)) + len(lines) + columns
