"""One document of a window, with the suggestions that are followed in it; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from habitab_engine.types import Span
from habitab_server.anchors import pieces
from habitab_server.documents import Document, Edit
from habitab_server.edited import Busy, Lines, Region, Spans, settled
from habitab_server.follow import IGNORED_SECONDS, ONE_KEY, Follow

# A longer insertion, or one of several lines, was not typed: it was pasted, or a tool made it.
_TYPED_CHARACTERS = 64
# A longer span is no typing either.
_SPAN_CHARACTERS = 20_000


@dataclass(slots=True, eq=False)
class Page:
    """`live` are the suggestions that may be on the screen, best first; `follows` are all that are not done with.

    Times are seconds on the caller's clock, `when` those of the calendar.
    """

    document: Document
    follows: list[Follow] = field(default_factory=list)
    live: list[Follow] = field(default_factory=list)
    lines: Lines = field(default_factory=Lines)
    spans: Spans = field(default_factory=Spans)
    # Whether an edit of this moment wrote or deleted anything but blanks, and whether it took a suggestion.
    _edited: bool = False
    _taken: bool = False

    def edited(self, edit: Edit, now: float) -> int:
        """Take in an edit (shrunk) that the document has made; how many characters of it were typed by hand."""
        self.lines.edited(self.document, edit, now)
        for piece in pieces(edit) if self.follows else ():
            for follow in self.follows:
                follow.move(piece)
        self._edited |= bool((edit.removed + edit.text).strip())
        if self._advance(edit.text, now):
            self._taken = True
            return 0
        return typed_by_hand(edit.text)

    def judge(self, now: float) -> None:
        """All edits of one moment were taken in."""
        for follow in self.live:
            if follow.touched:
                follow.judge(now, self._taken)
            elif self._edited:
                follow.end("ignored", now)
        self.live = [follow for follow in self.live if not follow.verdict]
        self._edited = self._taken = False

    def replace_live(self, group: list[Follow], now: float) -> None:
        """Others are on the screen now, or none."""
        for follow in self.live:
            if follow not in group:
                follow.end("ignored", now)
        self.live = group

    def name_taken(self, follow: Follow, now: float) -> None:
        """The client names the one that was taken: what the same edit seemed to take of others was not."""
        for other in self.follows:
            if other is not follow and other.credited and follow.gain and other.version == follow.version:
                other.withdraw()
                other.end("ignored", now)

    def leave(self, follow: Follow) -> None:
        """There is nothing more to tell of it."""
        self.follows = [other for other in self.follows if other is not follow]
        self.hide(follow)

    def hide(self, follow: Follow) -> None:
        self.live = [other for other in self.live if other is not follow]

    def pass_time(self, now: float, when: float) -> None:
        """Give up what nobody answers, and measure what is due."""
        for follow in self.live:
            if now - follow.active_at >= IGNORED_SECONDS:
                follow.end("ignored", follow.active_at + IGNORED_SECONDS)
        for follow in self.follows:
            for at in follow.due(now):
                follow.measure(self.document, at, when)

    def measure(self, at: str, when: float) -> None:
        """Look at the places of all that was taken."""
        for follow in self.follows:
            if follow.kept is not None:
                follow.measure(self.document, at, when)

    def settled(self, busy: list[Busy], now: float) -> list[Follow]:
        """Those of which there is something to tell, where nobody types."""
        return [
            follow
            for follow in self.follows
            if follow.verdict
            and (not follow.told or follow.waiting or not follow.awaits(now))
            and settled(busy, *follow.lines, follow.since)
        ]

    def around(self, first: int, last: int, now: float) -> str:
        return self.lines.around(self.document, first, last, now)

    def tell_spans(self, busy: list[Busy], root: str, path: str, now: float) -> Iterator[Span]:
        """The spans that have settled, in an order that replays them."""

        def at_rest(region: Region) -> bool:
            return settled(busy, region.begin.line, region.end.line)

        for region, place in self.spans.take(at_rest):
            after = self.document.between(region.begin, region.end)
            if region.before == after or len(region.before) + len(after) > _SPAN_CHARACTERS:
                continue
            around = self.around(region.begin.line, region.end.line, now)
            where = root, path, self.document.language, place.line, place.column
            yield Span(region.when, *where, region.before, after, around)

    def _advance(self, text: str, now: float) -> bool:
        """Whether an edit that inserted `text` took one of the suggestions on the screen."""
        takers = [follow for follow in self.live if follow.touched and follow.advance(self.document, text, now)]
        if takers:
            # Alternatives may begin alike; only one of them was taken.
            best = next((follow for follow in takers if follow.completed), takers[0])
            for other in takers:
                if other is not best:
                    other.withdraw()
        return bool(takers)


def typed_by_hand(text: str) -> int:
    """How many characters of an insertion were typed: a key's, or a word's that a menu or an input method wrote."""
    by_key = ONE_KEY.fullmatch(text) or "\n" not in text
    return len(text) if by_key and len(text) <= _TYPED_CHARACTERS else 0
