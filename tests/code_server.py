"""A real VS Code for tests: code-server with the extension, and its windows in a headless Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psutil
import pytest

from hands import SCRIPTS, SLOW_SECONDS, Editor, environment, eventually

HERE = Path(__file__).parent
CLIENT = HERE.parent / "client-vscode"
# A person's own choices, where VS Code's defaults would move the keys of a script or fill the screen.
_SETTINGS = {
    "files.autoSave": "off",
    "chat.disableAIFeatures": True,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.startupEditor": "none",
    "editor.minimap.enabled": False,
    "editor.autoIndent": "none",
    "editor.quickSuggestions": {"other": "off"},
    "editor.fontFamily": "DejaVu Sans Mono",
}
_GHOST_MS = 20_000


@cache
def installed() -> Path:
    """The folder that `vscode/install.sh` filled; what CI lacks fails there."""
    folder = Path(os.environ.get("HABITAB_VSCODE_E2E") or "/nonexistent")
    if any(folder.glob("complete-*")):
        return folder
    if os.environ.get("CI"):
        pytest.fail("CI needs the folder of tests/vscode/install.sh in HABITAB_VSCODE_E2E.")
    pytest.skip("HABITAB_VSCODE_E2E names no folder that tests/vscode/install.sh filled.")


def _run(command: list[str], folder: Path, values: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=values, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def _with_node(home: Path) -> dict[str, str]:
    """The environment of a person who has the installed Node."""
    values = environment(home, EXTENSIONS_GALLERY='{"serviceUrl":""}', HABITAB_VSCODE_E2E=installed())
    return values | {"PATH": os.pathsep.join([str(installed() / "bin"), values["PATH"]])}


def package(folder: Path) -> Path:
    """The extension's `.vsix`, made in `folder` from a copy of its sources."""
    copy = folder / "client-vscode"
    shutil.copytree(CLIENT, copy, ignore=shutil.ignore_patterns("node_modules", "*.vsix", "dist", "out"))
    values = _with_node(folder) | {"npm_config_cache": str(Path.home() / ".npm")}
    _run(["npm", "ci", "--no-audit", "--no-fund"], copy, values)
    _run(["npm", "run", "package"], copy, values)
    (vsix,) = copy.glob("*.vsix")
    return vsix


def _serves(process: psutil.Process) -> bool:
    try:
        return "serve" in process.cmdline()
    except psutil.Error:  # it ended meanwhile
        return False


