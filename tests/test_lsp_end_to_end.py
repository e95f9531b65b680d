"""The real server as a process, over stdio and TCP, with the real engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import pytest

from habitab_engine.home import Home
from habitab_engine.link import EngineLink

Message = dict[str, Any]
URI = "untitled:one"
TEXT = "def add(a, b):\n    return a"
INLINE = "textDocument/inlineCompletion"
# A busy machine is slow; what must be fast is measured by the bench.
SLOW_SECONDS = 90

SERVE = """
import os, sys, threading
from habitab_engine.home import Home
from habitab_server.lsp import serve
if "stray" in sys.argv:
    threading.Timer(0.1, lambda: (print("stray"), os.write(1, b"stray"))).start()
tcp = ("127.0.0.1", 0) if "tcp" in sys.argv else None
try:
    serve(Home.locate(sys.argv[1]), None, tcp)
finally:
    heavy = {"torch", "numpy", "tokenizers", "transformers"} & set(sys.modules)
    print("heavy:", sorted(heavy), file=sys.stderr)
"""


class Wire:
    """JSON-RPC over two byte streams; replies are waited for, notifications kept."""

    def __init__(self, out: BinaryIO, into: BinaryIO) -> None:
        self._into = into
        self._next = 0
        self.notifications: list[Message] = []
        self._replies: queue.Queue[Message | None] = queue.Queue()
        threading.Thread(target=self._read, args=(out,), daemon=True).start()

    def _read(self, out: BinaryIO) -> None:
        while line := self._line(out):
            size = int(line.removeprefix(b"Content-Length:"))
            while out.readline().strip():
                pass
            message = json.loads(out.read(size))
            self.notifications.append(message) if "method" in message else self._replies.put(message)
        self._replies.put(None)

    @staticmethod
    def _line(out: BinaryIO) -> bytes:
        try:
            return out.readline()
        except OSError:
            # The socket was closed on our side.
            return b""

    def send(self, message: Message) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._into.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._into.flush()

    def notify(self, method: str, params: Any) -> None:
        self.send({"method": method, "params": params})

    def request(self, method: str, params: Any = None) -> Message:
        self._next += 1
        self.send({"id": self._next, "method": method, "params": params})
        reply = self._replies.get(timeout=SLOW_SECONDS)
        assert reply is not None and reply["id"] == self._next, reply
        return reply

    def initialize(self, process: int | None = None, **options: Any) -> Message:
        capabilities = {"textDocument": {"inlineCompletion": {}}}
        params = {"processId": process, "capabilities": capabilities, "initializationOptions": options}
        return self.request("initialize", params)

    def open(self, text: str = TEXT) -> None:
        item = {"uri": URI, "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def type(self, version: int, line: int, character: int, text: str) -> None:
        at = {"line": line, "character": character}
        changes = [{"range": {"start": at, "end": at}, "text": text}]
        document = {"uri": URI, "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})

    def items(self, line: int, character: int) -> list[Message]:
        place = {"textDocument": {"uri": URI}, "position": {"line": line, "character": character}}
        return self.request(INLINE, place | {"context": {"triggerKind": 2}})["result"]


class Server:
    """One server process; ended at the latest when the test ends."""

    def __init__(self, home: Path, *words: str) -> None:
        command = [sys.executable, "-c", SERVE, str(home), *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
        self.wire = None if "tcp" in words else Wire(self.process.stdout, self.process.stdin)

    def finish(self, seconds: float = 10) -> tuple[int, str]:
        """The exit code and what was said on standard error."""
        code = self.process.wait(seconds)
        return code, self.process.stderr.read().decode()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    yield folder
    asyncio.run(_end_engine(folder))


async def _end_engine(folder: Path) -> None:
    link = EngineLink(Home.locate(folder))
    await link.shutdown()
    await link.close()


def wire_of(server: Server) -> Wire:
    assert server.wire is not None
    return server.wire


def completions(wire: Wire) -> int:
    """How many completions the engine has computed so far."""
    status = wire.request("workspace/executeCommand", {"command": "habitab.status"})["result"]
    return int(status["engine"]["totals"]["completions"])


def test_initialize_is_answered_and_nothing_heavy_is_loaded(home: Path) -> None:
    with Server(home) as server:
        reply = wire_of(server).initialize()
        assert reply["result"]["serverInfo"]["name"] == "habitab"
        wire_of(server).request("shutdown")
        wire_of(server).notify("exit", None)
        code, said = server.finish()
        assert (code, said.strip()) == (0, "heavy: []")


def test_a_real_completion_is_typed_through_and_followed_after_its_accept(home: Path) -> None:
    with Server(home) as server:
        wire = wire_of(server)
        wire.initialize(budgetMs=60_000)
        wire.notify("initialized", {})
        wire.open()
        (item,) = wire.items(1, 12)
        text = item["insertText"]
        assert text.strip().startswith("+ b")
        wire.type(2, 1, 12, text[0])
        times = []
        for _ in range(20):
            started = time.perf_counter()
            (rest,) = wire.items(1, 13)
            times.append(time.perf_counter() - started)
            assert rest["insertText"] == text[1:]
        assert min(times) < 0.003
        wire.type(3, 1, 13, text[1:])
        arguments = item["command"]["arguments"]
        wire.request("workspace/executeCommand", {"command": "habitab.accept", "arguments": arguments})
        deadline = time.monotonic() + SLOW_SECONDS
        while completions(wire) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert isinstance(wire.items(1, 12 + len(text)), list)
        assert completions(wire) == 2
        kinds = [n["params"]["kind"] for n in wire.notifications if n["method"] == "habitab/didChangeStatus"]
        assert set(kinds) == {"Normal"}
        assert psutil.Process(server.process.pid).memory_info().rss < 80e6


def test_a_stray_print_does_not_corrupt_the_protocol(home: Path) -> None:
    with Server(home, "stray") as server:
        wire = wire_of(server)
        wire.initialize()
        time.sleep(0.5)
        wire.open("x")
        assert wire.items(0, 1) == []
        server.process.stdin.close()
        code, said = server.finish()
        assert code == 0 and said.count("stray") == 2


def test_the_process_ends_when_its_input_ends(home: Path) -> None:
    with Server(home) as server:
        wire_of(server).initialize()
        server.process.stdin.close()
        assert server.finish(5)[0] == 0


def test_exit_without_shutdown_is_code_one(home: Path) -> None:
    with Server(home) as server:
        wire_of(server).initialize()
        wire_of(server).notify("exit", None)
        assert server.finish(5)[0] == 1


def test_the_process_ends_when_the_editor_is_killed_though_the_pipe_stays_open(home: Path) -> None:
    editor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with Server(home) as server, editor:
        wire_of(server).initialize(process=editor.pid)
        time.sleep(2.5)
        assert server.process.poll() is None
        editor.kill()
        assert server.finish(8)[0] == 0


def connect(port: int) -> tuple[socket.socket, Wire]:
    client = socket.create_connection(("127.0.0.1", port))
    stream = client.makefile("rwb")
    return client, Wire(stream, stream)


def leave(client: socket.socket) -> None:
    """Close the connection; the reading thread sees the end of the stream."""
    # The server may have closed it first.
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    client.close()


def test_tcp_wants_its_token_and_serves_one_client_after_another(home: Path) -> None:
    with Server(home, "tcp") as server:
        said = server.process.stderr.readline().decode()
        found = re.fullmatch(r"habitab listens on 127\.0\.0\.1:(\d+), token (\S+)\n", said)
        assert found, said
        port, token = int(found[1]), found[2]
        stranger, wire = connect(port)
        assert "token" in wire.initialize(token="guess")["error"]["message"]
        leave(stranger)
        for _ in range(2):
            client, wire = connect(port)
            assert "result" in wire.initialize(token=token)
            wire.open("x")
            assert wire.items(0, 1) == []
            wire.notify("exit", None)
            leave(client)
        assert server.process.poll() is None
