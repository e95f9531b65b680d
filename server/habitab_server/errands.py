"""Runs a command of `habitab` in a process of its own: the server neither waits for it nor loads what it needs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from habitab_engine.errors import HabitabError
from habitab_engine.home import Home

_PREFIX = "habitab: "


class Errand(Protocol):
    """Runs a command for the base model in a folder ("" = the embedded one) and gives its JSON.

    Raises HabitabError with the command's own sentence.
    """

    async def __call__(self, base: str, /, *words: str) -> dict[str, Any]: ...


def errand(home: Home, base: Path | None) -> Errand:
    """How commands are run for the person of `home`; `base` is the base model of all of them, if there is one."""
    # -P: nothing is imported from the folder the server runs in.
    start = [sys.executable, "-P", "-m", "habitab_server", "--home", str(home.path), "--user", home.user, "--json"]

    async def run(other: str, /, *words: str) -> dict[str, Any]:
        folder = str(base) if base else other
        process = await asyncio.create_subprocess_exec(
            *start,
            *(["--base", folder] if folder else []),
            *words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=_creation_flags(),
        )
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        return _result(process.returncode, out, err)

    return run


def _result(code: int | None, out: bytes, err: bytes) -> dict[str, Any]:
    lines = out.decode("utf-8", "replace").splitlines()
    if code == 0 and lines:
        result: dict[str, Any] = json.loads(lines[-1])
        return result
    said = err.decode("utf-8", "replace").strip().splitlines() or [f"The command ended with {code}."]
    raise HabitabError(said[-1].removeprefix(_PREFIX))


def _creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW
    return 0
