"""Notices changes in a set of folders, each without those below it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from watchfiles import watch

# Milliseconds between two looks at what came in, and the most that a burst of changes is collected.
_STEP, _DEBOUNCE = 500, 1600
# Milliseconds without a change after which the watcher says that it is at work.
_QUIET = 2_000
# Only where the system cannot notify (WSL): milliseconds between two looks at every file.
_POLL = 5_000
# Seconds to wait for the watcher's thread, which looks up every `_STEP`.
_JOIN_SECONDS = 2.0


class Watcher:
    """Watches the folders of the last call of `watch`, in a thread of its own.

    `on_change` gets paths that were made, changed or deleted; `on_start` is called when the folders given last are
    being watched: what changed before is for the caller to find. Both are called in the watcher's thread.
    """

    def __init__(self, on_change: Callable[[Iterable[Path]], object], on_start: Callable[[], object]) -> None:
        self._on_change, self._on_start = on_change, on_start
        self._folders: tuple[Path, ...] = ()
        self._wanted: tuple[Path, ...] = ()
        self._changed = threading.Event()  # also what ends the library's loop
        self._over = False
        self._thread: threading.Thread | None = None

    def watch(self, folders: Sequence[Path]) -> bool:
        """Watch exactly these folders; False if nothing had to be done."""
        if tuple(folders) == self._wanted or self._over:
            return False
        self._wanted = tuple(folders)
        self._changed.set()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="habitab-watch", daemon=True)
            thread.start()
            self._thread = thread
        return True

    def close(self) -> None:
        self._over = True
        self._changed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._over:
            self._changed.wait()
            self._changed.clear()
            try:
                self._watch(self._wanted)
            # Too many watches, a folder that is gone, a platform without: the index is as it was, and a later
            # set of folders is tried again.
            except Exception as error:
                logging.getLogger("habitab.engine").info("no watching: %s", type(error).__name__)

    def _watch(self, folders: tuple[Path, ...]) -> None:
        started = False
        for changes in watch(
            *folders,
            watch_filter=None,
            recursive=False,
            step=_STEP,
            debounce=_DEBOUNCE,
            rust_timeout=_QUIET,
            yield_on_timeout=True,
            poll_delay_ms=_POLL,
            stop_event=self._changed,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            if not started:
                started = True
                self._on_start()
            if changes:
                self._on_change(Path(path) for _, path in changes)
