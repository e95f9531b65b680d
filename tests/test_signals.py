"""The store keeps all that was recorded, no secret, and no more than it may; nothing that happens to its file hurts."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from habitab_engine import signal_files, signals
from habitab_engine.signal_files import MIGRATIONS, open_signals, rewrite
from habitab_engine.signal_rows import row_of
from habitab_engine.signals import SignalStore
from habitab_engine.types import OUTCOMES, Fate, Snippet
from planted import Planted, planted
from recorded import fate, rows, span, survival, typed

DAY = 86_400.0
Make = Callable[..., SignalStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ann" / "signals.db"


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    made: list[SignalStore] = []

    def make(**options: Any) -> SignalStore:
        made.append(SignalStore(path, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def on_disk(path: Path) -> bytes:
    """The bytes of the file and of all that stands beside it."""
    return b"".join(part.read_bytes() for part in sorted(path.parent.iterdir()))


# ---- rows ----


def test_a_suggestion_is_one_row_with_all_its_fields(make: Make, path: Path) -> None:
    store = make()
    one = fate()
    store.record([one])
    assert store.flush()
    (row,) = rows(path)
    assert row.pop("day") == time.strftime("%Y-%m-%d", time.localtime(one.when))
    assert (json.loads(row.pop("logprobs")), json.loads(row.pop("snippets"))) == (
        [-0.1, -0.25],
        [{"path": "src/b.py", "text": "PI = 3.14"}],
    )
    assert row.pop("withheld") == 0
    fields = {name: getattr(one, name) for name in Fate.__slots__ if name not in ("logprobs", "snippets", "around")}
    assert row == fields


def test_the_lines_around_are_never_stored(make: Make, path: Path) -> None:
    store = make()
    mark = "these_lines_are_only_looked_at"
    store.record([fate(around=mark), survival(around=mark), span(around=mark)])
    assert store.flush()
    store.close()
    assert mark.encode() not in on_disk(path)


@pytest.mark.parametrize(
    ("text", "kept"), [("return PI * r * r", 1.0), ("", 0.0), ("return PI * r**2", 1 - 3 / 17), ("x" * 34, 0.0)]
)
def test_a_survival_says_how_much_of_what_was_inserted_is_left(make: Make, path: Path, text: str, kept: float) -> None:
    store = make()
    store.record([fate(), survival(text=text)])
    assert store.flush()
    (row,) = rows(path, "survivals")
    assert (row["suggestion"], row["at"], row["text"]) == ("s1", "120", text)
    assert row["kept"] == pytest.approx(kept)


def test_a_survival_of_another_engine_s_suggestion_is_measured_too(make: Make, path: Path) -> None:
    first, second = make(), make()
    first.record([fate()])
    assert first.flush()
    first.close()
    second.record([fate("s2")])
    assert second.flush()
    second.record([survival()])
    assert second.flush()
    assert [row["kept"] for row in rows(path, "survivals")] == [1.0]


def test_a_survival_where_nothing_was_inserted_has_no_likeness(make: Make, path: Path) -> None:
    store = make()
    store.record([fate(outcome="rejected", accepted=0, inserted=""), survival(at="30", text="return 1")])
    assert store.flush()
    (row,) = rows(path, "survivals")
    assert (row["kept"], row["text"]) == (None, "return 1")


def test_the_last_text_at_a_save_counts_and_other_times_stay(make: Make, path: Path) -> None:
    store = make()
    store.record([fate(), survival(at="15"), survival(at="save", text="a"), survival(at="save", text="b")])
    assert store.flush()
    assert [(row["at"], row["text"]) for row in rows(path, "survivals")] == [("15", "return PI * r * r"), ("save", "b")]


def test_typed_characters_are_added_up_by_day_and_language(make: Make, path: Path) -> None:
    store = make()
    noon = time.mktime((2025, 3, 4, 12, 0, 0, 0, 0, -1))
    long_ago = [typed(5, when=noon), typed(7, when=noon), typed(1, "go", noon), typed(2, when=noon - DAY)]
    store = make(days=100_000 / 24)
    store.record(long_ago)
    assert store.flush()
    found = {(row["day"], row["language"]): row["characters"] for row in rows(path, "typed")}
    assert found == {("2025-03-04", "python"): 12, ("2025-03-04", "go"): 1, ("2025-03-03", "python"): 2}


def test_spans_keep_place_and_both_texts(make: Make, path: Path) -> None:
    store = make()
    store.record([span("x = 1", "x = 2")])
    assert store.flush()
    (row,) = rows(path, "spans")
    assert [row[name] for name in ("root", "path", "line", "column", "before", "after")] == [
        "/w", "src/a.py", 3, 4, "x = 1", "x = 2",
    ]  # fmt: skip


def test_no_more_of_a_long_document_is_kept_than_a_prompt_reaches_and_whole_lines_only(make: Make, path: Path) -> None:
    store = make()
    text = "".join(f"line {i}\n" for i in range(3_000))
    store.record([fate(prefix=text, suffix=text)])
    assert store.flush()
    (row,) = rows(path)
    assert 5_900 < len(row["prefix"]) <= 6_000
    assert 1_900 < len(row["suffix"]) <= 2_000
    assert set(row["prefix"].splitlines() + row["suffix"].splitlines()) <= set(text.splitlines())
    assert text.endswith(row["prefix"])
    assert text.startswith(row["suffix"])


def test_text_that_is_no_unicode_is_kept_and_stops_nothing(make: Make, path: Path) -> None:
    store = make()
    store.record([fate("odd", text="a\ud800b", prefix="\0"), fate("huge", accepted=2**70), fate("next")])
    assert store.flush()
    assert "next" not in store.trouble
    store.record([fate("later")])
    assert store.flush()
    assert "later" in [row["id"] for row in rows(path)]


# ---- secrets ----


def typed_into(secret: Planted, index: int) -> list[Any]:
    """The secret in one text of a signal; or half in the text, and whole only in how the lines look now."""
    name, text = f"s{index}", secret.text
    half = text[: len(text) * 3 // 4]
    anywhere: list[list[Any]] = [
        [fate(name, prefix=f"import os\n{text}\n")],
        [fate(name, suffix=f"\n{text}\n")],
        [fate(name, text=text)],
        [fate(name, inserted=text)],
        [fate(name, instead=text)],
        [fate(name, snippets=(Snippet("a.py", text),))],
        [fate(name, prefix=f"import os\n{half}", inserted=text[len(half) :])],
        [fate(name), survival(name, text=text)],
        [span(before=text)],
        [span(after=text)],
    ]
    in_the_lines: list[list[Any]] = [
        [fate(name, prefix=half, around=text)],
        [fate(name, text=half, inserted=half, around=f"x\n{text}\n")],
        [fate(name), survival(name, text=half, around=text)],
        [span(before=half, after=half, around=text)],
    ]
    chosen = in_the_lines if index % 2 else anywhere
    return chosen[index // 2 % len(chosen)]


def test_of_200_planted_secrets_none_is_on_the_disk_and_every_row_is(make: Make, path: Path) -> None:
    secrets = planted(200)
    recorded = [signal for i, secret in enumerate(secrets) for signal in typed_into(secret, i)]
    store = make()
    store.record(recorded)
    assert store.flush(60)
    everything = on_disk(path)
    assert path.with_name("signals.db-wal").exists()
    found = [one.kind for one in secrets if any(part.encode() in everything for part in one.parts)]
    assert found == []
    written = [row for table in ("suggestions", "survivals", "spans") for row in rows(path, table)]
    assert len(written) == len(recorded)
    assert sum(row["withheld"] for row in written) == len(secrets)


def test_a_row_with_a_secret_keeps_its_numbers(make: Make, path: Path) -> None:
    store = make()
    token = planted()[6]
    store.record([fate(suffix=token.text), survival(text="return PI", around=token.text)])
    assert store.flush()
    (row,) = rows(path)
    assert [row[name] for name in ("outcome", "accepted", "latency_ms", "withheld")] == ["accepted", 17, 50.0, 1]
    assert [row[name] for name in ("prefix", "suffix", "snippets", "text", "inserted", "instead", "logprobs")] == [
        ""
    ] * 7
    (row,) = rows(path, "survivals")
    assert (row["withheld"], row["text"]) == (1, "")
    assert row["kept"] == pytest.approx(9 / 17)


# ---- the queue ----


def test_recording_waits_for_nothing_and_writing_gives_way(make: Make, path: Path) -> None:
    idle = threading.Event()
    store = make(pause=lambda: idle.wait(20))
    began = time.perf_counter()
    store.record([fate(f"s{i}") for i in range(100)])
    assert time.perf_counter() - began < 0.2
    assert not store.flush(0.3)
    assert not path.exists()
    idle.set()
    assert store.flush()
    assert len(rows(path)) == 100


def test_what_waits_is_written_at_the_end(path: Path) -> None:
    store = SignalStore(path)
    store.record([fate(f"s{i}") for i in range(300)])
    store.close(20)
    assert len(rows(path)) == 300


def test_a_store_that_was_never_asked_touches_no_disk(path: Path) -> None:
    store = SignalStore(path)
    assert store.flush()
    assert store.stats()["shown"] == 0
    store.close()
    assert not path.parent.exists()


def test_of_too_many_signals_the_oldest_are_lost(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "MOST_SIGNALS", 10)
    idle = threading.Event()
    store = make(pause=lambda: idle.wait(20))
    for i in range(30):
        store.record([fate(f"s{i}")])
    idle.set()
    assert store.flush()
    names = [row["id"] for row in rows(path)]
    assert names[-10:] == [f"s{i}" for i in range(20, 30)]
    assert len(names) <= 11


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_only_the_person_can_read_the_file(make: Make, path: Path) -> None:
    store = make()
    store.record([fate()])
    assert store.flush()
    modes = {part.name: stat.S_IMODE(part.stat().st_mode) for part in (path.parent, *path.parent.iterdir())}
    assert modes == {"ann": 0o700, "signals.db": 0o600, "signals.db-wal": 0o600, "signals.db-shm": 0o600}


# ---- how much is kept ----


def test_rows_older_than_the_days_go_at_the_opening(make: Make, path: Path) -> None:
    old = time.time() - 11 * DAY
    first = make(days=20)
    first.record([fate("old", when=old), survival("old", when=old), span(when=old), typed(3, when=old), fate("new")])
    assert first.flush()
    first.close()
    assert len(rows(path)) == 2
    second = make(days=10)
    second.record([typed(4)])
    assert second.flush()
    assert [row["id"] for row in rows(path)] == ["new"]
    assert (rows(path, "survivals"), rows(path, "spans")) == ([], [])
    assert [row["characters"] for row in rows(path, "typed")] == [4]


def test_the_oldest_rows_go_where_the_file_grows_too_large_and_it_shrinks(make: Make, path: Path) -> None:
    now = time.time()
    first = make()
    first.record([fate(f"s{i:03}", when=now - 1000 + i, prefix=f"{i:05}\n" * 900) for i in range(400)])
    assert first.flush(20)
    first.close()
    before = path.stat().st_size
    second = make(megabytes=1)
    second.record([fate("last")])
    assert second.flush(20)
    second.close()
    assert before > 2_000_000
    assert path.stat().st_size <= 1_000_000
    kept = [row["id"] for row in rows(path)]
    assert kept == sorted(kept, key=lambda name: (name == "last", name))
    assert kept[-2:] == ["s399", "last"]
    assert 100 < len(kept) < 200


# ---- the file's age ----


def old_file(path: Path) -> None:
    """A file as the first version wrote it, with rows."""
    path.parent.mkdir(mode=0o700)
    db = Database(sqlite3.connect(path, isolation_level=None), execute_plugins=False)
    db.conn.execute("CREATE TABLE _migrations (name TEXT PRIMARY KEY, at TEXT)")
    MIGRATIONS[0](db)
    db.conn.execute("INSERT INTO _migrations VALUES ('m001_suggestions', '2025-01-01T00:00:00')")
    signal_files.write_row(db, *row_of(fate("old", outcome="ignored", text="x = 1"), lambda text: False, ""))
    db.close()


def test_a_file_of_the_first_version_is_brought_up_to_date_with_its_rows(make: Make, path: Path) -> None:
    old_file(path)
    store = make()
    store.record([fate("new"), typed(3)])
    assert store.flush()
    assert store.trouble == ""
    assert [(row["id"], row["text"]) for row in rows(path)] == [("old", "x = 1"), ("new", fate().text)]
    assert [row["name"] for row in rows(path, "_migrations")] == [step.__name__ for step in MIGRATIONS]
    assert store.stats()["ignored"] == store.stats()["accepted"] == 1


def test_migrations_are_numbered_in_their_order() -> None:
    assert [int(step.__name__[1:4]) for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_a_file_of_a_newer_habitab_is_left_alone(make: Make, path: Path) -> None:
    old_file(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO _migrations VALUES ('m099_of_the_future', '')")
    connection.commit()
    connection.close()
    store = make()
    store.record([fate("new")])
    assert not store.flush(0.5)
    assert "newer habitab" in store.trouble
    assert [row["id"] for row in rows(path)] == ["old"]


# ---- trouble ----


def damage(path: Path, how: str) -> None:
    if how == "not a database":
        path.write_bytes(b"once upon a time " * 5_000)
        return
    data = bytearray(path.read_bytes())
    data[4_096:] = os.urandom(len(data) - 4_096)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["not a database", "pages of noise"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    make: Make, path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = make()
    first.record([fate(f"s{i}") for i in range(50)])
    assert first.flush()
    first.close()
    damage(path, how)
    spoilt = path.read_bytes()
    store = make()
    with caplog.at_level(logging.WARNING):
        store.record([fate("new")])
        assert store.flush()
    assert [row["id"] for row in rows(path)] == ["new"]
    (aside,) = path.parent.glob("signals.db.damaged-*")
    assert aside.read_bytes()[4_096:] == spoilt[4_096:]
    assert str(aside) in store.trouble
    assert len(caplog.records) == 1


def test_a_file_that_breaks_under_our_hands_is_replaced_with_nothing_else_lost(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    store.record([fate("old")])
    assert store.flush()
    real, calls = signal_files.write_row, []

    def breaking(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise sqlite3.DatabaseError("database disk image is malformed")
        real(*arguments)

    monkeypatch.setattr(signal_files, "write_row", breaking)
    store.record([fate(f"s{i}") for i in range(5)])
    assert store.flush()
    assert [row["id"] for row in rows(path)] == [f"s{i}" for i in range(5)]
    (aside,) = (part for part in path.parent.glob("signals.db.damaged-*") if part.suffix[-4:] not in ("-wal", "-shm"))
    assert [row["id"] for row in rows(aside)] == ["old"]


def test_a_disk_that_damages_all_is_told_and_not_filled_with_files(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(*_arguments: Any) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(signal_files, "write_row", breaking)
    store = make()
    store.record([fate()])
    assert not store.flush(1)
    assert "is damaged" in store.trouble
    assert len(list(path.parent.glob("signals.db.damaged-*"))) <= 3


def test_a_full_disk_is_told_once_and_the_rows_that_waited_are_written(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, pages = signal_files.open_signals, [40]

    def small(*arguments: Any, **options: Any) -> Database:
        db = real(*arguments, **options)
        db.conn.execute(f"PRAGMA max_page_count={pages[0]}")
        return db

    monkeypatch.setattr(signal_files, "open_signals", small)
    monkeypatch.setattr(signals, "RETRY_SECONDS", 0.05)
    store = make()
    with caplog.at_level(logging.INFO):
        store.record([fate(f"s{i:02}", prefix="x = 1\n" * 900) for i in range(60)])
        assert not store.flush(1)
        assert store.trouble.startswith("Suggestions are not recorded: the disk of ")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        pages[0] = 1_000_000
        assert store.flush()
    assert store.trouble == ""
    assert [row["id"] for row in rows(path)] == [f"s{i:02}" for i in range(60)]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_while_nothing_can_be_written_the_oldest_rows_give_up_their_text(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "MOST_TEXTS", 5)
    monkeypatch.setattr(signals, "RETRY_SECONDS", 60)
    path.parent.mkdir(mode=0o700)
    path.mkdir()
    store = make()
    store.record([fate(f"s{i}") for i in range(20)])
    assert not store.flush(1)
    assert "cannot be used" in store.trouble
    path.rmdir()
    assert store.flush()
    assert [row["withheld"] for row in rows(path)] == [1] * 15 + [0] * 5
    assert {row["text"] for row in rows(path)[:15]} == {""}


def test_a_locked_file_is_told_and_written_once_it_is_free(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    store.record([fate("first")])
    assert store.flush()
    monkeypatch.setattr(signals, "RETRY_SECONDS", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store.record([fate("second")])
    assert not store.flush(signal_files.BUSY_SECONDS + 1.5)
    assert "another process holds" in store.trouble
    holder.execute("ROLLBACK")
    holder.close()
    assert store.flush()
    assert (store.trouble, len(rows(path))) == ("", 2)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    store = SignalStore(tmp_path / "ann" / "signals.db")
    store.record([fate()])
    assert not store.flush(1)
    assert "make it writable" in store.trouble
    tmp_path.chmod(0o700)
    store.close()


def test_a_broken_installation_is_told_not_silent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "habitab_engine.signal_rows", None)
    store = make()
    store.record([fate()])
    store.flush(1)
    assert "ModuleNotFoundError" in store.trouble


# ---- figures ----


def test_figures_are_sums_and_quotients_of_the_rows(make: Make) -> None:
    store = make()
    store.record(
        [
            fate("a", latency_ms=10), survival("a"),
            fate("b", outcome="partly_accepted", accepted=6, inserted="return", latency_ms=30),
            survival("b", text="zz"),
            *(fate(name, outcome=name, accepted=0, inserted="", latency_ms=20) for name in OUTCOMES[2:]),
            fate("go", language="go"), survival("go", at="15", text="gone"), survival("go", at="120"),
            survival("go", at="300", text="gone"), typed(77), typed(23, "go"),
        ]
    )  # fmt: skip
    assert store.flush()
    found = store.stats()
    assert [found[name] for name in OUTCOMES] == [2, 1, 1, 1, 1, 1, 1, 1]
    assert {name: found[name] for name in ("suggestions", "shown", "taken", "characters_saved", "kept_characters")} == {
        "suggestions": 9, "shown": 7, "taken": 3, "characters_saved": 37, "kept_characters": 34,
    }  # fmt: skip
    assert (found["acceptance_rate"], found["completed_ratio"]) == (round(3 / 7, 4), round(40 / 140, 4))
    assert found["latency_ms"] == {"p50": 20.0, "p95": 50.0}
    assert found["languages"]["go"]["completed_ratio"] == round(17 / 40, 4)
    assert list(found["days"]) == [time.strftime("%Y-%m-%d")]


def test_a_suggestion_that_was_measured_before_120_seconds_only_counts_by_its_last_look(make: Make) -> None:
    store = make()
    store.record([fate(), survival(at="15"), survival(at="close", text="zz", when=time.time() + 1), fate("unmeasured")])
    assert store.flush()
    assert store.stats()["kept_characters"] == 0


# ---- how rows leave ----


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("src/a.py", {"b"}),
        ("src", {"b"}),
        ("/w/src/*", {"b"}),
        ("*.py", set()),
        ("tests/*", {"a"}),
        ("src/b.py", {"a", "b"}),
    ],
)
def test_the_rows_of_a_path_can_be_deleted(make: Make, path: Path, glob: str, left: set[str]) -> None:
    store = make()
    elsewhere = {"path": "tests/b.py"}
    store.record([fate("a"), survival("a"), span(), fate("b", **elsewhere), survival("b"), span(**elsewhere)])
    assert store.flush()
    store.close()
    db = open_signals(path)
    assert signal_files.delete_path(db, glob) == 6 - 3 * len(left)
    db.close()
    assert {row["id"] for row in rows(path)} == left == {row["suggestion"] for row in rows(path, "survivals")}


def test_what_is_deleted_is_in_no_file_even_while_an_engine_has_it_open(make: Make, path: Path) -> None:
    store = make()
    mark = "a_line_that_the_person_regrets"
    kept = [fate(f"k{i}", path="kept.py", prefix=f"x = {i}\n" * 500) for i in range(100)]
    gone = [fate(f"g{i}", prefix=f"y = {i}\n" * 500 + mark) for i in range(100)]
    store.record([one for pair in zip(kept, gone, strict=True) for one in pair])
    assert store.flush()
    assert mark.encode() in on_disk(path)
    db = open_signals(path)
    assert signal_files.delete_path(db, "src/a.py") == 100
    assert rewrite(db)
    db.close()
    everything = on_disk(path)
    assert mark.encode() not in everything
    assert b"y = 5\n" not in everything
    store.record([fate("after")])
    assert store.flush()
    assert len(rows(path)) == 101


# ---- kill -9 ----

KILLED = """
import os, random, signal, sqlite3, sys, time
from pathlib import Path
from dataclasses import replace
from habitab_engine import secret_scan, signal_files, signal_rows
from habitab_engine.signals import SignalStore
from recorded import fate, survival

