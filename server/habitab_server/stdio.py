"""The bytes below LSP: a protected standard output, a reader that bad input cannot stop, loopback TCP."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

from habitab_engine.errors import ServeError

# Longer messages are skipped: no editor sends them, and memory is bounded.
LONGEST_MESSAGE = 64 * 1024 * 1024
_LONGEST_HEADER = 64 * 1024
_CHUNK = 64 * 1024


def claim_stdout() -> BinaryIO:
    """Keep standard output for LSP alone: whatever else prints there goes to standard error from now on."""
    sys.stdout.flush()
    kept = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return kept


class Reader:
    """A stream of messages for pygls; an oversized header or message is skipped."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream

    async def readline(self) -> bytes:
        try:
            return await self._stream.readline()
        except ValueError:
            # Longer than any header: the stream has dropped it. An unknown header is ignored.
            return b"X-Too-Long: 1\r\n"

    async def readexactly(self, count: int) -> bytes:
        """`count` bytes; nothing at the stream's end; `null` for a message that is too long."""
        try:
            if count <= LONGEST_MESSAGE:
                return await self._stream.readexactly(count)
            while count > 0:
                count -= len(await self._stream.readexactly(min(count, _CHUNK)))
            return b"null"
        except asyncio.IncompleteReadError:
            return b""


class Writer:
    """Messages out; `on_lost` is called once nobody reads them any more."""

    def __init__(self, out: BinaryIO, on_lost: Callable[[], None]) -> None:
        self._out = out
        self._on_lost = on_lost

    def write(self, data: bytes) -> None:
        try:
            self._out.write(data)
            self._out.flush()
        except (OSError, ValueError):
            self._on_lost()

    def close(self) -> None:
        """Nothing to do: the process ends with its output."""


def stdin_reader() -> Reader:
    """Standard input as a stream of the running loop; a daemon thread reads and never holds the process."""
    stream = asyncio.StreamReader(limit=_LONGEST_HEADER)
    threading.Thread(target=_pump, args=(asyncio.get_running_loop(), stream), name="stdin", daemon=True).start()
    return Reader(stream)


def _pump(loop: asyncio.AbstractEventLoop, stream: asyncio.StreamReader) -> None:
    try:
        while chunk := _read_some():
            loop.call_soon_threadsafe(stream.feed_data, chunk)
        loop.call_soon_threadsafe(stream.feed_eof)
    except RuntimeError:
        # The loop is closed: the server ended first.
        return


def _read_some() -> bytes:
    try:
        return os.read(0, _CHUNK)
    except OSError:
        return b""


def check_loopback(host: str) -> None:
    """Raise ServeError unless `host` means this machine alone."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ServeError(f"habitab listens on this machine only: use 127.0.0.1 instead of {host}.")


async def listen(
    host: str, port: int, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]
) -> asyncio.Server:
    """Listen on `host`:`port` (0 = any free port). Raises ServeError if that cannot be."""
    check_loopback(host)
    try:
        return await asyncio.start_server(serve, host, port, limit=_LONGEST_HEADER)  # type: ignore[arg-type]
    except (OSError, OverflowError) as exc:
        raise ServeError(
            f"Port {port} on {host} cannot be used ({getattr(exc, 'strerror', None) or exc}): choose another."
        ) from exc
