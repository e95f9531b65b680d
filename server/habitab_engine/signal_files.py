"""The file `signals.db`: its tables, how it is opened, and how rows leave it for good. SQLite with a WAL.

The tables come about by migrations that are only ever added to; numbers stand before texts, so that a figure over many
rows need not read what they hold.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from habitab_engine.errors import InputError
from habitab_engine.home import open_private

# Seconds to wait for another process that writes.
BUSY_SECONDS = 2.0
# What stands beside the file while it is in use; moved first: a WAL must never meet another file.
_BESIDE = ("-wal", "-shm")
_GUARDED = "PRAGMA secure_delete=ON"  # what is deleted is overwritten
_TIMED = ("suggestions", "survivals", "spans")  # tables with a time in each row
TABLES = (*_TIMED, "typed")
_ADDED = "characters = characters + excluded.characters"
_MEGABYTE = 1_000_000
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def m001_suggestions(db: Database) -> None:
    numbers = {
        "id": str, "when": float, "day": str, "language": str, "trusted": int, "automatic": int, "outcome": str,
        "accepted": int, "withheld": int, "probability": float, "latency_ms": float, "screen_ms": float,
    }  # fmt: skip
    texts = (
        *("reason", "base", "adapter", "root", "path", "text", "inserted", "instead", "logprobs"),
        *("suffix", "prefix", "snippets"),
    )
    db.table("suggestions").create(numbers | dict.fromkeys(texts, str), pk="id")
    survival = {"suggestion": str, "at": str, "when": float, "kept": float, "withheld": int, "text": str}
    db.table("survivals").create(survival, pk=("suggestion", "at"))
    span = {"when": float, "day": str, "language": str, "line": int, "column": int, "withheld": int}
    db.table("spans").create(span | dict.fromkeys(("root", "path", "before", "after"), str))
    for table in _TIMED:
        db.table(table).create_index(["when"])


def m002_typed(db: Database) -> None:
    db.table("typed").create({"day": str, "language": str, "characters": int}, pk=("day", "language"))


MIGRATIONS: tuple[Callable[[Database], None], ...] = (m001_suggestions, m002_typed)


def open_signals(path: Path, check: bool = False, patience: float = BUSY_SECONDS) -> Database:
    """The file at `path`, made where there is none, readable by the person only and with the tables of today.

    Each statement waits up to `patience` seconds for another process that writes.

    Raises sqlite3.DatabaseError where it is damaged (`check` looks for that), another sqlite3.Error or OSError where it
    cannot be used, and InputError if a newer habitab wrote it.
    """
    open_private(path).close()
    path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    try:
        # The first is without effect on a file that has tables.
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute(_GUARDED)
        if check and (fault := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(fault)
        db = Database(connection, execute_plugins=False)
        migrate(db, path)
    except BaseException:
        connection.close()
        raise
    return db


def migrate(db: Database, path: Path) -> None:
    """Bring the tables up to today's; raises InputError for migrations that are not ours."""
    names = [step.__name__ for step in MIGRATIONS]
    done = _done(db)
    if not set(done) <= set(names):
        raise InputError(f"{path} was written by a newer habitab: install that one again, or move the file away.")
    if len(done) == len(names):
        return
    with transaction(db):
        db.execute("CREATE TABLE IF NOT EXISTS _migrations (name TEXT PRIMARY KEY, at TEXT)")
        done = _done(db)  # another process may have been faster
        for step in MIGRATIONS:
            if step.__name__ not in done:
                step(db)
                db.execute("INSERT INTO _migrations VALUES (?, ?)", [step.__name__, datetime.now().isoformat()])


def _done(db: Database) -> list[str]:
    if "_migrations" not in db.table_names():
        return []
    return [name for (name,) in db.execute("SELECT name FROM _migrations")]