class CodeServer:
    """One code-server with fresh folders and the extension; `home` is what its servers have as HABITAB_HOME.

    `settings` are the person's, of this machine: where the server is, and what else a test wants.
    """

    def __init__(self, folder: Path, home: Path, vsix: Path, settings: dict[str, Any]) -> None:
        self._folder, self._values = folder, _with_node(home)
        self.settings_file = folder / "user/Machine/settings.json"
        self._write(folder / "user/User/settings.json", _SETTINGS)
        self.configure(settings)
        self._write(folder / "config.yaml", {})
        _run([*self._command(), "--install-extension", str(vsix)], folder, self._values)
        self._log = folder / "log"
        self.process = self._start()
        listening = re.compile(r"listening on (http://\S+?)/\s")
        (self.address,) = eventually(lambda: listening.findall(self._log.read_text()), self._log.read_text)

    def configure(self, settings: dict[str, Any]) -> None:
        self._write(self.settings_file, {"habitab.serverPath": str(SCRIPTS / "habitab")} | settings)

    def url(self, workspace: Path, file: Path) -> str:
        """The address of a window on a folder, with one of its files open."""
        place = f"vscode-remote://{self.address.partition('//')[2]}{file}"
        return f"{self.address}/?folder={quote(str(workspace))}&payload={quote(json.dumps([['openFile', place]]))}"

    def servers(self) -> list[psutil.Process]:
        """The language servers of all windows."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if _serves(process)]

    def end(self) -> None:
        """End it; what it started has to end by itself."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(SLOW_SECONDS)
        assert not psutil.wait_procs(below, SLOW_SECONDS)[1]

    def _start(self) -> subprocess.Popen[bytes]:
        without = ["telemetry", "update-check", "getting-started-override", "workspace-trust"]
        listen = ["--auth", "none", "--bind-addr", "127.0.0.1:0", "--reconnection-grace-time", "5"]
        command = [*self._command(), *listen, *(f"--disable-{name}" for name in without)]
        with self._log.open("wb") as log:
            return subprocess.Popen(command, env=self._values, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _command(self) -> list[str]:
        entry = installed() / "node_modules/code-server/out/node/entry.js"
        folders = {"config": "config.yaml", "user-data-dir": "user", "extensions-dir": "extensions"}
        options = [f"--{name}={self._folder / folder}" for name, folder in folders.items()]
        return [str(installed() / "bin/node"), str(entry), *options]

    def _write(self, file: Path, values: dict[str, Any]) -> None:
        """In one go, for a running VS Code reads it at once."""
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text(json.dumps(values), encoding="utf-8")
        new.replace(file)


class Browser:
    """The driver of all windows: a headless Chromium."""

    def __init__(self, folder: Path) -> None:
        chromium = shutil.which("chromium") or pytest.fail("There is no Chromium.")
        command = [str(installed() / "bin/node"), str(HERE / "vscode/drive.mjs"), chromium]
        self._process = subprocess.Popen(
            command, env=_with_node(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def do(self, window: str, *steps: dict[str, Any]) -> list[Any]:
        """What the steps saw in a window."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([window, steps]) + "\n")
        self._process.stdin.flush()
        seen = json.loads(self._process.stdout.readline() or '{"error": "The browser is gone."}')
        assert isinstance(seen, list), seen["error"]
        return seen

    def end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(SLOW_SECONDS)
        self._process.stdout.close()


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    started = Browser(folder)
    try:
        yield started
    finally:
        started.end()


class Ghost(NamedTuple):
    """A ghost as it was drawn, and the milliseconds after the last key."""

    text: str
    milliseconds: float


class Window(Editor):
    """One window of a code-server; `look` is what `drive.mjs` sees of it. It loads while others are typed into."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser, self._name = browser, address
        self.do({"open": address})

    def await_editor(self) -> None:
        self.do({"focus": True})

    def await_server(self) -> None:
        """Wait until suggestions may come."""
        self.await_editor()
        self.until(lambda seen: any("Ready" in text for text in seen["status"]))

    def do(self, *steps: dict[str, Any]) -> list[Any]:
        return self._browser.do(self._name, *steps)

    def look(self) -> dict[str, Any]:
        (seen,) = self.do({"look": True})
        return seen

    def type(self, keys: str) -> None:
        self.do({"type": keys})

    def press(self, *keys: str) -> None:
        self.do(*({"press": key} for key in keys))

    def open_file(self, file: Path) -> None:
        """Open a short file of the workspace by its name."""
        self.do({"press": "Control+p"}, {"wait": 300}, {"type": file.name}, {"wait": 300}, {"press": "Enter"})
        text = file.read_text(encoding="utf-8")
        self.until(lambda seen: (seen["tab"], seen["text"], seen["focused"]) == (file.name, text, True))

    def asks(self, *steps: dict[str, Any], then: Sequence[dict[str, Any]] = ()) -> Ghost:
        """The ghost that comes after `steps`; `then` follows at once."""
        seen = self.do(*steps, {"ghost": _GHOST_MS}, *then)[len(steps)]
        assert seen and seen["text"], self.look()
        return Ghost(**seen)

    def statistics(self) -> list[str]:
        """What the menu in the status bar says under Statistics."""
        self.do({"click": ".statusbar-item[id*=habitab]"})
        self.until(lambda seen: any("Statistics" in pick for pick in seen["picks"]))
        self.do({"type": "Statistics"}, {"press": "Enter"})
        picks = self.until(lambda seen: any("extension" in pick for pick in seen["picks"]))["picks"]
        self.press("Escape")
        return picks

    def screenshot(self, name: str, **size: int) -> None:
        """Keep a picture (of `width` and `height`) in the folder HABITAB_SCREENSHOTS, where it is set."""
        if folder := os.environ.get("HABITAB_SCREENSHOTS"):
            self.do({"screenshot": {"path": str(Path(folder) / f"{name}.png"), **size}})

    def close(self) -> None:
        self.do({"close": True})
