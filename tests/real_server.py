"""The real server as a process, and a client that speaks with it byte by byte."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

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

    def open(self, text: str = TEXT, uri: str = URI) -> None:
        item = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def type(self, version: int, line: int, character: int, text: str, uri: str = URI) -> None:
        at = {"line": line, "character": character}
        changes = [{"range": {"start": at, "end": at}, "text": text}]
        document = {"uri": uri, "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})

    def items(self, line: int, character: int, uri: str = URI) -> list[Message]:
        place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": character}}
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


def wire_of(server: Server) -> Wire:
    assert server.wire is not None
    return server.wire
