"""From a cursor to what the editor shows: privacy, cache, debounce, one engine job a document; no LSP."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import uuid4

from habitab_engine import gate
from habitab_engine.config import Settings
from habitab_engine.errors import Cancelled, HabitabError
from habitab_engine.types import Completion, CompletionRequest, Folder, OpenText, Signal, Suggestion
from habitab_server.debounce import Debounce
from habitab_server.documents import Document, Place, Snapshot, after
from habitab_server.feedback import Feedback, Item
from habitab_server.follow import Made
from habitab_server.scope import Scope
from habitab_server.suggestions import Entry, Fit, Rejected, Spot, Suggestions, becomes

# How long typing on waits for a running answer that may still agree with it.
PATIENCE_S = 0.04
# An editor cancels at a keystroke and asks again 35 to 50 ms later: so long the running answer is kept.
GRACE_S = 0.06
_SHOWN = 256
# Suggestions of one document that may be offered again.
_MADE = 64
# What the setting tells the engine; None leaves it to the place and the model.
_MULTILINE = {"auto": None, "always": True, "never": False}


class Link(Protocol):
    """The engine as the front sees it; `complete` raises a HabitabError, cancelling it frees the engine."""

    on_connected: Callable[[], None]

    async def start(self) -> None: ...

    async def complete(self, request: CompletionRequest) -> Completion: ...

    async def open_folder(self, folder: Folder) -> None: ...

    async def observe(self, text: OpenText) -> None: ...

    async def forget(self, document: str) -> None: ...

    async def record(self, signals: Sequence[Signal]) -> str: ...

    async def signal_stats(self) -> dict[str, Any]: ...

    async def look_at_adapter(self) -> None: ...

    async def status(self) -> dict[str, Any]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Offer:
    """One item for the editor: `text` takes the place of what stands between `start` and `end`."""

    id: str
    text: str
    start: Place
    end: Place


@dataclass(frozen=True, slots=True)
class Ask:
    """One wish for suggestions; the snapshot is taken when it arrives."""

    document: Document
    snapshot: Snapshot
    end: Place
    must_start: str = ""
    count: int = 1
    automatic: bool = True
    after_accept: bool = False

    @property
    def spot(self) -> Spot:
        return Spot.at(self.snapshot, self.must_start)


@dataclass(slots=True)
class _Job:
    """An engine call under way; whoever waits for it is counted, so that it ends with the last one."""

    ask: Ask
    task: asyncio.Task[None]
    waiting: int = 0

    def serves(self, ask: Ask) -> bool:
        """Whether the answer may still fit: only typing happened since, with the same menu item."""
        same = self.ask.count >= ask.count and self.ask.must_start == ask.must_start
        return same and self.ask.spot.typed(ask.snapshot) is not None

    def same_place(self, ask: Ask) -> bool:
        return self.ask.snapshot.cursor == ask.snapshot.cursor


@dataclass(slots=True)
class _Desk:
    """What is remembered of one document."""

    suggestions: Suggestions = field(default_factory=Suggestions)
    rejected: Rejected = field(default_factory=Rejected)
    job: _Job | None = None
    # Counts requests, so that one that comes back from waiting sees whether it is still the newest.
    turn: int = 0
    # A request was given up before the engine had answered it.
    unanswered: bool = False
    accepted_at: int = -1
    # The last request for which the engine had nothing worth showing.
    empty: Ask | None = None
    # What the last answer would have made of its place, had it been shown.
    hidden: frozenset[str] = frozenset()
    made: OrderedDict[str, Made] = field(default_factory=OrderedDict)

    def has_nothing_for(self, ask: Ask) -> bool:
        """Whether the engine said so already, about the very same text."""
        old = self.empty
        if old is None or old.snapshot != ask.snapshot:
            return False
        return (old.must_start, old.count, old.automatic) == (ask.must_start, ask.count, ask.automatic)


@dataclass(frozen=True, slots=True)
class _Shown:
    document: Document
    snapshot: Snapshot
    text: str


class Completer:
    """Serves one front. `on_fault` is told the engine's state: a sentence, or "" when it answers again."""

    def __init__(self, link: Link, scope: Scope, feedback: Feedback, on_fault: Callable[[str], None]) -> None:
        self.link = link
        self.paused = False
        self._scope = scope
        self._feedback = feedback
        self._on_fault = on_fault
        self._settings = Settings()
        self._debounce = Debounce(self._settings.debounce_min_ms, self._settings.debounce_max_ms)
        self._desks: dict[str, _Desk] = {}
        self._shown: OrderedDict[str, _Shown] = OrderedDict()

    def configure(self, settings: Settings) -> None:
        self._settings = settings
        self._debounce.set_bounds(settings.debounce_min_ms, settings.debounce_max_ms)
        for desk in self._desks.values():
            desk.empty = None

    async def complete(self, ask: Ask) -> list[Offer]:
        """The suggestions worth showing, best first. Raises CancelledError as soon as it is cancelled."""
        self._feedback.asked(ask.document, ask.end)
        if self._why_silent(ask):
            return []
        desk = self._desks.setdefault(ask.document.uri, _Desk())
        fits = self._find(desk, ask)
        if not fits and not desk.has_nothing_for(ask):
            fits = await self._from_engine(desk, ask)
        offers = [self._offer(ask, fit) for fit in fits]
        if self._desks.get(ask.document.uri) is desk:
            known = [(desk.made[offer.id], offer) for offer in offers if offer.id in desk.made]
            items = [Item(made, offer.text, offer.start, offer.end) for made, offer in known]
            self._feedback.offered(ask.document, ask.snapshot.version, items, ask.must_start)
        return offers

    def accepted(self, identity: str) -> None:
        """A suggestion was taken; what comes next is computed before the editor asks for it."""
        self._debounce.accepted()
        shown = self._shown.get(identity)
        if shown is None:
            return
        document, end = shown.document, after(shown.snapshot.place, shown.text)
        if not document.contains(end):
            return
        snapshot = document.snapshot(end)
        if not snapshot.prefix.endswith(shown.text):
            return
        self._prefetch(Ask(document, snapshot, end, after_accept=True))

    def partly_accepted(self) -> None:
        self._debounce.accepted()

    def rejected(self, identity: str) -> None:
        """A suggestion was sent away; it is not shown again for a while."""
        self._debounce.rejected()
        shown = self._shown.get(identity)
        if shown is not None:
            desk = self._desks.setdefault(shown.document.uri, _Desk())
            desk.rejected.add(shown.snapshot.prefix, shown.text, time.monotonic())

    def forget(self, uri: str) -> None:
        """Forget everything of a document, and stop working for it."""
        desk = self._desks.pop(uri, None)
        if desk is not None and desk.job is not None:
            desk.job.task.cancel()
        gone = [identity for identity, shown in self._shown.items() if shown.document.uri == uri]
        for identity in gone:
            del self._shown[identity]

    def stop(self) -> None:
        """Cancel every engine call and drop what was cached."""
        for uri in list(self._desks):
            self.forget(uri)

    def _why_silent(self, ask: Ask) -> str:
        """Why nothing may be asked for this document, or "". Privacy comes before everything else."""
        settings = self._settings
        if settings.privacy_fault:
            return settings.privacy_fault
        if self.paused or not settings.enabled or not settings.languages.get(ask.document.language, True):
            return "off"
        return self._scope.why_private(ask.document.uri)

    def _find(self, desk: _Desk, ask: Ask) -> list[Fit]:
        """What the cache has for this cursor, less what was just rejected (unless the person asks for it)."""
        fits = desk.suggestions.find(ask.snapshot, ask.must_start, ask.count)
        if not ask.automatic:
            return fits
        now, prefix = time.monotonic(), ask.snapshot.prefix
        return [fit for fit in fits if not desk.rejected.holds(prefix, fit.text, now)]

    async def _from_engine(self, desk: _Desk, ask: Ask) -> list[Fit]:
        request = self._request(desk, ask)
        if gate.why_not(request):
            return []
        desk.turn += 1
        turn = desk.turn
        if (job := self._reusable(desk, ask)) is not None:
            fits = await self._wait(desk, job, ask)
            if fits or desk.turn != turn or job.same_place(ask):
                return fits
        self._supersede(desk)
        await self._debounced(desk, ask)
        if desk.turn != turn:
            return []
        return await self._wait(desk, self._start(desk, ask, request), ask)

    def _reusable(self, desk: _Desk, ask: Ask) -> _Job | None:
        return desk.job if desk.job is not None and desk.job.serves(ask) else None

    async def _debounced(self, desk: _Desk, ask: Ask) -> None:
        delay_ms = self._debounce.delay(time.monotonic() * 1000) if ask.automatic else 0.0
        if not delay_ms:
            return
        desk.unanswered = True
        await asyncio.sleep(delay_ms / 1000)

    def _supersede(self, desk: _Desk) -> None:
        """Make room for a newer request."""
        if desk.unanswered or desk.job is not None:
            self._debounce.superseded()
        desk.unanswered = False
        self._drop(desk, desk.job)

    def _start(self, desk: _Desk, ask: Ask, request: CompletionRequest) -> _Job:
        desk.unanswered = False
        task = asyncio.get_running_loop().create_task(self._run(desk, ask, request))
        desk.job = _Job(ask, task)
        return desk.job

    async def _run(self, desk: _Desk, ask: Ask, request: CompletionRequest) -> None:
        """One engine call; its answer goes into the cache, where whoever waits finds it."""
        try:
            completion = await self.link.complete(request)
        except Cancelled:
            return
        except HabitabError as exc:
            self._on_fault(str(exc))
            return
        finally:
            if desk.job is not None and desk.job.task is asyncio.current_task():
                desk.job = None
        self._on_fault("")
        self._debounce.answered()
        shown = self._judged(desk, ask, request, completion)
        desk.empty = None if shown else ask
        if shown:
            desk.suggestions.add(Entry(ask.spot, tuple((made.id, made.text) for made in shown), ask.count))

    async def _wait(self, desk: _Desk, job: _Job, ask: Ask) -> list[Fit]:
        """The job's answer as far as it fits; typing on does not wait for ever. Ends the job if cancelled."""
        job.waiting += 1
        patience = None if job.same_place(ask) else PATIENCE_S
        try:
            await asyncio.wait({job.task}, timeout=patience)
        except asyncio.CancelledError:
            self._release(desk, job, ask)
            raise
        finally:
            job.waiting -= 1
        if job.task.done() and not job.task.cancelled():
            job.task.result()
        return self._find(desk, ask)

    def _release(self, desk: _Desk, job: _Job, ask: Ask) -> None:
        """Nobody waits any more: end the job, at once unless the person typed on where it works."""
        if job.waiting > 1 or job.task.done():
            return
        desk.unanswered = True
        if not ask.document.typed_on(ask.snapshot.version, ask.snapshot.place):
            self._drop(desk, job)
            return
        asyncio.get_running_loop().call_later(GRACE_S, self._drop_unused, desk, job)

    def _drop_unused(self, desk: _Desk, job: _Job) -> None:
        if not job.waiting:
            self._drop(desk, job)

    def _drop(self, desk: _Desk, job: _Job | None) -> None:
        if job is None:
            return
        job.task.cancel()
        if desk.job is job:
            desk.job = None

    def _prefetch(self, ask: Ask) -> None:
        desk = self._desks.setdefault(ask.document.uri, _Desk())
        desk.accepted_at = ask.snapshot.cursor
        if self._why_silent(ask) or self._find(desk, ask) or self._reusable(desk, ask):
            return
        request = self._request(desk, ask)
        if not gate.why_not(request):
            self._drop(desk, desk.job)
            self._start(desk, ask, request)

    def _request(self, desk: _Desk, ask: Ask) -> CompletionRequest:
        snapshot, settings = ask.snapshot, self._settings
        return CompletionRequest(
            document=ask.document.uri,
            path=self._scope.path_of(ask.document.uri),
            prefix=snapshot.prefix,
            suffix=snapshot.suffix,
            offset=snapshot.offset,
            length=snapshot.length,
            language=ask.document.language,
            must_start=ask.must_start,
            count=ask.count,
            multiline=_MULTILINE[settings.multiline],
            after_accept=ask.after_accept or desk.accepted_at == snapshot.cursor,
            budget_ms=settings.budget_ms,
            max_tokens=settings.max_tokens,
            root=self._scope.root_of(ask.document.uri),
            file=self._scope.file_of(ask.document.uri),
            sources=settings.sources,
            memory=settings.memory,
        )

    def _judged(self, desk: _Desk, ask: Ask, request: CompletionRequest, completion: Completion) -> list[Made]:
        """What is worth showing, as the person wants it; who asks for it gets the unlikely ones too."""
        threshold, shown, hidden = self._settings.show_threshold if ask.automatic else 0.0, [], {}
        for suggestion in completion.suggestions:
            made = _made(ask, request, completion, suggestion)
            if gate.worth_showing(suggestion.text, suggestion.probability, threshold):
                shown.append(made)
                desk.made[made.id] = made
            elif suggestion.text.strip():
                hidden[becomes(request.prefix, suggestion.text)] = replace(made, reason="too unlikely")
        for text, made in hidden.items():
            if text not in desk.hidden:  # else it is the rest of one that was hidden before
                self._feedback.suppressed(ask.document, ask.snapshot.version, made, ask.end)
        desk.hidden = frozenset(hidden)
        while len(desk.made) > _MADE:
            desk.made.popitem(last=False)
        return shown

    def _offer(self, ask: Ask, fit: Fit) -> Offer:
        """Turn a fit into an item, and remember it for the person's answer."""
        self._shown[fit.id] = _Shown(ask.document, ask.snapshot, fit.text)
        self._shown.move_to_end(fit.id)
        while len(self._shown) > _SHOWN:
            self._shown.popitem(last=False)
        end = Place(ask.end.line, ask.end.column + fit.replaced)
        return Offer(fit.id, fit.text, ask.snapshot.place, end)


def _made(ask: Ask, request: CompletionRequest, completion: Completion, suggestion: Suggestion) -> Made:
    """A suggestion with all that is to be told of it once its fate is known."""
    return Made(
        id=uuid4().hex,
        request=request,
        place=ask.snapshot.place,
        text=suggestion.text,
        logprobs=suggestion.logprobs,
        probability=suggestion.probability,
        adapter=completion.adapter,
        latency_ms=completion.latency_ms,
        snippets=completion.snippets,
        automatic=ask.automatic,
    )
