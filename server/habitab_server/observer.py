"""Tells the engine which folders are open and how the open documents look, a moment after they changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from habitab_engine.config import Settings
from habitab_engine.errors import HabitabError
from habitab_engine.types import OpenText
from habitab_server.completer import Link
from habitab_server.documents import Document, Documents
from habitab_server.scope import Scope

# Seconds between two looks at a document that is being typed in.
QUIET_SECONDS = 0.5
# A longer document is known by what stands around the cursor only.
MOST_CHARACTERS = 400_000


class Observer:
    """Serves one front; `spawn` runs what it sends. Private documents and switched-off sources stay unknown."""

    def __init__(self, documents: Documents, scope: Scope, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._documents, self._scope, self._spawn = documents, scope, spawn
        self._settings = Settings()
        self._due: dict[str, asyncio.TimerHandle] = {}
        self.link: Link | None = None

    def configure(self, settings: Settings) -> None:
        self._settings = settings
        self.introduce()

    def introduce(self) -> None:
        """Tell everything: to an engine that is new, or after the folders or the privacy settings changed."""
        if not self._wanted or self.link is None:
            return
        for folder in self._scope.folders:
            self._spawn(_quietly(self.link.open_folder(folder)))
        for document in self._documents:
            self.changed(document)

    def changed(self, document: Document) -> None:
        """A document was opened or edited."""
        if self._wanted and document.uri not in self._due:
            loop = asyncio.get_running_loop()
            self._due[document.uri] = loop.call_later(QUIET_SECONDS, self._tell, document.uri)

    def forget(self, uri: str) -> None:
        if (due := self._due.pop(uri, None)) is not None:
            due.cancel()

    def close(self) -> None:
        for uri in list(self._due):
            self.forget(uri)

    @property
    def _wanted(self) -> bool:
        settings = self._settings
        return settings.enabled and not settings.privacy_fault and bool(settings.sources or settings.memory)

    def _tell(self, uri: str) -> None:
        self._due.pop(uri, None)
        document = self._documents.get(uri)
        if document is None or self.link is None or self._scope.why_private(uri):
            return
        text = OpenText(uri, document.text(MOST_CHARACTERS), self._scope.file_of(uri), self._scope.root_of(uri))
        self._spawn(_quietly(self.link.observe(text)))


async def _quietly(telling: Awaitable[None]) -> None:
    """What the engine cannot be told now it is told when it is connected again."""
    try:
        await telling
    except HabitabError:
        return
