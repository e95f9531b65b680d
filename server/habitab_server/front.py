"""One editor's session without the protocol: settings, documents, the engine's state and its news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from habitab_engine.config import EngineSettings, Settings
from habitab_engine.errors import HabitabError
from habitab_engine.types import Signal
from habitab_server.completer import Completer, Link
from habitab_server.documents import Document, Documents, Edit
from habitab_server.feedback import Feedback
from habitab_server.observer import Observer
from habitab_server.scope import Scope

_POLL_SECONDS = 0.2
_TICK_SECONDS = 1.0
# Signals sent at once; between two such batches completions have their turn.
_BATCH = 4
# Signals that wait for an engine that does not answer.
_MOST_WAITING = 1_000
# Editors end a server that takes much longer to end itself.
_LAST_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Status:
    """What `habitab/didChangeStatus` says; `kind` is Normal, Warning, Error or Inactive."""

    kind: str
    busy: bool
    message: str


class Front:
    """Owns what one editor needs; `tell` gets each new status, `warn` one message about the settings."""

    def __init__(
        self,
        make_link: Callable[[EngineSettings], Link],
        tell: Callable[[Status], None],
        warn: Callable[[str], None],
    ) -> None:
        self.documents = Documents()
        self.scope = Scope()
        self.settings = Settings()
        self._make_link = make_link
        self._tell, self._warn = tell, warn
        self._observer = Observer(self.documents, self.scope, self._spawn)
        self._link = self._new_link()
        self.feedback = Feedback(self.scope, self._record, self._wake)
        self.completer = Completer(self._link, self.scope, self.feedback, self._engine_said)
        self._told: Status | None = None
        self._fault = self._store_trouble = ""
        self._signals: list[Signal] = []
        self._recording: asyncio.Task[None] | None = None
        self._next_tick: asyncio.TimerHandle | None = None
        self._loading = True
        self._started = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def status(self) -> Status:
        if self.settings.privacy_fault:
            return Status("Error", False, self.settings.privacy_fault)
        if not self.settings.enabled:
            return Status("Inactive", False, "Suggestions are switched off in the settings.")
        if self.completer.paused:
            return Status("Inactive", False, "Suggestions are paused.")
        if self._fault:
            return Status("Error", False, self._fault)
        if self._loading:
            return Status("Normal", True, "The engine is starting.")
        if self._store_trouble:
            return Status("Warning", False, self._store_trouble)
        return Status("Normal", False, "Ready.")

    def configure(self, values: object) -> None:
        """Take new settings (JSON); an engine that has to differ is started in place of the old one."""
        old = self.settings
        self.settings, messages = Settings.from_json(values)
        self.scope.set_private(self.settings.private_globs, self.settings.respect_gitignore)
        self.completer.configure(self.settings)
        self.feedback.configure(self.settings)
        self._observer.configure(self.settings)
        if self.settings.engine != old.engine:
            self._replace_engine()
        if messages:
            self._warn(" ".join(messages))
        self._publish()

    def start(self) -> None:
        """Start the engine in the background."""
        self._started = True
        self._publish()
        self._spawn(self._watch_start(self._link))

    def pause(self, paused: bool) -> None:
        self.completer.paused = paused
        if paused:
            self.completer.stop()
        self._publish()

    def set_folders(self, uris: Iterable[str]) -> None:
        """The workspace folders are these now."""
        self.scope.set_folders(uris)
        self._observer.introduce()

    def open_document(self, document: Document) -> None:
        self.documents.open(document)
        self._observer.changed(document)

    def edited(self, document: Document, edit: Edit) -> None:
        """The document has made this edit; `changed` follows the last of them."""
        if self.scope.why_private(document.uri):
            self.feedback.drop(document.uri)
        else:
            self.feedback.edited(document, edit)

    def changed(self, document: Document) -> None:
        """The person edited it."""
        self.feedback.changed(document)
        self._observer.changed(document)

    def save_document(self, uri: str) -> None:
        if (document := self.documents.get(uri)) is not None:
            self.feedback.saved(document.uri)

    def close_document(self, uri: str) -> None:
        if (document := self.documents.get(uri)) is not None:
            self.feedback.closed(document.uri)
        self.documents.close(uri)
        self.forget(uri)

    def forget(self, uri: str) -> None:
        """Drop what was computed for a document, in the engine too."""
        self.scope.forget(uri)
        self._observer.forget(uri)
        self.completer.forget(uri)
        self._spawn(self._forget(self._link, uri))

    async def describe(self) -> dict[str, Any]:
        """The answer to `habitab.status`."""
        status = self.status
        engine, signals = await self._link.status(), await self._link.signal_stats()
        said = {"kind": status.kind, "busy": status.busy, "message": status.message}
        return said | {"engine": engine, "signals": signals}

    async def look_at_adapter(self) -> None:
        """Have the engine serve at once what the person's pointer names now."""
        await self._link.look_at_adapter()

    async def close(self) -> None:
        """Stop every engine call, have told what there is to tell, and leave the engine to other windows."""
        self.completer.stop()
        self._observer.close()
        await self._close_feedback()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    def _replace_engine(self) -> None:
        old, self._link = self._link, self._new_link()
        self.feedback.base = ""
        self.completer.stop()
        self.completer.link = self._link
        self._loading, self._fault = True, ""
        if self._started:
            self._spawn(old.close())
            self.start()

    def _new_link(self) -> Link:
        link = self._make_link(self.settings.engine)
        link.on_connected = self._observer.introduce
        self._observer.link = link
        return link

    async def _watch_start(self, link: Link) -> None:
        """Start the engine and wait until its model is loaded."""
        try:
            await link.start()
            while (facts := await link.status()).get("state") == "loading":
                await asyncio.sleep(_POLL_SECONDS)
        except HabitabError as exc:
            facts = {"error": str(exc)}
        if link is self._link:
            self._engine_said(str(facts.get("error", "")))

    async def _forget(self, link: Link, uri: str) -> None:
        # An engine that is gone remembers nothing.
        try:
            await link.forget(uri)
        except HabitabError:
            return

    def _engine_said(self, fault: str) -> None:
        self._loading, self._fault = False, fault
        if not fault and not self.feedback.base:
            self._spawn(self._learn_base(self._link))
        self._publish()

    async def _learn_base(self, link: Link) -> None:
        facts = await link.status()
        if link is self._link and facts.get("state") == "ready":
            self.feedback.base = str(facts.get("base", ""))

    # ---- signals ----

    def _wake(self) -> None:
        """Have the feedback look at the clock soon."""
        if self._next_tick is None and self.feedback.pending:
            self._next_tick = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._next_tick = None
        self.feedback.tick()
        self._wake()

    def _record(self, signals: list[Signal]) -> None:
        """Send signals to the engine, one batch after the other."""
        self._signals += signals
        del self._signals[:-_MOST_WAITING]
        if self._recording is None or self._recording.done():
            self._recording = asyncio.get_running_loop().create_task(self._send_signals())

    async def _send_signals(self) -> None:
        while self._signals:
            batch, self._signals = self._signals[:_BATCH], self._signals[_BATCH:]
            self._store_trouble = await self._link.record(batch)
            self._publish()

    async def _close_feedback(self) -> None:
        """Tell the rest; what no engine takes in time is lost."""
        if self._next_tick is not None:
            self._next_tick.cancel()
        self.feedback.close()
        if self._recording is not None:
            await asyncio.wait({self._recording}, timeout=_LAST_SECONDS)
            self._recording.cancel()

    def _publish(self) -> None:
        """Tell the editor, if it was told something else before (nothing before the session began)."""
        if self._started and self.status != self._told:
            self._told = self.status
            self._tell(self._told)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def our_section(values: object) -> object | None:
    """Our part of what `workspace/didChangeConfiguration` carries; None if there is nothing for us.

    Editors send it under `habitab` or alone, and some send other servers' sections only.
    """
    if not isinstance(values, dict):
        return None
    if "habitab" in values:
        return values["habitab"]
    return values if Settings.names() & values.keys() else None
