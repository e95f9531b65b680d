"""One suggestion from its offer to its outcome, told by the edits at its place; pure.

What an editor that says nothing shows by its edits alone, one edit after the other:

- It inserts the whole rest of the ghost: `accepted`, also if it was taken in pieces before (the editors' own command
  comes with the last piece as well). If the client then says that it was only a piece, it is `partly_accepted`.
- It inserts two characters or more that the ghost goes on with: `partly_accepted`. More may follow and add up, and
  what is typed by hand between and behind the pieces does not count as taken.
- It inserts what one key writes (a character, a line break with its indentation, a pair of brackets or quotes) and
  the ghost agrees: typed; to the ghost's end that is `typed_through`. Taking a last single character cannot be told
  from typing it, unless the client sends the item's command.
- It contradicts the ghost: `typed_over`. Deleting what was typed contradicts nothing.
- It happens somewhere else: `ignored`, as after ten seconds.

Brackets that the editor closed by itself and its indentation of later lines contradict nothing. Under 250 ms on the
screen, everything but taking it is `unseen`. Only a client can say `rejected`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from habitab_engine.types import SURVIVAL_SECONDS, CompletionRequest, Fate, Snippet, Survival
from habitab_server.anchors import Anchor
from habitab_server.documents import Document, Edit, Place, after
from habitab_server.suggestions import OPENERS

SHOWN_SECONDS = 0.25
IGNORED_SECONDS = 10.0
# When the place of a rejected one is looked at again.
REJECT_SECONDS = (30,)
ONE_KEY = re.compile(r"\s*|.|[(\[{<\"'`]+[)\]}>\"'`]+", re.DOTALL)
_CLOSERS = re.compile(r"(?:\n[ \t]*)?[)\]}>\"'`]{1,4}")
_BLANKS = " \t"
# Below a suggestion's own lines an editor may put the closers of what was opened in them.
_MORE_LINES = 2
_NO_REQUEST = CompletionRequest("", "", "", "")


@dataclass(frozen=True, slots=True)
class Made:
    """A suggestion as the engine made it for `request`, whose cursor was at `place`; `probability` is the gate's."""

    id: str
    request: CompletionRequest
    place: Place
    text: str
    logprobs: tuple[float, ...] = ()
    probability: float = 0.0
    adapter: str = ""
    latency_ms: float = 0.0
    snippets: tuple[Snippet, ...] = ()
    automatic: bool = True
    reason: str = ""


