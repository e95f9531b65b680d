"""Where a document was edited lately; pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from habitab_engine.windows import changed

# Lines of one change; more was pasted, formatted or checked out, and says nothing of what the person is doing.
MOST_LINES = 24
# Places that a document remembers.
_MOST_PLACES = 6
# Lines between two places that make them one.
_NEAR = 3

_turn = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Lines `first` to `last` (exclusive) of the document as it is now; a larger `turn` was edited later."""

    turn: int
    first: int
    last: int


class Trail:
    """The places of one document, which move with the lines above them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.places: tuple[Place, ...] = ()

    def update(self, text: str) -> None:
        """Compare with the text before; what differs was edited."""
        if text == self._text:
            return
        begin, end = changed(self._text, text)
        removed, added = self._text[begin:end], text[begin : end + len(text) - len(self._text)]
        first = text.count("\n", 0, begin)
        old_last, new_last = first + removed.count("\n") + 1, first + added.count("\n") + 1
        self._text = text
        new = Place(next(_turn), first, new_last)
        kept: list[Place] = []
        for place in self.places:
            if place.first > old_last + _NEAR:
                shift = new_last - old_last
                kept.append(replace(place, first=place.first + shift, last=place.last + shift))
            elif place.last < first - _NEAR:
                kept.append(place)
            elif place.last - place.first <= MOST_LINES:
                last = max(new_last, place.last + new_last - old_last)
                new = replace(new, first=min(place.first, new.first), last=max(new.last, last))
        if new_last - first <= MOST_LINES:
            kept.append(new)
        self.places = tuple(kept[-_MOST_PLACES:])
