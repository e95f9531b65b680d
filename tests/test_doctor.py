"""Each check sees its fault and says what to do about it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from habitab_engine.errors import EngineError
from habitab_engine.home import Home
from habitab_server import cli, doctor
from habitab_server.doctor import Check

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "h", "ann")


def ended(code: int, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, out, err)


def test_a_healthy_home_is_writable_and_has_room(home: Home) -> None:
    assert doctor.check_home(home).ok
    assert doctor.check_disk(home, doctor.LEAST_FREE_BYTES).ok


def test_a_full_disk_is_a_problem(home: Home) -> None:
    check = doctor.check_disk(home, 1000)
    assert not check.ok
    assert str(home.path) in check.advice


def test_a_home_in_a_files_place_is_a_problem(home: Home) -> None:
    home.path.write_text("")
    assert not doctor.check_home(home).ok


@posix_only
def test_a_home_that_others_may_write_is_a_problem_with_the_command_to_run(home: Home) -> None:
    home.path.mkdir()
    home.path.chmod(0o777)
    check = doctor.check_home(home)
    assert not check.ok
    assert check.advice.startswith("Run: chmod")


def test_an_old_python_is_a_problem() -> None:
    assert not doctor.check_python((3, 10, 9)).ok
    assert doctor.check_python((3, 11, 0)).ok


def test_a_command_off_the_path_is_named_in_full_and_a_missing_one_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "habitab.exe" if os.name == "nt" else "habitab"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    missing = doctor.check_command(None)
    assert not missing.ok and "Install" in missing.advice
    (tmp_path / name).touch()
    found = doctor.check_command(None)
    assert found.ok and str(tmp_path / name) in found.detail
    assert doctor.check_command("/usr/bin/habitab").ok


def test_a_torch_that_takes_its_process_down_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "import os; os.abort()")
    check = doctor.check_torch()
    assert (check.ok, "Install" in check.advice) == (False, True)


def test_a_torch_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TORCH_PROBE", "import torch_that_is_missing")
    assert "torch_that_is_missing" in doctor.check_torch().detail


def test_a_damaged_base_is_a_problem(home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check = doctor.check_base(home, tmp_path / "empty")
    assert not check.ok
    assert str(tmp_path / "empty") in check.detail
    assert "Traceback" not in check.detail


def test_an_engine_that_does_not_answer_is_a_problem_that_names_the_process(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("The engine does not answer.")

    home.prepare()
    home.engine_lock(home.engine_address()).write_text("4711")
    monkeypatch.setattr(doctor, "with_engine", fail)
    check = doctor.check_engine(home, None)
    assert (check.ok, check.detail) == (False, "The engine does not answer.")
    assert "4711" in check.advice


@posix_only
def test_a_socket_open_to_others_is_a_problem(home: Home) -> None:
    home.prepare()
    assert not doctor.check_socket(home, None).ok
    path = Path(home.engine_address())
    path.unlink(missing_ok=True)  # of an earlier run: a home with a long path has it in a folder of its own
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        assert doctor.check_socket(home, None).ok
        path.chmod(0o666)
        assert not doctor.check_socket(home, None).ok


def test_later_checks_are_left_out_where_an_earlier_fault_makes_them_pointless(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "check_torch", lambda: Check("torch", False, "cannot be imported", "Install."))
    assert [check.name for check in doctor.examine(home)] == ["python", "torch", "command", "home"]


@pytest.mark.parametrize("healthy", [True, False])
def test_the_command_tells_each_check_and_the_verdict(
    healthy: bool, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check("python", True, "3.11"), Check("disk", healthy, "0.1 GB free", "Free some space.")]
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(checks))
    assert cli.run(["--home", str(home.path), "doctor"]) == (0 if healthy else 1)
    assert ("Free some space." in capsys.readouterr().out) is not healthy
    cli.run(["--home", str(home.path), "--json", "doctor"])
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["ok"] is healthy
    assert [check["name"] for check in result["checks"]] == ["python", "disk"]


@pytest.mark.parametrize("content", [None, b"", b"once upon a time " * 1_000])
def test_the_file_of_recorded_suggestions_is_looked_at(tmp_path: Path, content: bytes | None) -> None:
    home = Home(tmp_path / "h", "ann")
    home.prepare()
    if content is not None:
        home.signals_file.write_bytes(content)
    found = doctor.check_signals(home)
    assert found.ok == (not content)
    assert content is None or "recorded" in found.detail
