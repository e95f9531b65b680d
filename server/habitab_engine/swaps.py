"""Has the engine serve the adapter that the person's pointer names, without a restart. Never imports torch."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from habitab_engine.adapters import Worn, active_version
from habitab_engine.errors import Cancelled, HabitabError
from habitab_engine.jobs import Caller, Job

# How often the cache is filled for a person who goes from document to document meanwhile.
FILLS = 3
# Seconds that the thread beside gets to stop at the end.
JOIN_SECONDS = 2.0


class Wearing(Protocol):
    """What is needed of `engine.Engine`; `Any` is its `Prepared`."""

    worn: Worn

    def prepare(self, adapters: Path, version: str, pause: Callable[[], None]) -> Any: ...
    def fill(self, prepared: Any, pause: Callable[[], None]) -> bool: ...
    def give_way(self) -> None: ...


class Swaps:
    """Prepares in a thread beside what `submit` then has the model's thread exchange, as one job of its queue.

    `fault` makes one sentence of an exception that nobody foresaw. Whatever fails, what served before goes on, and
    `engine.worn` says why.
    """

    def __init__(
        self,
        folder: Path,
        engine: Wearing,
        submit: Callable[[Job], object],
        fault: Callable[[str, Exception], HabitabError],
        log: logging.Logger,
    ) -> None:
        self._folder, self._engine = folder, engine
        self._submit, self._fault, self._log = submit, fault, log
        self._lock = threading.Lock()
        self._over = False
        self._caller = Caller()
        self._thread: threading.Thread | None = None
        self._wrote(engine.worn)

    @property
    def trouble(self) -> str:
        """Why the active adapter is not served, in one sentence, or ""."""
        return self._engine.worn.trouble

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def look(self, again: bool = False) -> None:
        """Begin to serve what the pointer names, if it names another than before; with `again` in any case.

        Returns at once; may be called from any thread.
        """
        with self._lock:
            if not (self.busy or self._over) and (again or self._asked()[0] != self._engine.worn.asked):
                self._thread = threading.Thread(target=self._follow, name="habitab-swap", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop what is being prepared; nothing is exchanged any more."""
        self._over = True
        self._caller.reply(None, None)
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def _follow(self) -> None:
        """Until what is served is what the pointer names, which may be written anew meanwhile."""
        asked, trouble = self._asked()
        while True:
            if asked is not None and asked != self._engine.worn.version:
                trouble = self._change(asked)
            self._wrote(replace(self._engine.worn, asked=asked, trouble=trouble))
            asked, trouble = self._asked()
            if self._over or asked == self._engine.worn.asked:
                return

    def _asked(self) -> tuple[str | None, str]:
        """What the pointer names ("" for the base alone); None, and why, where it cannot be read."""
        try:
            return active_version(self._folder) or "", ""
        except HabitabError as error:
            return None, str(error)

    def _change(self, version: str) -> str:
        """Serve `version`; the sentence why not, or ""."""
        began = time.monotonic()
        try:
            self._exchange(version)
        except Cancelled:
            return ""
        except HabitabError as error:
            return str(error)
        except Exception as error:
            return str(self._fault("changing the adapter", error))
        self._log.info("serving %s after %.2f s", version or "the base alone", time.monotonic() - began)
        return ""

    def _exchange(self, version: str) -> None:
        prepared = self._engine.prepare(self._folder, version, self._pause)
        for _ in range(FILLS):
            if self._engine.fill(prepared, self._pause):
                break
        self._caller = Caller()
        self._submit(Job(self._caller, None, "swap", prepared=prepared))
        self._pause()
        self._caller.answer()

    def _pause(self) -> None:
        """Let completions go first. Raises Cancelled at the end."""
        self._engine.give_way()
        if self._over:
            raise Cancelled("The engine is ending.")

    def _wrote(self, worn: Worn) -> None:
        self._engine.worn = worn
        if worn.trouble:
            self._log.warning("not served: %s", worn.trouble)
