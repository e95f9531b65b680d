"""`habitab signals …`: what was recorded of a person's suggestions, for that person to see, take along and delete."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from habitab_server.cli import Session

# Seconds to wait until whoever reads the file has finished, before it is written anew.
PURGE_PATIENCE = 30.0
# How many days the table shows; the JSON has them all.
TABLE_DAYS = 14
_HEAD = ["", "shown", "accepted", "rate", "saved", "kept", "completed"]


@click.group("signals")
def signals_group() -> None:
    """What became of your suggestions, as recorded on this machine."""


@signals_group.command("stats")
@click.pass_obj
def signals_stats(session: Session) -> None:
    """How many suggestions came to what, and how much of your code they wrote."""
    from habitab_engine.signal_stats import figures

    result = figures(session.home.signals_file)
    session.finish(result, _drawn(result))


@signals_group.command("show")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest last.")
@click.pass_obj
def signals_show(session: Session, limit: int) -> None:
    """The newest suggestions: id, time, path, outcome and the first line of the text."""
    from habitab_engine.signal_stats import last

    rows = last(session.home.signals_file, limit)
    session.finish({"suggestions": rows}, "\n".join(map(_line, rows)) or "Nothing is recorded yet.")


@signals_group.command("purge")
@click.option("--before", metavar="DATE", type=click.DateTime(["%Y-%m-%d"]), help="What is older than this day.")
@click.option("--path", "glob", metavar="GLOB", help="What happened in these files, or below this folder.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.pass_obj
def signals_purge(session: Session, before: datetime | None, glob: str | None, everything: bool) -> None:
    """Delete what was recorded, from the disk too."""
    if (before is not None) + (glob is not None) + everything != 1:
        raise click.UsageError("Choose one of --before, --path and --all.")
    from habitab_engine import signal_files
    from habitab_engine.errors import InputError
    from habitab_engine.signal_stats import reading

    path = session.home.signals_file
    gone = 0
    if path.exists():
        with reading(path, PURGE_PATIENCE) as db:
            if before is not None:
                gone = signal_files.delete_before(db, before.timestamp())
            elif glob is not None:
                gone = signal_files.delete_path(db, glob)
            else:
                gone = signal_files.delete_all(db, path)
            if not signal_files.rewrite(db):
                raise InputError(
                    f"{gone:,} rows are deleted, but another process reads {path}: run the same command again."
                )
    session.finish({"purged": gone}, f"{gone:,} rows are deleted.")


@signals_group.command("export")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.pass_obj
def signals_export(session: Session, file: Path) -> None:
    """Write every row to FILE, one JSON object a line."""
    from habitab_engine.errors import InputError

    count = 0
    try:
        count = _export(session.home.signals_file, file)
    except FileExistsError as exc:
        raise InputError(f"{file} exists: choose another name or move it away.") from exc
    except OSError as exc:
        raise InputError(f"{file} cannot be written ({exc.strerror}): choose another place.") from exc
    session.finish({"file": str(file), "rows": count}, f"{file} holds {count:,} rows.")


def _export(path: Path, file: Path) -> int:
    """How many rows were written. Raises OSError for `file`, InputError for the file of signals."""
    import json

    from habitab_engine.errors import InputError
    from habitab_engine.home import open_private
    from habitab_engine.signal_stats import every_row, reading

    with open_private(file, "xb") as out:
        if not path.exists():
            return 0
        try:
            with reading(path) as db:
                return sum(bool(out.write(json.dumps(row).encode() + b"\n")) for row in every_row(db))
        except InputError:
            file.unlink()
            raise


def _drawn(result: dict[str, Any]) -> str:
    """The figures as tables for a terminal."""
    from habitab_engine.types import OUTCOMES

    if not result["suggestions"] and not result["days"]:
        return "Nothing is recorded yet."
    outcomes = "\n".join(f"{name.replace('_', ' '):<16}{result[name]:>8,}" for name in OUTCOMES)
    days = dict(list(result["days"].items())[-TABLE_DAYS:])
    latency = result["latency_ms"]
    return "\n\n".join(
        (
            outcomes,
            _table({"all": result} | result["languages"]),
            _table(days),
            f"latency         p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms",
        )
    )


def _table(parts: dict[str, dict[str, Any]]) -> str:
    rows = [_HEAD] + [[name or "(none)", *_cells(part)] for name, part in parts.items()]
    return "\n".join("".join([f"{first:<16}", *(f"{cell:>11}" for cell in rest)]) for first, *rest in rows)


def _cells(part: dict[str, Any]) -> list[str]:
    counts = [f"{part[name]:,}" for name in ("shown", "taken")]
    characters = [f"{part[name]:,}" for name in ("characters_saved", "kept_characters")]
    return [*counts, f"{part['acceptance_rate']:.1%}", *characters, f"{part['completed_ratio']:.1%}"]


def _line(row: dict[str, Any]) -> str:
    """One suggestion; control characters of its text must not reach the terminal."""
    time = f"{datetime.fromtimestamp(row['when']):%Y-%m-%d %H:%M:%S}"
    text = "(withheld: a secret was near)" if row["withheld"] else row["text"].partition("\n")[0]
    shown = "".join(char if char.isprintable() else "�" for char in f"{row['path']}  {row['outcome']}  {text}")
    return f"{row['id']}  {time}  {shown}"
