"""The real server as a process, over stdio and TCP, with the real engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from habitab_engine.home import Home
from habitab_engine.link import EngineLink
from real_server import SLOW_SECONDS, Server, Wire, wire_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    yield folder
    asyncio.run(_end_engine(folder))


async def _end_engine(folder: Path) -> None:
    link = EngineLink(Home.locate(folder))
    await link.shutdown()
    await link.close()


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
