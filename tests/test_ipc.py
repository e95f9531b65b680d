"""Frames, rebuilt dataclasses and the handshake."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine import ipc
from habitab_engine.errors import BaseModelError, Cancelled, EngineError, InputError, MissingBaseError
from habitab_engine.types import Completion, CompletionRequest, Snippet, Suggestion

REQUEST = CompletionRequest("file:///a.py", "a.py", "x = ", "\n", snippets=(Snippet("b.py", "y"),))


def wire(value: object) -> object:
    return ipc.decode(ipc.encode({"value": dataclasses.asdict(value)}))["value"]  # type: ignore[call-overload]


# Lone surrogates included: half an emoji is what some editors send.
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT, ANY_TEXT, st.integers(0, 2**40), st.booleans(), st.lists(ANY_TEXT, max_size=3))
def test_a_request_survives_the_wire(prefix: str, suffix: str, offset: int, after: bool, texts: list[str]) -> None:
    request = CompletionRequest(
        "d", "p", prefix, suffix, offset, after_accept=after, snippets=tuple(Snippet("q", t) for t in texts)
    )
    assert ipc.rebuild(CompletionRequest, wire(request)) == request


def test_a_completion_survives_the_wire() -> None:
    completion = Completion((Suggestion("a\n", (-0.5, float("-inf")), "eos"),), "", 1.5, 3, 2, 1)
    assert ipc.rebuild(Completion, wire(completion)) == completion


def test_unknown_fields_are_ignored_and_missing_ones_have_their_default() -> None:
    data = {"document": "d", "path": "p", "prefix": "", "suffix": "", "of_a_later_version": [1]}
    assert ipc.rebuild(CompletionRequest, data) == CompletionRequest("d", "p", "", "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prefix": 3}, "prefix"),
        ({"count": True}, "count"),
        ({"count": 1.0}, "count"),
        ({"after_accept": 1}, "after_accept"),
        ({"snippets": "text"}, "snippets"),
        ({"snippets": [{"path": "p", "text": None}]}, r"snippets\[0\].text"),
        ({"snippets": [7]}, r"snippets\[0\]"),
        ({"budget_ms": "fast"}, "budget_ms"),
    ],
)
def test_a_wrong_type_is_named(change: dict[str, object], named: str) -> None:
    data = json.loads(json.dumps(dataclasses.asdict(REQUEST))) | change
    with pytest.raises(InputError, match=named):
        ipc.rebuild(CompletionRequest, data)


@pytest.mark.parametrize("data", [None, [], "x", {}, {"document": "d"}])
def test_what_is_no_request_is_refused(data: object) -> None:
    with pytest.raises(InputError):
        ipc.rebuild(CompletionRequest, data)


@pytest.mark.parametrize("frame", [b"", b"\xff", b"{", b"[]", b"3", b"[" * 100_000])
def test_a_frame_that_is_no_object_is_refused(frame: bytes) -> None:
    with pytest.raises(InputError):
        ipc.decode(frame)


@pytest.mark.parametrize("error", [Cancelled("c"), MissingBaseError("There is no x."), BaseModelError("b")])
def test_an_error_keeps_its_class_and_sentence(error: Exception) -> None:
    back = ipc.to_error(ipc.error_reply(error))
    assert (type(back), str(back)) == (type(error), str(error))


@pytest.mark.parametrize("reply", [{"kind": "os", "message": "m"}, {"kind": "HTTPError"}, None, {"kind": 3}])
def test_an_error_of_an_unknown_kind_is_an_engine_error(reply: object) -> None:
    assert type(ipc.to_error(reply)) is EngineError


@pytest.fixture
def address(tmp_path: Path) -> str:
    if sys.platform == "win32":
        return rf"\\.\pipe\habitab-test-{os.getpid()}-{tmp_path.name}"
    return str(tmp_path / "s")


def listening(address: str, key: bytes) -> tuple[ipc.Listener, list[bool]]:
    """A listener that greets one client with `key`."""
    listener, greeted = ipc.Listener(address), []

    def serve() -> None:
        connection = listener.accept()
        if connection is not None:
            greeted.append(ipc.greet(connection, lambda: key))
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener, greeted


def test_who_knows_the_key_is_let_in(address: str) -> None:
    listener, _ = listening(address, b"k" * 32)
    ipc.dial(address, b"k" * 32).close()
    listener.close()


def test_who_does_not_know_the_key_is_refused(address: str) -> None:
    listener, greeted = listening(address, b"k" * 32)
    with pytest.raises(EngineError, match="key"):
        ipc.dial(address, b"other" * 6)
    listener.close()
    assert True not in greeted


def test_nobody_listening_is_told_apart_from_a_refusal(address: str) -> None:
    with pytest.raises(FileNotFoundError):
        ipc.dial(address, b"k")


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are files on POSIX only")
def test_a_stale_socket_file_is_replaced_and_only_the_owner_may_open_it(address: str) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(address)
    dead.close()
    with pytest.raises(ConnectionRefusedError):
        ipc.dial(address, b"k")
    listener = ipc.Listener(address)
    assert stat.S_IMODE(Path(address).stat().st_mode) == 0o600
    assert listener.is_ours()
    listener.close()
    assert not Path(address).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are files on POSIX only")
def test_a_socket_file_that_another_process_put_there_is_left_alone(address: str) -> None:
    listener = ipc.Listener(address)
    Path(address).unlink()
    assert not listener.is_ours()
    Path(address).touch()
    listener.close()
    assert Path(address).exists()


def test_a_frame_beyond_the_limit_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "MAX_FRAME", 10)
    ours, theirs = ipc.mp.Pipe()
    ended = threading.Event()
    frames: list[bytes] = []
    channel = ipc.Channel(ours, frames.append, ended.set)
    channel.start()
    theirs.send_bytes(b"{}")
    theirs.send_bytes(b" " * 11)
    assert ended.wait(5)
    assert frames == [b"{}"]
    theirs.close()


def test_sending_never_blocks_on_a_reader_that_sleeps() -> None:
    ours, theirs = ipc.mp.Pipe()
    ended = threading.Event()
    channel = ipc.Channel(ours, lambda frame: None, ended.set)
    channel.start()
    for _ in range(50):
        channel.send({"text": "x" * 100_000})
    theirs.close()
    assert ended.wait(5)


@pytest.mark.parametrize("multiline", [None, True, False])
def test_an_optional_field_may_be_absent_or_of_its_type(multiline: bool | None) -> None:
    request = CompletionRequest("d", "a.py", "x = ", "", multiline=multiline)
    assert ipc.rebuild(CompletionRequest, wire(request)) == request
    with pytest.raises(InputError, match="multiline"):
        ipc.rebuild(CompletionRequest, wire(request) | {"multiline": "yes"})
