"""Figures of the recorded suggestions, and their rows for a person to look at: reads `signals.db`."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitab_engine.errors import InputError
from habitab_engine.types import OUTCOMES

if TYPE_CHECKING:
    from sqlite_utils import Database

KEPT = 0.5  # from this likeness on, what was inserted counts as kept
_SHOWN = "outcome NOT IN ('unseen', 'suppressed')"
_TAKEN = "outcome IN ('accepted', 'partly_accepted')"
# The likeness at 120 seconds, else the last one measured.
_SURVIVED = """(SELECT kept FROM survivals WHERE suggestion = id ORDER BY at = '120' DESC, "when" DESC LIMIT 1)"""
_COUNTS = f"""
    count(*) AS suggestions, sum({_SHOWN}) AS shown, sum({_TAKEN}) AS taken, sum(accepted) AS accepted_characters,
    sum(accepted - (accepted > 0)) AS characters_saved,
    sum(CASE WHEN accepted > 0 AND {_SURVIVED} >= {KEPT} THEN accepted ELSE 0 END) AS kept_characters
"""


def figures(path: Path) -> dict[str, Any]:
    """What `habitab signals stats` prints; all zero where there is no file.

    A count per outcome, `kept_characters` (accepted, and still there), `completed_ratio` (accepted / accepted and typed
    characters), `acceptance_rate` (of what was shown), `characters_saved` (accepted, less one key an accept),
    `latency_ms` (`p50`, `p95`), and the same by `days` and `languages`. Raises InputError for a file that cannot be
    read.
    """
    if not path.exists():
        return _result({}, [], [], [], [0.0, 0.0])
    with reading(path) as db:
        outcomes = dict(db.conn.execute("SELECT outcome, count(*) FROM suggestions GROUP BY outcome").fetchall())
        whole, days, languages = (_counts(db, by) for by in ("''", "day", "language"))
        return _result(outcomes, whole, days, languages, [_latency(db, share) for share in (0.5, 0.95)])


def last(path: Path, limit: int) -> list[dict[str, Any]]:
    """The newest suggestions, newest last: `id`, `when`, `path`, `outcome`, `text`, `withheld`. Raises as `figures`."""
    if not path.exists():
        return []
    with reading(path) as db:
        sql = 'SELECT id, "when", path, outcome, text, withheld FROM suggestions ORDER BY "when" DESC LIMIT ?'
        return list(db.query(sql, [limit]))[::-1]


def every_row(db: Database) -> Iterator[dict[str, Any]]:
    """All rows, oldest first within a table, each with its `table`."""
    from habitab_engine.signal_files import TABLES

    for table in TABLES:
        for row in db.table(table).rows_where(order_by="day" if table == "typed" else '"when"'):
            yield {"table": table} | row


@contextmanager
def reading(path: Path, patience: float | None = None, check: bool = False) -> Iterator[Database]:
    """The open file; what SQLite has against it is raised as InputError. The options are those of `open_signals`."""
    from habitab_engine.signal_files import BUSY_SECONDS, fault, open_signals

    try:
        db = open_signals(path, check, patience or BUSY_SECONDS)
        try:
            yield db
        finally:
            db.close()
    except (sqlite3.Error, OSError) as exc:
        raise InputError(f"The recorded suggestions cannot be read: {fault(exc, path)}") from exc


def _counts(db: Database, by: str) -> list[dict[str, Any]]:
    """One row a value of the column `by`: its `name` and the sums, `typed_characters` too."""
    typed = dict(db.conn.execute(f"SELECT {by}, sum(characters) FROM typed GROUP BY 1").fetchall())
    rows = {row["name"]: row for row in db.query(f"SELECT {by} AS name, {_COUNTS} FROM suggestions GROUP BY 1")}
    return [
        {"name": name, "typed_characters": typed.get(name, 0)} | rows.get(name, {}) for name in sorted({*rows, *typed})
    ]


def _latency(db: Database, share: float) -> float:
    (count,) = db.conn.execute("SELECT count(*) FROM suggestions").fetchone()
    sql = "SELECT latency_ms FROM suggestions ORDER BY 1 LIMIT 1 OFFSET ?"
    found = db.conn.execute(sql, [math.ceil(share * count) - 1]).fetchone() if count else None
    return round(found[0] or 0.0, 1) if found else 0.0


def _result(
    outcomes: dict[str, int],
    whole: list[dict[str, Any]],
    days: list[dict[str, Any]],
    languages: list[dict[str, Any]],
    latency: list[float],
) -> dict[str, Any]:
    return (
        {outcome: outcomes.get(outcome, 0) for outcome in OUTCOMES}
        | _quotients(whole[0] if whole else {})
        | {"latency_ms": dict(zip(("p50", "p95"), latency, strict=True))}
        | {"days": {row["name"]: _quotients(row) for row in days}}
        | {"languages": {row["name"]: _quotients(row) for row in languages}}
    )


def _quotients(sums: dict[str, Any]) -> dict[str, Any]:
    known: defaultdict[str, int] = defaultdict(int, sums)
    written = known["accepted_characters"] + known["typed_characters"]
    return {
        **{name: known[name] for name in ("suggestions", "shown", "taken", "characters_saved", "kept_characters")},
        "acceptance_rate": round(known["taken"] / known["shown"], 4) if known["shown"] else 0.0,
        "completed_ratio": round(known["accepted_characters"] / written, 4) if written else 0.0,
    }