@contextmanager
def transaction(db: Database) -> Iterator[None]:
    """All of it or nothing; waits for another writer at the begin, not in the middle."""
    db.conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.conn.execute("COMMIT")
    finally:
        if db.conn.in_transaction:
            db.conn.execute("ROLLBACK")


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is none of its own, or malformed."""
    return type(error) is sqlite3.DatabaseError


def set_aside(path: Path) -> Path:
    """Move a damaged file out of the way, with what stands beside it; return its new place. Raises OSError."""
    place = path.with_name(f"{path.name}.damaged-{datetime.now():%Y%m%d-%H%M%S-%f}")
    for end in (*_BESIDE, ""):
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(place.with_name(place.name + end))
    return place


def set_aside_files(path: Path) -> list[Path]:
    """What `set_aside` made of `path` so far."""
    return sorted(path.parent.glob(f"{path.name}.damaged-*"))


def fault(error: Exception, path: Path) -> str:
    """Why the file cannot be used and what to do: a sentence's second half."""
    name = str(getattr(error, "sqlite_errorname", ""))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another process holds {path}: end it."
    if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR") or getattr(error, "errno", 0) in _NO_ROOM:
        return f"the disk of {path} is full or fails: free some space on it."
    if is_damage(error):
        return f"{path} is damaged: move it away."
    return f"{path} cannot be used ({error}): make it writable or move it away."


def write_row(db: Database, table: str, row: dict[str, Any]) -> None:
    """A row of `signal_rows`; one of the same key is replaced, what was typed on a day is added up."""
    columns, values = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    sql = f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({values})"
    if table == "typed":
        sql = f"INSERT INTO typed ({columns}) VALUES ({values}) ON CONFLICT DO UPDATE SET {_ADDED}"
    db.conn.execute(sql, list(row.values()))


# ---- how rows leave ----


def delete_before(db: Database, when: float) -> int:
    """Delete what is older than `when` (seconds since 1970); return how many rows went."""
    day = f"{datetime.fromtimestamp(when):%Y-%m-%d}"
    with transaction(db):
        gone = sum(_delete(db, table, '"when" < ?', when) for table in _TIMED)
        return gone + _delete(db, "typed", "day < ?", day)


def delete_path(db: Database, glob: str) -> int:
    """Delete what happened in files whose path, from the workspace's folder or the root on, matches; or below it."""
    glob = glob.rstrip("/")
    places = " OR ".join(f"{place} GLOB ?" for place in ("path", "root || '/' || path") for _ in range(2))
    values = [glob, f"{glob}/*"] * 2
    with transaction(db):
        theirs = f"suggestion IN (SELECT id FROM suggestions WHERE {places})"
        tables = {"survivals": theirs, "suggestions": places, "spans": places}
        return sum(_delete(db, table, where, *values) for table, where in tables.items())


def delete_all(db: Database, path: Path) -> int:
    """Delete every row, and the damaged files that were set aside."""
    for old in set_aside_files(path):
        old.unlink(missing_ok=True)
    with transaction(db):
        return sum(_delete(db, table, "true") for table in TABLES)


def _delete(db: Database, table: str, where: str, *values: object) -> int:
    return db.conn.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount


def shrink(db: Database, megabytes: float, pause: Callable[[], None]) -> None:
    """Delete the oldest rows, a tenth of them at a time, until the file is no larger than `megabytes`."""
    while _bytes(db) > megabytes * _MEGABYTE and (cut := _oldest_tenth(db)) is not None:
        pause()
        with transaction(db):
            for table in _TIMED:
                _delete(db, table, '"when" <= ?', cut)


def give_back(db: Database) -> None:
    """Hand free pages to the system, and empty the WAL."""
    db.conn.executescript("PRAGMA incremental_vacuum")  # `execute` stops after one page
    db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def rewrite(db: Database) -> bool:
    """Write the file anew, so that nothing of what was deleted is left in it or in the WAL.

    False where another process reads just now, and the WAL could not be emptied.
    """
    db.conn.execute("VACUUM")
    busy, _, _ = db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def _bytes(db: Database) -> int:
    """Of the pages in use."""
    size, pages, free = (
        db.conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return int(size * (pages - free))


def _oldest_tenth(db: Database) -> float | None:
    """The time up to which a tenth of the rows lies, at least one; None where there is none."""
    times = 'SELECT "when" FROM suggestions UNION ALL SELECT "when" FROM spans UNION ALL SELECT "when" FROM survivals'
    (count,) = db.conn.execute(f"SELECT count(*) FROM ({times})").fetchone()
    row = db.conn.execute(f"{times} ORDER BY 1 LIMIT 1 OFFSET {count // 10}").fetchone()
    return float(row[0]) if row else None
