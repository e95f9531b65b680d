"""Messages between the fronts and the engine process: one JSON object a frame, never a pickle.

Request  {"id": n, "op": "hello"|"complete"|"prefill"|"open"|"observe"|"forget"|"cancel"|"status"|"record"|"signals"|
          "adapter"|"shutdown", …}
Reply    {"id": n, "result": …}  or  {"id": n, "error": {"kind": <class in errors.py>, "message": <sentence>}}

Fields are only ever added: what a side does not know it ignores, what is missing has a default.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import queue
import socket
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable
from multiprocessing import AuthenticationError
from multiprocessing import connection as mp
from pathlib import Path
from typing import Any, TypeVar

from habitab_engine import errors
from habitab_engine.errors import EngineError, HabitabError, InputError
from habitab_engine.types import Fate, Signal, Span, Survival, Typed

T = TypeVar("T")
Message = dict[str, Any]

MAX_FRAME = 64 * 1024 * 1024
# Seconds in which the other side must begin the handshake (importing torch may stall it a while).
HANDSHAKE_SECONDS = 20.0
# Seconds between two looks of a waiting listener at whether it was closed.
_ACCEPT_SECONDS = 1.0
# `mp` asserts on a wrong greeting in Python 3.11; a refused MD5 (FIPS) is a ValueError.
_NO_HANDSHAKE = (AuthenticationError, AssertionError, EOFError, OSError, ValueError)
_SIGNALS: dict[str, type[Signal]] = {kind.__name__: kind for kind in (Fate, Survival, Span, Typed)}


def encode(message: Message) -> bytes:
    """One frame; lone surrogates survive as escapes."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def decode(frame: bytes) -> Message:
    """The message in `frame`; raises InputError if it is none."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as exc:
        raise InputError("The frame holds no JSON.") from exc
    if not isinstance(message, dict):
        raise InputError("The frame holds no JSON object.")
    return message


def rebuild(kind: type[T], data: object) -> T:
    """The frozen dataclass `kind` from what `dataclasses.asdict` made of it and JSON carried.

    Unknown fields are ignored. Raises InputError that names the first field missing or of a wrong type.
    """
    return typing.cast(T, _convert(kind, data, kind.__name__))


def flatten_signals(signals: Iterable[Signal]) -> list[Message]:
    """What crosses the process border: the fields of each, and its class's name as `kind`."""
    return [{"kind": type(signal).__name__, **dataclasses.asdict(signal)} for signal in signals]


def rebuild_signals(data: object) -> list[Signal]:
    """What `flatten_signals` took apart. Raises InputError, for an unknown kind as well."""
    if not isinstance(data, list):
        raise InputError("The signals must be a list.")
    return [_rebuild_signal(fields) for fields in data]


def _rebuild_signal(fields: object) -> Signal:
    name = fields.get("kind") if isinstance(fields, dict) else None
    kind = _SIGNALS.get(str(name))
    if kind is None:
        raise InputError(f"There is no signal {name!r}.")
    return rebuild(kind, fields)


def error_reply(error: Exception) -> Message:
    """`error` as it crosses the process border."""
    return {"kind": type(error).__name__, "message": str(error)}


def to_error(reply: object) -> HabitabError:
    """The exception that `error_reply` described; an EngineError for a kind this side does not know."""
    facts = reply if isinstance(reply, dict) else {}
    kind = getattr(errors, str(facts.get("kind")), EngineError)
    if not (isinstance(kind, type) and issubclass(kind, HabitabError)):
        kind = EngineError
    return kind(str(facts.get("message", "The engine gave no reason.")))


class Channel:
    """One end of a connection, with a thread that reads and one that writes, so that `send` never blocks.

    `on_frame` is called for each frame and `on_end` once, both in the reading thread.
    """

    def __init__(
        self, connection: mp.Connection, on_frame: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._on_frame = on_frame
        self._on_end = on_end
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="habitab-write", daemon=True)
        self._reader = threading.Thread(target=self._read, name="habitab-read", daemon=True)

    def start(self) -> None:
        self._writer.start()
        self._reader.start()

    def send(self, message: Message) -> None:
        """Queue `message`; whether it arrived is told by its reply, or by `on_end`."""
        self._out.put(encode(message))

    def close(self) -> None:
        """End the connection after what is queued; may be called from any thread, and twice."""
        self._out.put(None)

    def _write(self) -> None:
        try:
            while (frame := self._out.get()) is not None:
                self._connection.send_bytes(frame)
        except OSError:
            # The other side is gone: the reader sees it as well.
            pass
        finally:
            hang_up(self._connection)

    def _read(self) -> None:
        try:
            while True:
                self._on_frame(self._connection.recv_bytes(MAX_FRAME))
        except (EOFError, OSError, InputError):
            # Gone, or a frame beyond the limit or one that nobody can read.
            pass
        finally:
            self._on_end()
            self.close()
            self._writer.join(1.0)
            self._connection.close()


