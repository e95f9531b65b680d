"""What waits for the model: newest first, completions before prefills, the pointless withdrawn."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from habitab_engine import ipc
from habitab_engine.types import CompletionRequest, Folder, OpenText

_PRIORITY = {"forget": 0, "status": 0, "swap": 0, "complete": 1, "prefill": 2, "open": 3, "observe": 4}
_SUPERSEDES = {
    "complete": ("complete", "prefill"),
    "prefill": ("prefill",),
    "forget": ("complete", "prefill", "observe"),
    "open": ("open",),
    "observe": ("observe",),
}


@dataclass(eq=False, slots=True)
class Client:
    """One connected front."""

    channel: ipc.Channel = field(init=False)

    def reply(self, number: object, result: object) -> None:
        self.channel.send({"id": number, "result": result})

    def fail(self, number: object, error: Exception) -> None:
        self.channel.send({"id": number, "error": ipc.error_reply(error)})


class Caller(Client):
    """A thread of this process that waits for the answer to its one job."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def reply(self, number: object, result: object) -> None:
        self._answers.put(result)

    def fail(self, number: object, error: Exception) -> None:
        self._answers.put(error)

    def answer(self) -> object:
        """The result, or the exception raised that took its place. Blocks, and keeps no copy."""
        answer = self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass(eq=False, slots=True)
class Job:
    """One request for the model's thread, with what its operation takes; `document` is what it is about.

    `prepared` is what a swap puts in the place of what served before.
    """

    client: Client
    number: object
    op: str
    document: str = ""
    request: CompletionRequest | Folder | OpenText | None = None
    prepared: Any = None
    stop: threading.Event = field(default_factory=threading.Event)
    turn: int = field(default_factory=itertools.count().__next__)


class Jobs:
    """What waits for the model's thread and what it is doing; every method may be called from any thread."""

    def __init__(self) -> None:
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()

    def submit(self, job: Job) -> list[Job]:
        """Queue `job` and return what it made pointless: those will not run."""
        with self._changed:
            gone = self._withdraw(lambda old: _supersedes(job, old))
            if job.op == "complete" and self._running is not None and self._running.op == "prefill":
                self._running.stop.set()
            self._waiting.append(job)
            self._changed.notify()
        return gone

    def withdraw(self, matches: Callable[[Job], bool]) -> list[Job]:
        """Remove what waits and matches, and return it; stop what runs and matches."""
        with self._changed:
            return self._withdraw(matches)

    def take(self) -> Job | None:
        """The next job, newest first within its priority; None when closed. Blocks."""
        with self._changed:
            self._running = None
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            self._running = min(self._waiting, key=lambda job: (_PRIORITY[job.op], -job.turn))
            self._waiting.remove(self._running)
            return self._running

    def close(self) -> None:
        """Stop what runs and forget what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._withdraw(lambda job: True)

    @property
    def busy(self) -> bool:
        return self._running is not None or bool(self._waiting)

    def _withdraw(self, matches: Callable[[Job], bool]) -> list[Job]:
        if self._running is not None and matches(self._running):
            self._running.stop.set()
        gone = [job for job in self._waiting if matches(job)]
        self._waiting = [job for job in self._waiting if not matches(job)]
        return gone


def _supersedes(new: Job, old: Job) -> bool:
    same = old.client is new.client and old.document == new.document
    return same and old.op in _SUPERSEDES.get(new.op, ())
