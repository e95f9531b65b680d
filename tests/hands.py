"""What tests that type into an editor share: it, servers behind it, and patience. As a script it is such a server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from habitab_engine.config import EngineSettings
from habitab_engine.home import Home
from habitab_engine.link import EngineLink, with_engine
from habitab_engine.types import Completion, CompletionRequest
from habitab_server import lsp, stdio
from habitab_server.errands import errand
from links import SetLink

# What is installed beside this Python, `habitab` above all.
SCRIPTS = Path(sys.executable).parent
# A busy machine is slow.
SLOW_SECONDS = 90
_POLL_SECONDS = 0.05
T = TypeVar("T")


def eventually(look: Callable[[], T], what: Callable[[], object] = lambda: "") -> T:
    """The first true value that `look` sees; `what` says what there was instead."""
    deadline = time.monotonic() + SLOW_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, what()
        time.sleep(_POLL_SECONDS)
    return found


class Editor:
    """A running editor, looked at until it is as it should be.

    What there is to see: `text` of the buffer; `ghost` as it is drawn or None; `server`, whether one listens;
    `messages` to the person; `told`, (method, params) of what was sent to the server.
    """

    process: subprocess.Popen[bytes]

    def type(self, keys: str) -> None:
        raise NotImplementedError

    def look(self) -> dict[str, Any]:
        raise NotImplementedError

    def until(self, true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """What there is to see once `true` says so."""
        seen: dict[str, Any] = {}

        def look() -> Any:
            seen.update(self.look())
            return true(seen)

        eventually(look, lambda: seen)
        return seen

    def ghost(self) -> str:
        return self.until(lambda seen: seen["ghost"])["ghost"]

    def shows(self, text: str, ghost: str | None) -> dict[str, Any]:
        """Wait until the buffer's text and the ghost are these."""
        return self.until(lambda seen: (seen["text"], seen["ghost"]) == (text, ghost))

    def told(self, method: str) -> list[Any]:
        return [params for name, params in self.look()["told"] if name == method]

    def servers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        """End the editor; its servers have to end by themselves."""
        servers = self.servers()
        self.process.terminate()
        self.process.wait(SLOW_SECONDS)
        assert not psutil.wait_procs(servers, SLOW_SECONDS)[1]


@contextmanager
def real_engine(folder: Path) -> Iterator[Path]:
    """A home with an engine that has its model in memory; the engine is gone behind it."""
    home = Home.locate(folder)
    request = CompletionRequest("warm", "warm.py", "def add(a, b):\n    return a", "\n", budget_ms=SLOW_SECONDS * 1000)
    try:
        with_engine(home, EngineSettings(), lambda link: link.complete(request))
        yield folder
    finally:
        with_engine(home, EngineSettings(), EngineLink.shutdown)


def environment(home: Path, path: str | None = None, **more: object) -> dict[str, str]:
    """A person's environment: home folders of its own, and `habitab` on PATH (or else `path` alone)."""
    folders = {f"XDG_{kind}_HOME": home / kind.lower() for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
    search = path or os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    values = folders | {"HOME": home, "HABITAB_HOME": home, "PATH": search, "TERM": "xterm"} | more
    return os.environ | {name: str(value) for name, value in values.items()}


def printed(editor: str) -> str:
    """What `habitab editor` prints."""
    command = [str(SCRIPTS / "habitab"), "editor", editor]
    return subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout


def knowing_server(target: Path) -> list[str]:
    """The command of a server whose engine writes towards the text in `target`."""
    return [sys.executable, __file__, str(target)]


class KnowingLink(SetLink):
    """Suggests what comes next in the target, if what was written so far is how it begins."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self._target = target.read_text(encoding="utf-8")

    async def complete(self, request: CompletionRequest) -> Completion:
        begun = self._target.startswith(request.prefix)
        self.texts = [self._target[len(request.prefix) :].rstrip()] if begun else []
        return await super().complete(request)


def _server() -> lsp.HabitabServer:
    return lsp.HabitabServer(lambda _: KnowingLink(Path(sys.argv[1])), errand(Home.locate(), None))


if __name__ == "__main__":
    sys.exit(asyncio.run(lsp._serve_stdio(_server, stdio.claim_stdout())))