class Listener:
    """The engine's end of `address`. The caller holds the address's lock, so an old socket is a dead one."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._closed = False
        if sys.platform == "win32":
            self._pipe = mp.Listener(address, "AF_PIPE")
            return
        Path(address).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(address)
        Path(address).chmod(0o600)
        self._socket.settimeout(_ACCEPT_SECONDS)
        self._mark = _mark(address)
        # Nobody can connect before this, so the mode above was never open.
        self._socket.listen(16)

    def accept(self) -> mp.Connection | None:
        """The next connection, not yet greeted; None once closed. Blocks."""
        if sys.platform == "win32":
            return typing.cast(mp.Connection, self._pipe.accept())
        while not self._closed:
            try:
                accepted, _ = self._socket.accept()
                return mp.Connection(accepted.detach())
            except TimeoutError:
                continue
            except OSError:
                # Closed, or out of file descriptors: the pause of a failing loop is the caller's.
                return None
        return None

    def is_ours(self) -> bool:
        """Whether the socket file is still the one made here."""
        return sys.platform == "win32" or _mark(self._address) == self._mark

    def close(self) -> None:
        self._closed = True
        if sys.platform == "win32":
            self._pipe.close()
            return
        self._socket.close()
        if self.is_ours():
            Path(self._address).unlink(missing_ok=True)


def dial(address: str, key: bytes) -> mp.Connection:
    """Connect to the engine at `address` and prove to each other that both know `key`.

    Raises FileNotFoundError or ConnectionRefusedError where nobody listens, EOFError or another OSError where
    the engine went away meanwhile, EngineError where it does not know the key or does not answer.
    """
    connection = mp.Client(address)
    try:
        if not connection.poll(HANDSHAKE_SECONDS):
            raise EngineError("The engine does not answer: end the process named in `habitab doctor` and try again.")
        mp.answer_challenge(connection, key)
        mp.deliver_challenge(connection, key)
    except (AuthenticationError, AssertionError, ValueError) as exc:
        connection.close()
        raise EngineError("The engine's socket is held by a process that does not know the key.") from exc
    except BaseException:
        connection.close()
        raise
    return connection


def is_served(address: str) -> bool:
    """Whether a process listens at `address`."""
    try:
        mp.Client(address).close()
    except OSError:
        return False
    return True


def greet(connection: mp.Connection, key: Callable[[], bytes]) -> bool:
    """The engine's side of `dial`; False (and closed) if the other side is not the person's own."""
    try:
        secret = key()
        mp.deliver_challenge(connection, secret)
        mp.answer_challenge(connection, secret)
    except _NO_HANDSHAKE:
        connection.close()
        return False
    return True


def hang_up(connection: mp.Connection) -> None:
    """End the conversation so that a thread reading from it wakes up with EOFError."""
    try:
        if sys.platform == "win32":
            connection.close()
            return
        # Closing the descriptor under a reading thread would let its number be used again: shut it down.
        with socket.socket(fileno=os.dup(connection.fileno())) as twin:
            twin.shutdown(socket.SHUT_RDWR)
    except OSError:
        # Gone already.
        return


def _mark(address: str) -> tuple[int, int, int] | None:
    """What tells one socket file from the next at the same path (inode numbers are used again)."""
    try:
        facts = os.stat(address)  # noqa: PTH116
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(hint: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _rebuild_fields(typing.cast(type, hint), value, where)
    if isinstance(hint, types.GenericAlias) and hint.__origin__ is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list.")
        item = hint.__args__[0]
        return tuple(_convert(item, part, f"{where}[{n}]") for n, part in enumerate(value))
    if isinstance(hint, types.UnionType):  # X | None is the only union among the fields
        return None if value is None else _convert(hint.__args__[0], value, where)
    if hint is float and type(value) is int:
        return float(value)
    # `type`, not isinstance: true is no number.
    if type(value) is not hint:
        raise InputError(f"{where} must be {hint.__name__}, not {type(value).__name__}.")
    return value


def _rebuild_fields(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object.")
    hints = _hints(kind)
    given = {name: _convert(hints[name], value[name], f"{where}.{name}") for name in hints if name in value}
    try:
        return kind(**given)
    except TypeError as exc:
        raise InputError(f"{where} lacks a field: {exc}.") from exc
