"""Finds the engine process of a home, or starts it; the calls block. Never imports torch."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from multiprocessing import connection as mp
from typing import IO

from habitab_engine import ipc
from habitab_engine.config import EngineSettings
from habitab_engine.errors import EngineError
from habitab_engine.home import Home, engine_key, open_private

# Seconds for a new engine to listen; loading its model is not part of it.
START_SECONDS = 30.0
# Seconds between two looks for a starting engine.
_LOOK_SECONDS = 0.02


class Starter:
    """Connects to the engine of `home`, starting the process where there is none. Its methods block."""

    def __init__(self, home: Home, settings: EngineSettings) -> None:
        self._home = home
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def settle(self, engine: object) -> None:
        """End the process started here if another front's engine, of process id `engine`, was first."""
        if self._process is not None and self._process.pid != engine:
            self._process.terminate()
        self._process = None

    def connect(self) -> mp.Connection:
        """A connection to the running or a new engine; raises EngineError or InputError."""
        self._home.prepare()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (connection := self._dial()) is not None:
                return connection
            self._process = self._process or self._start()
            # 0: another front's engine won the race for the lock.
            if self._process.poll() not in (None, 0):
                self._process = None
                raise EngineError(self._last_words())
            time.sleep(_LOOK_SECONDS)
        raise EngineError(f"The engine did not start within {START_SECONDS:.0f} seconds: run `habitab doctor`.")

    def connect_to_running(self) -> mp.Connection:
        """A connection to the engine that runs; raises EngineError where none does."""
        connection = self._dial() if self._home.key_file.exists() else None
        if connection is None:
            raise EngineError("No engine is running.")
        return connection

    def _dial(self) -> mp.Connection | None:
        try:
            key = engine_key(self._home)
            return ipc.dial(self._home.engine_address(self._settings.base), key)
        except PermissionError as exc:
            raise EngineError(f"The engine's socket cannot be opened ({exc}): run `habitab doctor`.") from exc
        except (FileNotFoundError, ConnectionError, EOFError) as exc:
            # EngineError is a ConnectionError too, but tells of an engine that is there.
            if isinstance(exc, EngineError):
                raise
            return None
        except OSError as exc:
            raise EngineError(f"The engine cannot be reached ({exc}): run `habitab doctor`.") from exc

    def _start(self) -> subprocess.Popen[bytes]:
        """A process of its own: it outlives this front and no terminal's Ctrl-C reaches it."""
        with self._output() as output:
            process = subprocess.Popen(
                worker_command(self._home, self._settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._home.run,
                start_new_session=sys.platform != "win32",
                creationflags=_creation_flags(),
            )
        # Waits for its end, so that no zombie stays.
        threading.Thread(target=process.wait, name="habitab-engine-wait", daemon=True).start()
        return process

    def _output(self) -> IO[bytes]:
        """Where the process's own output goes: what a library prints, or a crash."""
        try:
            return open_private(self._home.logs / "engine-output.log", "wb")
        except OSError:
            return open_private(os.devnull, "wb")

    def _last_words(self) -> str:
        try:
            lines = (self._home.logs / "engine-output.log").read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        last = lines[-1][:300] if lines else "it said nothing"
        return f"The engine ended at its start ({last}): run `habitab doctor`."


def worker_command(home: Home, settings: EngineSettings) -> list[str]:
    """How the engine process is started. -P: it never imports from the folder it runs in."""
    command = [sys.executable, "-P", "-m", "habitab_engine.worker", "--home", str(home.path)]
    return [*command, "--user", home.user, "--settings", json.dumps(dataclasses.asdict(settings))]


def _creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    return 0
