"""`habitab doctor`: looks at the installation piece by piece and says what to do about each fault."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from habitab_engine.config import EngineSettings
from habitab_engine.errors import HabitabError
from habitab_engine.home import Home, folder_fault
from habitab_engine.link import with_engine
from habitab_engine.types import CompletionRequest

OLDEST_PYTHON = (3, 11)
# Room for logs, adapters and what a night writes.
LEAST_FREE_BYTES = 500_000_000
# Seconds for a fresh interpreter with torch, the first import from a cold disk included.
_PROBE_SECONDS = 180

_TORCH_PROBE = """
import json, torch
from habitab_engine import native
cpu = torch.backends.cpu.get_cpu_capability()
print(json.dumps({"torch": torch.__version__, "cpu": cpu, "step": native.available()}))
"""
_STEPS = {
    True: "the decode step is compiled",
    False: "the decode step is torch's (half the speed: install a C compiler, then habitab again)",
}


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and found; `advice` says what to do if it is not `ok`."""

    name: str
    ok: bool
    detail: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(home: Home, base: Path | None = None) -> Iterator[Check]:
    """Every check in turn; a later one may be missing where an earlier one makes it pointless."""
    yield check_python(sys.version_info[:3])
    yield (torch := check_torch())
    yield check_command(shutil.which("habitab"))
    yield (folders := check_home(home))
    if not (torch.ok and folders.ok):
        return
    yield check_disk(home, shutil.disk_usage(home.path).free)
    yield check_signals(home)
    yield (model := check_base(home, base))
    if model.ok:
        yield check_engine(home, base)
        yield check_socket(home, base)


def report(check: Check) -> str:
    """One check for a person."""
    if check.ok:
        return f"ok       {check.name}: {check.detail}"
    return f"problem  {check.name}: {check.detail}\n         {check.advice}"


def check_python(version: tuple[int, ...]) -> Check:
    number = ".".join(map(str, version))
    advice = f"Install habitab with Python {'.'.join(map(str, OLDEST_PYTHON))} or later."
    return Check("python", version >= OLDEST_PYTHON, number, advice)


def check_torch() -> Check:
    """Import torch in a process of its own: a broken build can take its process down."""
    done = _python("-c", _TORCH_PROBE)
    if done.returncode == 0:
        facts = json.loads(done.stdout.splitlines()[-1])
        return Check("torch", True, f"{facts['torch']}, CPU level {facts['cpu']}; {_STEPS[facts['step']]}")
    return Check("torch", False, f"cannot be imported ({_last_line(done)})", "Install habitab again.")


def check_base(home: Home, base: Path | None) -> Check:
    """Checksums and shapes, by the command that prints them."""
    chosen = ["--base", str(base)] if base else []
    done = _python("-m", "habitab_server", "--json", "--home", str(home.path), *chosen, "base", "info")
    if done.returncode == 0:
        facts = json.loads(done.stdout.splitlines()[-1])
        return Check("base", True, f"{facts['id']}, checksums verified")
    advice = "Choose another folder with --base." if base else "Install habitab again."
    return Check("base", False, _last_line(done).removeprefix("habitab: "), advice)


def check_home(home: Home) -> Check:
    """Writable, and nobody else's business."""
    try:
        home.prepare()
        with tempfile.TemporaryFile(dir=home.user_folder) as file:
            file.write(b"x")
    except (OSError, HabitabError) as exc:
        return Check("home", False, str(exc), "Make the folder writable or choose another with --home.")
    if sys.platform != "win32" and home.path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        advice = f"Run: chmod go-w '{home.path}'"
        return Check("home", False, f"others may write into {home.path}", advice)
    return Check("home", True, str(home.path))


def check_disk(home: Home, free: int) -> Check:
    advice = f"Free some space on the disk of {home.path}."
    return Check("disk", free >= LEAST_FREE_BYTES, f"{free / 1e9:.1f} GB free", advice)


def check_signals(home: Home) -> Check:
    """The file of recorded suggestions, page by page."""
    from habitab_engine.signal_stats import reading

    if not home.signals_file.exists():
        return Check("signals", True, "nothing is recorded yet")
    try:
        with reading(home.signals_file, check=True) as db:
            return Check("signals", True, f"{db.table('suggestions').count:,} suggestions are recorded")
    except HabitabError as exc:
        return Check("signals", False, str(exc), "Your editor suggests all the same, but nothing new is recorded.")


def check_engine(home: Home, base: Path | None) -> Check:
    """Start the engine, or use the one that runs, and complete a line."""
    request = CompletionRequest("doctor:", "example.py", "def add(a, b):\n    return ", "\n")
    settings = _settings(base)
    try:
        completion = with_engine(home, settings, lambda link: link.complete(request))
    except HabitabError as exc:
        advice = f"See {home.logs / 'engine.log'}{_holder(home, settings)}."
        return Check("engine", False, str(exc), advice)
    return Check("engine", True, f"completed {completion.tokens} tokens in {completion.latency_ms:.0f} ms")


def check_socket(home: Home, base: Path | None) -> Check:
    """Only the person can reach the engine."""
    address = home.engine_address(_settings(base).base)
    if sys.platform == "win32":
        return Check("socket", True, "a named pipe, guarded by a key")
    socket = Path(address)
    advice = f"End all editors, remove {socket.parent} and start them again."
    try:
        fault = folder_fault(socket.parent)
        open_to_others = (socket.stat().st_mode | socket.parent.stat().st_mode) & 0o077
    except OSError as exc:
        return Check("socket", False, str(exc), advice)
    if fault or open_to_others:
        return Check("socket", False, fault or f"{socket} is open to other users", advice)
    return Check("socket", True, "open to you alone")


def check_command(found: str | None) -> Check:
    """Whether an editor finds `habitab`, or where else it is."""
    ours = Path(sys.executable).with_name("habitab.exe" if os.name == "nt" else "habitab")
    if found is None and ours.exists():
        return Check("command", True, f"not on PATH: give your editor the full path {ours}")
    return Check("command", found is not None, found or "there is no command `habitab`", "Install habitab again.")


def _settings(base: Path | None) -> EngineSettings:
    return EngineSettings(base=str(base.resolve()) if base else "")


def _holder(home: Home, settings: EngineSettings) -> str:
    """Which process to end if the engine hangs."""
    try:
        number = home.engine_lock(home.engine_address(settings.base)).read_text().strip()
    except OSError:
        return ""
    return f"; if it hangs, end process {number}" if number else ""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter, as the engine is run."""
    try:
        return subprocess.run(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 1, "", f"no answer within {_PROBE_SECONDS} seconds")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with {done.returncode}"
