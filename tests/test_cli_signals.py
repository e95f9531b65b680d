"""`habitab signals`: what was recorded can be seen, taken along and deleted; each fault is one sentence."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from habitab_engine.home import Home
from habitab_engine.signals import SignalStore
from habitab_engine.types import OUTCOMES, Signal
from habitab_server import cli
from recorded import fate, rows, span, survival, typed

MARK = "a_name_that_is_regretted"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "h", "ann")


@pytest.fixture
def habitab(home: Home, capfd: pytest.CaptureFixture[str]) -> Any:
    def habitab(*arguments: object) -> tuple[int, str, str]:
        code = cli.run(["--home", str(home.path), "--user", "ann", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out, err

    return habitab


def record(home: Home, *signals: Signal) -> None:
    store = SignalStore(home.signals_file, days=36_500)
    store.record(signals)
    assert store.flush(20)
    store.close()


def at(day: str) -> float:
    """Noon of a day, local time."""
    return time.mktime(time.strptime(f"{day} 12", "%Y-%m-%d %H"))


@pytest.mark.parametrize("command", [("stats",), ("show",), ("purge", "--all")])
def test_before_anything_is_recorded_every_command_says_so(habitab: Any, home: Home, command: tuple[str, ...]) -> None:
    code, out, err = habitab("signals", *command)
    assert (code, err) == (0, "")
    assert out in ("Nothing is recorded yet.\n", "0 rows are deleted.\n")
    assert not home.signals_file.exists()


def test_the_json_of_stats_has_the_fields_of_the_protocol_also_of_nothing(habitab: Any, home: Home) -> None:
    names = {
        *OUTCOMES,
        "kept_characters",
        "completed_ratio",
        "acceptance_rate",
        "characters_saved",
        "days",
        "languages",
    }
    code, out, _ = habitab("--json", "signals", "stats")
    nothing = json.loads(out.splitlines()[-1])
    assert code == 0
    assert names <= set(nothing)
    assert {nothing[name] for name in OUTCOMES} == {0}
    record(home, fate(), survival(), typed(17))
    found = json.loads(habitab("--json", "signals", "stats")[1].splitlines()[-1])
    assert (found["accepted"], found["kept_characters"], found["completed_ratio"]) == (1, 17, 0.5)
    assert set(found) == set(nothing)


def test_stats_are_a_table_for_a_person(habitab: Any, home: Home) -> None:
    record(home, fate(), survival(), fate("b", language="go", outcome="rejected", accepted=0), typed(17))
    code, out, _ = habitab("signals", "stats")
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert code == 0
    assert (lines["accepted"], lines["rejected"]) == (["1"], ["1"])
    assert lines["all"] == ["2", "1", "50.0%", "16", "17", "50.0%"]
    assert lines["go"] == ["1", "0", "0.0%", "0", "0", "0.0%"]
    assert time.strftime("%Y-%m-%d") in lines


def test_show_prints_the_newest_rows_and_a_text_s_first_line(habitab: Any, home: Home) -> None:
    record(home, *(fate(f"s{i}", when=1_000.0 + i, text=f"x = {i}\ny\x1b[2J") for i in range(5)))
    code, out, _ = habitab("signals", "show", "--limit", 2)
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 2)
    assert [line.split("  ")[0] for line in lines] == ["s3", "s4"]
    assert lines[0].endswith("src/a.py  accepted  x = 3")


def test_no_escape_sequence_of_a_text_reaches_the_terminal(habitab: Any, home: Home) -> None:
    record(home, fate(text="x\x1b[2Jy"))
    assert "\x1b" not in habitab("signals", "show")[1]


def test_a_withheld_text_is_shown_as_such(habitab: Any, home: Home) -> None:
    record(home, fate(around="password = " + '"xK9fQ2lm1"'))
    assert "withheld" in habitab("signals", "show")[1]


def test_purging_everything_leaves_nothing_on_the_disk(habitab: Any, home: Home) -> None:
    record(home, *(fate(f"s{i}", text=f"{MARK} = {i}") for i in range(50)), span(after=MARK), typed(3))
    aside = home.signals_file.with_name("signals.db.damaged-20250101")
    aside.write_text(MARK)
    assert habitab("signals", "purge", "--all") == (0, "52 rows are deleted.\n", "")
    assert [part.name for part in home.user_folder.iterdir() if MARK.encode() in part.read_bytes()] == []
    assert json.loads(habitab("--json", "signals", "stats")[1])["suggestions"] == 0


def test_purging_a_path_leaves_the_others(habitab: Any, home: Home) -> None:
    record(home, fate("a", text=MARK), survival("a", text=MARK), fate("b", path="lib/b.py"))
    assert habitab("--json", "signals", "purge", "--path", "src/*")[:2] == (0, '{"purged": 2}\n')
    assert [row["id"] for row in rows(home.signals_file)] == ["b"]
    assert MARK.encode() not in home.signals_file.read_bytes()


def test_purging_before_a_date_leaves_that_day(habitab: Any, home: Home) -> None:
    record(home, fate("old", when=at("2025-03-03")), typed(1, when=at("2025-03-03")), typed(2, when=at("2025-03-04")))
    record(home, fate("day", when=at("2025-03-04")))
    assert habitab("signals", "purge", "--before", "2025-03-04")[1] == "2 rows are deleted.\n"
    assert [row["id"] for row in rows(home.signals_file)] == ["day"]
    assert [row["characters"] for row in rows(home.signals_file, "typed")] == [2]


@pytest.mark.parametrize(
    "options", [(), ("--all", "--path", "x"), ("--before", "2025-01-01", "--all"), ("--before", "soon"), ("--all", "x")]
)
def test_purge_wants_exactly_one_thing(habitab: Any, home: Home, options: tuple[str, ...]) -> None:
    record(home, fate())
    code, out, err = habitab("signals", "purge", *options)
    assert (code, out) == (2, "")
    assert err
    assert len(rows(home.signals_file)) == 1


def test_purging_while_an_engine_writes_waits_for_it(habitab: Any, home: Home) -> None:
    store = SignalStore(home.signals_file)
    store.record([fate(f"s{i}") for i in range(200)])
    assert habitab("signals", "purge", "--all")[0] == 0
    assert store.flush(20)
    store.close()
    assert store.trouble == ""


def test_while_another_process_reads_purge_says_that_it_is_not_done(
    habitab: Any, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("habitab_server.cli_signals.PURGE_PATIENCE", 0.1)
    record(home, fate())
    reader = sqlite3.connect(home.signals_file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM suggestions").fetchall()
    code, out, err = habitab("signals", "purge", "--all")
    reader.close()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "another process reads" in err


def test_an_export_has_every_row_as_one_json_object_a_line(habitab: Any, home: Home, tmp_path: Path) -> None:
    record(home, fate(), survival(), span(), typed(3))
    file = tmp_path / "all.jsonl"
    assert habitab("signals", "export", file) == (0, f"{file} holds 4 rows.\n", "")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["table"] for row in found] == ["suggestions", "survivals", "spans", "typed"]
    assert found[0]["text"] == "return PI * r * r"
    assert sys.platform == "win32" or file.stat().st_mode & 0o777 == 0o600


def test_an_export_of_nothing_is_an_empty_file(habitab: Any, tmp_path: Path) -> None:
    assert habitab("--json", "signals", "export", tmp_path / "x")[0] == 0
    assert (tmp_path / "x").read_bytes() == b""


def test_an_export_never_overwrites(habitab: Any, home: Home, tmp_path: Path) -> None:
    record(home, fate())
    (tmp_path / "x").write_text("mine")
    code, _, err = habitab("signals", "export", tmp_path / "x")
    assert (code, err) == (1, f"habitab: {tmp_path / 'x'} exists: choose another name or move it away.\n")
    assert (tmp_path / "x").read_text() == "mine"
    assert "cannot be written" in habitab("signals", "export", tmp_path / "no" / "x")[2]


@pytest.mark.parametrize("command", [("stats",), ("show",), ("purge", "--all"), ("export",)])
def test_a_damaged_file_is_one_sentence(habitab: Any, home: Home, tmp_path: Path, command: tuple[str, ...]) -> None:
    home.prepare()
    home.signals_file.write_bytes(b"once upon a time " * 1_000)
    arguments = [*command, tmp_path / "out"] if command == ("export",) else command
    code, _, err = habitab("signals", *arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert "is damaged: move it away" in err
    assert not (tmp_path / "out").exists()


def test_asking_for_help_loads_nothing_heavy() -> None:
    code = "import sys, habitab_server.cli_signals; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sqlite3", "sqlite_utils", "detect_secrets", "torch"} & set(done.stdout.split())
