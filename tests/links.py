"""A link to an engine of the tests' own, for whatever talks to an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from habitab_engine.config import EngineSettings
from habitab_engine.errors import EngineError
from habitab_engine.types import Completion, CompletionRequest, Folder, OpenText, Signal, Snippet, Suggestion


class SetLink:
    """Answers with what the test says, after the time the test says, and records what happened to it."""

    def __init__(self, settings: EngineSettings | None = None) -> None:
        self.settings = settings or EngineSettings()
        self.texts: list[str] = ["sum(values)"]
        self.probability = 0.9
        self.snippets: tuple[Snippet, ...] = ()
        self.seconds = 0.0
        self.error: Exception | None = None  # what a request meets
        self.fault = ""  # what a start, or news, meets
        self.asked: list[CompletionRequest] = []
        self.folders: list[Folder] = []
        self.observed: list[OpenText] = []
        self.forgotten: list[str] = []
        self.recorded: list[Signal] = []
        self.trouble = ""  # of the signals' store
        self.record_seconds = 0.0
        self.cancelled = self.answered = 0
        self.looks = 0  # at which adapter is active
        self.closed = False
        self.on_connected: Callable[[], None] = lambda: None

    async def start(self) -> None:
        if self.fault:
            raise EngineError(self.fault)

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked.append(request)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        self.answered += 1
        found = tuple(Suggestion(text, (-0.1,), "line", self.probability) for text in self.texts[: request.count])
        return Completion(found, "", 1.0, 10, 5, 3, snippets=self.snippets)

    async def open_folder(self, folder: Folder) -> None:
        self.folders.append(folder)
        if self.fault:
            raise EngineError(self.fault)

    async def observe(self, text: OpenText) -> None:
        self.observed.append(text)

    async def forget(self, document: str) -> None:
        self.forgotten.append(document)

    async def record(self, signals: Sequence[Signal]) -> str:
        assert not self.closed
        await asyncio.sleep(self.record_seconds)
        self.recorded += signals
        return self.trouble

    async def signal_stats(self) -> dict[str, Any]:
        return {"recorded": len(self.recorded)}

    async def look_at_adapter(self) -> None:
        self.looks += 1

    async def status(self) -> dict[str, Any]:
        return {"state": "ready"}

    async def close(self) -> None:
        self.closed = True
