"""What becomes of each suggestion of one editor window: follows them all, and tells once their lines have settled.

A pure state machine: it is told what happens, and the time by its clocks. All text stays here until the line it stands
in is at rest, so that a secret is seen whole before anything is kept of it. What belongs to a line that is being typed
in, or was when the suggestion was made, waits.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from habitab_engine.config import Settings
from habitab_engine.types import Signal, Typed
from habitab_server.anchors import Anchor, shrunk
from habitab_server.documents import Document, Edit, Place, count_units
from habitab_server.edited import RECENT_SECONDS, Busy, Spans
from habitab_server.follow import Follow, Made
from habitab_server.page import Page
from habitab_server.scope import Scope

MOST_FOLLOWED = 500
# Seconds between two counts of what was typed.
COUNT_SECONDS = 60.0
_DISMISSALS = ("ignored", "typed_over", "typed_through")


class Item(NamedTuple):
    """One item of a reply: `text` is what is left of a suggestion, for what stands between `start` and `end`."""

    made: Made
    text: str
    start: Place
    end: Place


class Feedback:
    """Serves one front. `emit` gets what has settled; `wake` is called when `tick` has to be, once a second.

    `base` is the id of the engine's base, set when it is known.
    """

    def __init__(
        self,
        scope: Scope,
        emit: Callable[[list[Signal]], None],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        self.base = ""
        self._scope, self._emit, self._wake = scope, emit, wake
        self._clock, self._calendar = clock, calendar
        self._settings = Settings()
        self._pages: dict[str, Page] = {}
        self._named: OrderedDict[str, tuple[Page, Follow]] = OrderedDict()
        # How many rows were made of an id: the same text may be offered again long after it was told of.
        self._rows: OrderedDict[str, int] = OrderedDict()
        self._typed: Counter[str] = Counter()
        self._counted_at = 0.0
        self._cursor: tuple[str, Place] = ("", Place(0, 0))
        self._moved_at = 0.0

    @property
    def pending(self) -> bool:
        """Whether time alone may bring something to tell."""
        return bool(+self._typed) or any(page.follows or page.spans for page in self._pages.values())

    def configure(self, settings: Settings) -> None:
        """What is switched off is forgotten at once, untold."""
        self._settings = settings
        if not self._on:
            self._pages.clear()
            self._named.clear()
            self._typed.clear()
        elif not self._spans_on:
            for page in self._pages.values():
                page.spans = Spans()

    # ---- suggestions ----

    def offered(self, document: Document, version: int, items: Sequence[Item], menu: str = "") -> None:
        """A reply went to the editor, best first, for `version` of the document; `menu` is its selected menu item."""
        if not self._on or not items or version != document.version:
            return
        now, page = self._clock(), self._page(document)
        group: list[Follow] = []
        for rank, item in enumerate(items):
            follow = self._followed(page, item, now)
            if follow is not None and follow not in group:
                follow.offer(document, now, not rank, menu)
                group.append(follow)
        page.replace_live(group, now)

    def suppressed(self, document: Document, version: int, made: Made, end: Place) -> None:
        """The gate hid a suggestion for what stands up to `end`; what is typed there says whether it was right to."""
        if self._on and version == document.version:
            now, page = self._clock(), self._page(document)
            self._follow(page, made, Anchor(made.place, end, is_open=True), now).end("suppressed", now)

    def asked(self, document: Document, cursor: Place) -> None:
        """The editor asks: that is where the cursor is."""
        now = self._clock()
        self._go(document.uri, cursor, now)
        page = self._pages.get(document.uri)
        for follow in page.live if page else ():
            if not follow.place.begin <= cursor <= follow.place.end:
                follow.end("ignored", now)

    def shown(self, identity: str) -> None:
        if (found := self._named.get(identity)) is not None:
            found[1].shown(self._clock())

    def accepted(self, identity: str) -> None:
        """The item's command came."""
        if (found := self._named.get(identity)) is not None:
            page, follow = found
            page.name_taken(follow, self._clock())
            self._typed[page.document.language] -= follow.command(page.document, self._clock())

    def partly(self, identity: str, units: int) -> None:
        """The client took a piece: `units` (UTF-16) of the text are taken by now."""
        if (found := self._named.get(identity)) is None:
            return
        page, follow = found
        if count_units(follow.text[: follow.accepted], "utf-16") < units:
            page.name_taken(follow, self._clock())
            self._typed[page.document.language] -= follow.credit(page.document, self._clock())
        follow.in_pieces |= follow.stands

    def dismissed(self, identity: str, reason: str) -> None:
        """The client says that a suggestion left the screen; what the edits said already counts, but for a reject."""
        if (found := self._named.get(identity)) is None:
            return
        page, follow = found
        if reason == "rejected":
            follow.reject(self._clock())
            page.hide(follow)
        elif reason in _DISMISSALS:
            follow.end(reason, self._clock())

    # ---- documents ----

    def edited(self, document: Document, edit: Edit) -> None:
        """One edit, which `document` has made already; `changed` follows the last of one moment."""
        edit = shrunk(edit)
        if not self._on or not (edit.removed or edit.text):
            return
        now, page = self._clock(), self._page(document)
        self._go(document.uri, edit.reached, now)
        if self._spans_on:
            page.spans.edited(edit, self._calendar())
        if typed := page.edited(edit, now):
            self._counted_at = self._counted_at if self._typed else now
            self._typed[document.language] += typed
        self._wake()

    def changed(self, document: Document) -> None:
        """All edits of one moment were told."""
        if (page := self._pages.get(document.uri)) is not None:
            page.judge(self._clock())

    def saved(self, uri: str) -> None:
        if (page := self._pages.get(uri)) is not None:
            page.measure("save", self._calendar())
            page.lines.rest(self._cursor[1].line if self._cursor[0] == uri else None)
            self._tell(page, self._busy(page))

    def closed(self, uri: str) -> None:
        """The document is gone: everything of it is told now."""
        if (page := self._pages.get(uri)) is not None:
            for follow in page.follows:
                follow.end("ignored", self._clock())
            page.measure("close", self._calendar())
            self._tell(page, [])
            self.drop(uri)

    def drop(self, uri: str) -> None:
        """Forget a document, untold: it became private."""
        if (page := self._pages.pop(uri, None)) is not None:
            for follow in page.follows:
                self._unname(follow)

    def close(self) -> None:
        """The window ends."""
        for uri in list(self._pages):
            self.closed(uri)
        self._tell_counts()

    def tick(self) -> None:
        """Time has passed; once a second while something is pending."""
        now = self._clock()
        for page in list(self._pages.values()):
            page.pass_time(now, self._calendar())
            self._tell(page, self._busy(page))
        if now - self._counted_at >= COUNT_SECONDS:
            self._tell_counts()

    # ---- following ----

    @property
    def _on(self) -> bool:
        return self._settings.record_suggestions and self._settings.enabled and not self._settings.privacy_fault

    @property
    def _spans_on(self) -> bool:
        return self._settings.record_typing and self._settings.workspace_trusted

    def _page(self, document: Document) -> Page:
        page = self._pages.get(document.uri)
        if page is None or page.document is not document:
            page = self._pages[document.uri] = Page(document)
        return page

    def _go(self, uri: str, cursor: Place, now: float) -> None:
        """The cursor is here now; in the document that it left is no ghost any more."""
        left = self._pages.get(self._cursor[0])
        if left is not None and self._cursor[0] != uri:
            left.replace_live([], now)
        self._cursor, self._moved_at = (uri, cursor), now

    def _followed(self, page: Page, item: Item, now: float) -> Follow | None:
        """The suggestion that an item is of: known by its id, or by the same text at the same place, or new."""
        made, begin = item.made, _begin(page.document, item)
        if begin is None:
            return None
        _, follow = self._named.get(made.id, (page, None))
        if follow is not None and not follow.told:
            if follow.place.begin != begin and follow.kept is None:
                follow.place = Anchor(begin, item.end, is_open=True)
            return None if follow.stands else follow
        for follow in page.live:
            here = follow.place.begin <= item.start <= follow.place.end
            if here and follow.text[follow.standing :] == item.text:
                self._name(page, follow, made.id)
                return follow
        return self._follow(page, made, Anchor(begin, item.end, is_open=True), now)

    def _follow(self, page: Page, made: Made, place: Anchor, now: float) -> Follow:
        rows = self._rows.get(made.id, 0)
        name = f"{made.id}.{rows}" if rows else made.id
        trusted = self._settings.workspace_trusted
        follow = Follow(name, made, place, now, self._calendar(), self.base, trusted, active_at=now)
        page.follows.append(follow)
        self._name(page, follow, made.id)
        self._wake()
        return follow

    def _name(self, page: Page, follow: Follow, name: str) -> None:
        follow.names.append(name)
        self._named[name] = page, follow
        self._named.move_to_end(name)
        if len(self._named) > MOST_FOLLOWED:
            self._finish(*next(iter(self._named.values())))

    def _unname(self, follow: Follow) -> None:
        for name in follow.names:
            self._named.pop(name, None)

    def _finish(self, page: Page, follow: Follow) -> None:
        """Tell the oldest as it is, to make room; where its line is being typed in there is nothing to tell."""
        follow.end("ignored", self._clock())
        self._tell(page, self._busy(page))
        page.leave(follow)
        self._unname(follow)

    # ---- telling ----

    def _busy(self, page: Page) -> list[Busy]:
        """The lines that somebody types in, and where the cursor is unless it rests for long."""
        now = self._clock()
        busy = page.lines.busy(now)
        if self._cursor[0] == page.document.uri and now - self._moved_at < RECENT_SECONDS:
            line = self._cursor[1].line
            busy.append(Busy(line, page.lines.begun(line, now)))
        return busy

    def _tell(self, page: Page, busy: list[Busy]) -> None:
        """What has settled of a document; nothing of one that is private."""
        now, uri = self._clock(), page.document.uri
        if self._scope.why_private(uri):
            self.drop(uri)
            return
        found: list[Signal] = []
        for follow in page.settled(busy, now):
            self._note_row(follow)
            found += follow.tell(page.document, self.base, page.around(*follow.lines, now))
            if not follow.awaits(now):
                page.leave(follow)
                self._unname(follow)
        found += page.tell_spans(busy, self._scope.root_of(uri), self._scope.path_of(uri), now)
        if found:
            self._emit(found)

    def _note_row(self, follow: Follow) -> None:
        """Its id has a row now."""
        for name in () if follow.told else follow.names:
            self._rows[name] = self._rows.get(name, 0) + 1
            self._rows.move_to_end(name)
        while len(self._rows) > 2 * MOST_FOLLOWED:
            self._rows.popitem(last=False)

    def _tell_counts(self) -> None:
        """What was typed by hand since the last count."""
        when = self._calendar()
        found: list[Signal] = [Typed(when, language, count) for language, count in self._typed.items() if count > 0]
        self._typed.clear()
        self._counted_at = self._clock()
        if found:
            self._emit(found)


def _begin(document: Document, item: Item) -> Place | None:
    """Where the suggestion begins whose rest an item is; None if its head does not stand there."""
    head, start = item.made.text[: len(item.made.text) - len(item.text)], item.start
    first, *more = head.split("\n")
    line = start.line - len(more)
    begin = Place(line, (len(document.line(line)) if more else start.column) - len(first))
    return begin if min(line, begin.column) >= 0 and document.between(begin, start) == head else None
