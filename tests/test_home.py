"""Folders, log, key and address of one person."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from habitab_engine import home as home_module
from habitab_engine.errors import InputError
from habitab_engine.home import LONGEST_ADDRESS, Home, engine_key, open_log, private_folder

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="modes and socket files are POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "h", "ann")


def test_the_option_wins_over_the_environment_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HABITAB_HOME", str(tmp_path / "env"))
    monkeypatch.setenv("HABITAB_USER", "eve")
    assert Home.locate(tmp_path / "opt", "ann") == Home(tmp_path / "opt", "ann")
    assert Home.locate() == Home(tmp_path / "env", "eve")
    monkeypatch.delenv("HABITAB_HOME")
    monkeypatch.setattr(home_module, "_default_path", lambda: str(tmp_path / "default"))
    assert Home.locate().path == tmp_path / "default"


def test_a_relative_home_does_not_move_with_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.locate("here", "ann").path == tmp_path / "here"


@pytest.mark.parametrize("user", ["a/b", "..", ".", "a\\b", "a\0", "x" * 65, " "])
def test_a_user_name_that_would_leave_its_folder_is_refused(user: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="user name"):
        Home.locate(tmp_path, user)


@posix_only
def test_every_folder_is_the_persons_own(home: Home) -> None:
    home.prepare()
    for folder in (home.path, home.run, home.logs, home.user_folder, home.user_folder.parent):
        assert mode(folder) == 0o700


@posix_only
def test_a_folder_named_by_the_person_keeps_its_mode_but_is_closed_inside(home: Home) -> None:
    home.path.mkdir(mode=0o755)
    home.path.chmod(0o755)
    home.logs.mkdir(mode=0o755)
    home.prepare()
    assert (mode(home.path), mode(home.logs)) == (0o755, 0o700)


@posix_only
@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: p.symlink_to("/tmp")])
def test_a_file_or_a_link_in_a_folders_place_is_refused(make: object, home: Home) -> None:
    home.path.mkdir()
    make(home.run)  # type: ignore[operator]
    with pytest.raises(InputError, match=str(home.run)):
        home.prepare()


@posix_only
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InputError, match="another user"):
        private_folder(tmp_path)


@posix_only
def test_addresses_of_two_homes_users_or_bases_differ_and_are_stable(home: Home, tmp_path: Path) -> None:
    others = [Home(tmp_path / "other", "ann"), Home(home.path, "bob")]
    addresses = [home.engine_address(), home.engine_address(str(tmp_path))]
    addresses += [other.engine_address() for other in others]
    assert len(set(addresses)) == 4
    assert addresses[0] == home.engine_address("")


@posix_only
def test_two_names_of_one_base_folder_are_one_engine(home: Home, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to("base")
    assert home.engine_address(str(tmp_path / "base")) == home.engine_address(str(tmp_path / "link"))


@posix_only
def test_a_long_home_gets_a_short_private_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    address = Home(tmp_path / ("ü" * 60) / "h", "ann").engine_address()
    assert len(os.fsencode(address)) <= LONGEST_ADDRESS
    folder = Path(address).parent
    assert mode(folder) == 0o700
    if tmp_path not in folder.parents:
        folder.rmdir()


def test_windows_gets_a_pipe(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module.sys, "platform", "win32")
    address = home.engine_address()
    assert address.startswith("\\\\.\\pipe\\habitab-")
    assert home.engine_lock(address).parent == home.run


def test_all_who_start_at_once_read_one_key(home: Home) -> None:
    home.prepare()
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(engine_key(home))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert [p.name for p in home.run.iterdir()] == [home.key_file.name]
    assert sys.platform == "win32" or mode(home.key_file) == 0o600


def test_a_key_that_a_full_disk_cut_is_made_anew(home: Home) -> None:
    home.prepare()
    home.key_file.write_bytes(b"short")
    assert len(engine_key(home)) == 32


def test_a_key_that_a_full_disk_refuses_leaves_nothing_behind(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    home.prepare()
    monkeypatch.setattr(home_module.os, "urandom", refuse)
    with pytest.raises(OSError, match="No space"):
        engine_key(home)
    assert list(home.run.iterdir()) == []


def test_a_file_system_without_hard_links_gets_a_key_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "not here")

    home.prepare()
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert engine_key(home) == engine_key(home)


def test_the_log_is_private_and_stays_small(home: Home) -> None:
    log = open_log(home, "test-small")
    for _ in range(3000):
        log.info("x" * 500)
    files = [p for p in home.logs.iterdir() if p.name.startswith("test-small")]
    assert len(files) == 2
    assert sum(p.stat().st_size for p in files) <= 2 * home_module.LOG_BYTES
    assert sys.platform == "win32" or {mode(p) for p in files} == {0o600}


def test_opening_a_log_twice_writes_each_line_once(home: Home) -> None:
    open_log(home, "test-twice")
    open_log(home, "test-twice").info("one line")
    assert (home.logs / "test-twice.log").read_text().count("one line") == 1


def test_a_home_that_cannot_be_written_costs_one_sentence_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    log = open_log(Home(tmp_path / "file" / "h", "ann"), "test-unwritable")
    log.info("a")
    log.info("b")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
def test_a_full_disk_costs_one_sentence_and_nothing_else(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.prepare()
    (home.logs / "test-full.log").symlink_to("/dev/full")
    log = open_log(home, "test-full")
    log.info("a")
    log.info("b")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "test-full.log" in said


@pytest.fixture(autouse=True)
def closed_logs() -> object:
    yield
    for name in ("test-small", "test-twice", "test-unwritable", "test-full"):
        logger = logging.getLogger(f"habitab.{name}")
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