@dataclass(slots=True, eq=False)
class Follow:
    """A suggestion on its way. `place` is where it stands or would stand, with all that was typed there since.

    `since` is when it was first offered (seconds on the caller's clock), `when` the same by the calendar.
    """

    id: str
    made: Made
    place: Anchor
    since: float
    when: float
    base: str = ""
    trusted: bool = True
    # Why it is no ghost any more; "" while it may be one.
    verdict: str = ""
    rejected_at: float | None = None
    # The names under which the editor knows it.
    names: list[str] = field(default_factory=list)
    # The editor's selected menu item, whose taking is none of ours.
    menu: str = ""
    # When a client said it was shown, and how long it was on the screen before `on_screen`.
    said_shown: bool = False
    screen: float = 0.0
    on_screen: float | None = None
    active_at: float = 0.0
    # Characters of the text that stand in the document, and how many of them were taken and not typed.
    standing: int = 0
    accepted: int = 0
    accepted_at: float = 0.0
    # Taken to its end; the item's command came; the client said it was a piece.
    completed: bool = False
    commanded: bool = False
    in_pieces: bool = False
    kept: Anchor | None = None
    inserted: str = ""
    # What the edits of this moment did, until they are judged.
    touched: bool = False
    wrote: bool = False
    torn: bool = False
    agreed: bool = False
    contradicted: bool = False
    # How many characters the last edit there brought, to which version, and whether they count as taken.
    gain: int = 0
    version: int = 0
    credited: bool = False
    told: bool = False
    waiting: list[Survival] = field(default_factory=list)
    measured: set[str] = field(default_factory=set)

    @property
    def text(self) -> str:
        return self.made.text

    @property
    def stands(self) -> bool:
        """Whether all of it is in the document."""
        return self.standing == len(self.text)

    @property
    def outcome(self) -> str:
        """One of `types.OUTCOMES`; final once there is a verdict."""
        if self.commanded or (self.completed and not self.in_pieces):
            return "accepted"
        if self.accepted:
            return "partly_accepted"
        if self.rejected_at is not None:
            return "rejected"
        if self.verdict != "suppressed" and not self.said_shown and self.screen < SHOWN_SECONDS:
            return "unseen"
        return self.verdict or "ignored"

    @property
    def lines(self) -> tuple[int, int]:
        """The first and the last line of its place."""
        if self.told and self.kept is not None:
            return self.kept.begin.line, self.kept.end.line
        first = self.place.begin.line
        last = self.kept.end.line if self.kept else first
        return first, max(last, min(self.place.end.line, first + self.text.count("\n")))

    # ---- what happens ----

    def offer(self, document: Document, now: float, visible: bool, menu: str) -> None:
        """It was given to the editor (again); only the best of several is `visible` at once."""
        self.verdict, self.menu, self.active_at = "", menu, now
        self.touched = self.wrote = self.torn = self.agreed = self.contradicted = False
        if visible and self.on_screen is None:
            self.on_screen = now
        self.standing = agreement(self.text, self._written(document))[0]

    def shown(self, now: float) -> None:
        self.said_shown = True
        if self.on_screen is None and not self.verdict:
            self.on_screen = now

    def end(self, verdict: str, now: float) -> None:
        """It is no ghost any more; the first verdict counts."""
        if not self.verdict:
            self.verdict = verdict
            self._hide(now)

    def reject(self, now: float) -> None:
        if self.rejected_at is None:
            self.rejected_at = now
        self.end("rejected", now)

    def move(self, edit: Edit) -> None:
        """Follow an edit made in the document."""
        if self.kept is not None:
            self.kept.move(edit)
            if self.told:
                return
        begin = self.place.begin
        if self.place.move(edit):
            self.touched = True
            self.wrote |= bool(edit.text)
            self.torn |= edit.start < begin and bool(edit.removed.strip())
            # What is written lines below has nothing to do with it.
            if self.place.end.line > begin.line + self.text.count("\n") + _MORE_LINES:
                self.place.is_open = False

    def advance(self, document: Document, text: str, now: float) -> bool:
        """An edit that inserted `text` touched its place; whether that took some of it."""
        written = self._written(document)
        standing, used = agreement(self.text, written)
        self.gain, self.credited, self.version = max(0, standing - self.standing), False, document.version
        self.agreed |= self.gain > 0
        # A closer of the editor's comes with its opener.
        by_hand = bool(text.strip()) and not self.agreed
        self.contradicted = not _harmless(written[used:], self.text[:standing], by_hand)
        if self.contradicted:
            self.gain = 0
            return False
        self.standing = standing
        if not self.gain or ONE_KEY.fullmatch(text) or written == self.menu:
            return False
        self.credit(document, now)
        return True

    def judge(self, now: float, other_taken: bool) -> None:
        """All edits of one moment were seen; with `other_taken` one of its alternatives was taken."""
        if self.torn or self.contradicted:
            self.end("typed_over" if self.wrote and not other_taken else "ignored", now)
        elif self.stands:
            self.end("typed_through", now)
        elif self.touched and not self.verdict:
            self.active_at = now
        self.touched = self.wrote = self.torn = self.agreed = False

    def credit(self, document: Document, now: float) -> int:
        """What the last edit brought was taken, not typed; how many characters count as taken now."""
        if self.credited or not self.gain:
            return 0
        self.credited = True
        self.accepted = min(self.accepted + self.gain, self.standing)
        self.completed = self.stands
        written = self._written(document)
        self._keep(written[: agreement(self.text, written)[1]], now)
        return self.gain

    def withdraw(self) -> None:
        """What the last edit brought belongs to another suggestion."""
        if self.credited:
            self.credited = self.completed = False
            self.accepted -= self.gain
        if not self.accepted:
            self.kept, self.inserted = None, ""

    def command(self, document: Document, now: float) -> int:
        """The item's command came: it was accepted, whatever the edits look like. Its text may be still to come.

        How many characters count as taken that counted as typed before.
        """
        self.commanded = True
        credited = self.credit(document, now) if self.stands else 0
        if not self.stands and self.contradicted and self.kept is None:
            self.accepted = len(self.text) - self.standing
            self._keep(self._written(document, 0), now)
        if self.kept is not None:
            self.end("typed_through", now)
        return credited

    # ---- what is told of it ----

    def text_now(self, document: Document) -> str:
        """What stands where it was taken, or would have stood."""
        if self.kept is None:
            return self._written(document, 0)
        return document.between(self.kept.begin, self.kept.end)

    def measure(self, document: Document, at: str, when: float) -> None:
        """Look at its place, once for each `at`; the text waits until its lines have settled."""
        if at not in self.measured:
            self.measured.add(at)
            self.waiting.append(Survival(self.id, at, when, self.text_now(document), ""))

    def tell(self, document: Document, base: str, around: str) -> Iterator[Fate | Survival]:
        """Its fate, the first time, and what was measured since."""
        if not self.told:
            yield self._fate(document, base, around)
            # Its prompt is not needed any more.
            self.told, self.made = True, Made(self.made.id, _NO_REQUEST, self.made.place, self.made.text)
        yield from (replace(measured, around=around) for measured in self.waiting)
        self.waiting.clear()

    def _fate(self, document: Document, base: str, around: str) -> Fate:
        made, request = self.made, self.made.request
        return Fate(
            id=self.id,
            when=self.when,
            root=request.root,
            path=request.path,
            language=request.language,
            trusted=self.trusted,
            automatic=made.automatic,
            base=self.base or base,
            adapter=made.adapter,
            prefix=request.prefix,
            suffix=request.suffix,
            snippets=made.snippets,
            text=made.text,
            logprobs=made.logprobs,
            probability=made.probability,
            reason=made.reason,
            latency_ms=made.latency_ms,
            outcome=self.outcome,
            screen_ms=self.screen * 1000,
            accepted=self.accepted,
            inserted=self.inserted,
            instead=self._instead(document),
            around=around,
        )

    def awaits(self, now: float) -> bool:
        """Whether its place is to be looked at again."""
        if self.kept is None:
            return self.rejected_at is not None and now - self.rejected_at <= REJECT_SECONDS[-1]
        return now - self.accepted_at <= SURVIVAL_SECONDS[-1]

    def due(self, now: float) -> Iterator[str]:
        """The times at which its place had to be looked at by now."""
        times, begin = (SURVIVAL_SECONDS, self.accepted_at) if self.kept else (REJECT_SECONDS, self.rejected_at)
        if begin is not None:
            yield from (str(seconds) for seconds in times if now - begin >= seconds)

    def _instead(self, document: Document) -> str:
        if self.kept is None:
            return self._written(document, 0)
        return "" if self.stands else self._written(document, 0, self.kept.end)

    def _hide(self, now: float) -> None:
        if self.on_screen is not None:
            self.screen += now - self.on_screen
            self.on_screen = None

    def _keep(self, text: str, now: float) -> None:
        """`text` stands there because of it; what was measured of a shorter piece is void."""
        begin = self.place.begin
        self.kept, self.inserted, self.accepted_at = Anchor(begin, after(begin, text), is_open=False), text, now
        self.waiting.clear()
        self.measured.clear()

    def _written(self, document: Document, more: int = _MORE_LINES, start: Place | None = None) -> str:
        """What stands in its place, from `start` on; at most as many lines as it has, and `more`."""
        start, end = start or self.place.begin, self.place.end
        if start > end:
            return ""
        last = start.line + self.text.count("\n") + more
        return document.between(start, end if end.line <= last else Place(last, len(document.line(last))))


def agreement(text: str, written: str) -> tuple[int, int]:
    """How many characters of `text` and of `written` agree; the indentation of later lines may differ."""
    if text.startswith(written):
        return len(written), len(written)
    i = j = 0
    while i < len(text) and j < len(written) and text[i] == written[j]:
        i, j = i + 1, j + 1
        if text[i - 1] == "\n":
            i, j = _skip(text, i), _skip(written, j)
    return i, j


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _harmless(rest: str, agreed: str, by_hand: bool) -> bool:
    """Whether `rest` is only what an editor adds by itself: closers of what agreed, also on the next line."""
    if not rest:
        return True
    return not by_hand and bool(_CLOSERS.fullmatch(rest)) and all(OPENERS[one] in agreed for one in rest.strip())
