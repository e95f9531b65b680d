"""`SignalStore`: keeps what became of suggestions in `signals.db`; a thread of its own gives way to completions.

Whatever happens to the file, nobody waits for it: rows wait in memory, at most so many, until it can be written again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitab_engine.errors import HabitabError
from habitab_engine.home import private_folder
from habitab_engine.types import Fate, Signal, Survival

# sqlite-utils and detect-secrets are loaded with the first signal, in the store's thread.
if TYPE_CHECKING:
    from sqlite_utils import Database

    from habitab_engine.secret_scan import Scanner
    from habitab_engine.signal_rows import Row

# Signals read from the queue, and rows written, at a time.
BATCH = 64
# What waits at most: signals that were not looked at yet; rows with their text (some 10 kB each); rows in all.
MOST_SIGNALS, MOST_TEXTS, MOST_ROWS = 1_000, 300, 10_000
# Seconds until a file that could not be written is tried again.
RETRY_SECONDS = 5.0
# Signals come with keystrokes, as completions do: so long a completion has to begin, which is then let pass.
REST_SECONDS = 0.3
# Old rows are looked for at the opening, after so many rows and so many seconds.
UPKEEP_ROWS, UPKEEP_SECONDS = 2_000, 86_400.0
# Suggestions whose survival is measured yet.
_FOLLOWED = 500


class SignalStore:
    """What is recorded is kept for `days`, and less long where the file would exceed `megabytes`.

    `pause` waits while a completion runs; it is called between pieces of work of about a millisecond. Nothing is read
    or written before the first signal.
    """

    def __init__(
        self,
        path: Path,
        days: float = 180,
        megabytes: float = 500,
        pause: Callable[[], None] = lambda: None,
        log: logging.Logger | None = None,
    ) -> None:
        self.path = path
        self._days, self._megabytes = days, megabytes
        self._idle = pause
        self._log = log or logging.getLogger("habitab.engine")
        self._signals: deque[Signal] = deque(maxlen=MOST_SIGNALS)
        self._rows: deque[tuple[str, Row]] = deque(maxlen=MOST_ROWS)
        self._inserted: dict[str, str] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = self._over = self._flushing = self._checked = False
        self._retry_at = self._replace_at = self._upkeep_at = 0.0
        self._until_upkeep = 0
        self._fault = self._note = ""
        self._scanner: Scanner | None = None
        self._db: Database | None = None

    @property
    def trouble(self) -> str:
        """Why nothing can be written, or what was set aside since the start, in a sentence; "" if all is well."""
        return self._fault or self._note

    def record(self, signals: Sequence[Signal]) -> None:
        """Keep signals; returns at once. Of more than `MOST_SIGNALS` that wait the oldest are lost."""
        with self._changed:
            self._signals.extend(signals)
            if self._thread is None and not self._over:
                self._thread = threading.Thread(target=self._run, name="habitab-signals", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything recorded is written; False if that takes longer than `timeout` seconds."""
        with self._changed:
            self._retry_at = 0.0  # a file that could not be written is tried again now
            self._flushing = True
            self._changed.notify_all()
            written = self._changed.wait_for(lambda: not (self._signals or self._rows or self._busy), timeout)
            self._flushing = False
            return written

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, if that is possible now, and end; nothing is kept afterwards."""
        with self._changed:
            self._over = True
            self._retry_at = 0.0
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def stats(self) -> dict[str, Any]:
        """The figures of what is written: see `signal_stats.figures`."""
        from habitab_engine.signal_stats import figures

        return figures(self.path)

    # ---- the store's thread ----

    def _run(self) -> None:
        over = False
        while not over:
            self._await_work()
            over = self._over  # what waits now is the last
            self._look_at_signals()
            self._write_rows()
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        self._shut()

    def _pause(self) -> None:
        """Let a completion pass; at the end nobody asks for one."""
        if not self._over:
            self._idle()

    def _await_work(self) -> None:
        with self._changed:
            while not (self._over or self._signals or (self._rows and time.monotonic() >= self._retry_at)):
                self._changed.wait(max(0.0, self._retry_at - time.monotonic()) if self._rows else None)
            self._busy = True
            self._changed.wait_for(lambda: self._over or self._flushing, REST_SECONDS)

    def _look_at_signals(self) -> None:
        for _ in range(MOST_SIGNALS if self._over else BATCH):
            with self._changed:
                if not self._signals:
                    return
                signal = self._signals.popleft()
            self._pause()
            try:
                self._keep(*self._row(signal))
            except Exception as exc:
                # One that cannot be read must not stand in the way of the others.
                self._unexpected(exc)

    def _row(self, signal: Signal) -> tuple[str, Row]:
        from habitab_engine.secret_scan import Scanner
        from habitab_engine.signal_rows import row_of

        if self._scanner is None:
            self._scanner = Scanner(self._pause)
        if isinstance(signal, Fate):
            self._inserted[signal.id] = signal.inserted
            if len(self._inserted) > _FOLLOWED:
                del self._inserted[next(iter(self._inserted))]
        inserted = self._inserted_by(signal.id) if isinstance(signal, Survival) else ""
        return row_of(signal, self._scanner.holds_secret, inserted)

    def _inserted_by(self, suggestion: str) -> str:
        """From memory, or the file where another engine recorded it."""
        if suggestion in self._inserted or self._db is None:
            return self._inserted.get(suggestion, "")
        try:
            found = self._db.execute("SELECT inserted FROM suggestions WHERE id = ?", [suggestion]).fetchone()
        except sqlite3.Error:
            return ""
        return str(found[0]) if found else ""

    def _keep(self, table: str, row: Row) -> None:
        from habitab_engine.signal_rows import without_text

        self._rows.append((table, row))
        if len(self._rows) > MOST_TEXTS:
            table, row = self._rows[-MOST_TEXTS - 1]
            self._rows[-MOST_TEXTS - 1] = table, without_text(row)

    def _write_rows(self) -> None:
        while self._rows and time.monotonic() >= self._retry_at:
            batch = list(itertools.islice(self._rows, BATCH))
            if self._guarded(functools.partial(self._write, batch)):
                self._until_upkeep -= len(batch)
                for _ in batch:
                    self._rows.popleft()
        if not self._rows and (self._until_upkeep <= 0 or time.monotonic() >= self._upkeep_at):
            self._guarded(self._upkeep)

    def _write(self, batch: list[tuple[str, Row]]) -> None:
        from habitab_engine.signal_files import transaction, write_row

        db = self._opened()
        self._pause()
        with transaction(db):
            for table, row in batch:
                write_row(db, table, row)
        if self._fault:
            self._log.info("suggestions are recorded again")
        self._fault = ""

    def _opened(self) -> Database:
        from habitab_engine.signal_files import open_signals

        if self._db is None:
            private_folder(self.path.parent)
            self._db = open_signals(self.path, check=not self._checked)
            self._checked = True
        return self._db

    def _upkeep(self) -> None:
        """Delete what is too old or too much."""
        from habitab_engine.signal_files import delete_before, give_back, shrink

        self._until_upkeep, self._upkeep_at = UPKEEP_ROWS, time.monotonic() + UPKEEP_SECONDS
        db = self._opened()
        delete_before(db, time.time() - self._days * 86_400)
        shrink(db, self._megabytes, self._pause)
        give_back(db)

    def _shut(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    # ---- trouble ----

    def _guarded(self, act: Callable[[], None]) -> bool:
        """Whether `act` need not be tried again."""
        from habitab_engine.signal_files import fault, is_damage

        try:
            act()
        except (sqlite3.OperationalError, OSError) as exc:
            self._failed(fault(exc, self.path))
        except HabitabError as exc:
            self._failed(str(exc))
        except Exception as exc:
            if is_damage(exc):
                self._replace(exc)
                return False
            # Rows that the file does not take must not stand in the way of the others.
            self._unexpected(exc)
            return True
        else:
            return True
        return False

    def _replace(self, error: Exception) -> None:
        """Set the damaged file aside, so that a new one is begun; again only after a while."""
        from habitab_engine.signal_files import fault, set_aside

        self._shut()
        if time.monotonic() < self._replace_at:
            self._failed(fault(error, self.path))
            return
        self._replace_at = time.monotonic() + RETRY_SECONDS
        try:
            place = set_aside(self.path)
        except OSError as exc:
            self._failed(fault(exc, self.path))
            return
        self._note = f"The file of recorded suggestions was damaged: it is now {place}, and a new one was begun."
        self._log.warning("%s", self._note)

    def _failed(self, reason: str) -> None:
        """Try again later, with the file opened anew."""
        with contextlib.suppress(sqlite3.Error):
            self._shut()
        self._retry_at = time.monotonic() + RETRY_SECONDS
        self._tell(f"Suggestions are not recorded: {reason}")

    def _unexpected(self, error: Exception) -> None:
        """Told and logged without its text, which may quote the person's code."""
        self._tell(f"Some suggestions are not recorded ({type(error).__name__}): see logs/engine.log.")

    def _tell(self, sentence: str) -> None:
        if sentence != self._fault:
            self._log.warning("%s", sentence)
        self._fault = sentence