secret_scan.holds_secret("x = 1")
path, rng = Path(sys.argv[1]), random.Random(7)

def record(out, number):
    store = SignalStore(path)
    for i in range(100_000):
        names = [f"{number}.{i}.{j}" for j in range(rng.randrange(1, 9))]
        store.record([one for n in names for one in (fate(n, prefix=f"x = {i}\\n" * 400), survival(n))])
        if store.flush(60):
            os.write(out, " ".join(names).encode() + b" ")

def told(source):
    with os.fdopen(source) as file:
        return file.read().rpartition(" ")[0].split()

flushed = set()
for number in range(50):
    source, out = os.pipe()
    if not (child := os.fork()):
        record(out, number)
    os.close(out)
    time.sleep(rng.uniform(0.0, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    flushed |= set(told(source))
    connection = sqlite3.connect(path)
    whole = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    there = {n for (n,) in connection.execute("SELECT id FROM suggestions")} if "suggestions" in tables else set()
    connection.close()
    print(whole and flushed <= there, len(flushed), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_fifty_times_killed_the_file_is_whole_and_has_all_that_was_flushed(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    survived = [line.split() for line in done.stdout.splitlines()]
    assert [whole for whole, _ in survived] == ["True"] * 50, done.stderr
    assert int(survived[-1][1]) > 50


# ---- what it costs ----


def added_milliseconds(store: SignalStore, calls: int = 1_000) -> dict[str, float]:
    """What one call of `record` takes, while the store writes what came before."""
    spent = []
    one = fate(prefix="x = 1\n" * 1_000)
    for i in range(calls):
        signal = replace(one, id=f"s{i}")
        began = time.perf_counter()
        store.record([signal])
        spent.append((time.perf_counter() - began) * 1_000)
        time.sleep(0.001)
    spent.sort()
    return {"p50": spent[calls // 2], "p95": spent[calls * 95 // 100]}


def test_every_call_of_a_busy_minute_is_kept(make: Make, path: Path) -> None:
    store = make()
    print("record, ms:", added_milliseconds(store, 500))
    assert store.flush(20)
    assert len(rows(path)) == 500
