"""The front's link with real engine processes, whose model is a small stand-in made here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from habitab_engine import link as link_module
from habitab_engine import starter
from habitab_engine.config import EngineSettings
from habitab_engine.errors import BaseModelError, EngineError
from habitab_engine.home import Home
from habitab_engine.link import EngineLink, with_engine
from habitab_engine.types import CompletionRequest
from recorded import fate, rows, span, survival, typed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ends processes by POSIX signals")

# The real worker process, real but for its model.
STAND_IN = """
import os, sys, threading
from habitab_engine import home, worker
from habitab_engine.adapters import Worn
from habitab_engine.errors import Cancelled, MissingBaseError
from habitab_engine.types import Completion, Suggestion

class Engine:
    stopped, worn = 0, Worn()
    def complete(self, request, stop):
        if request.prefix == "die":
            os._exit(3)
        if request.prefix == "wait" and stop.wait(20):
            Engine.stopped += 1
            raise Cancelled("stopped")
        return Completion((Suggestion(str(os.getpid()), (), "eos"),), "", 0.0, 0, 0, 0)
    def prefill(self, request, stop): return 5
    def forget(self, document): pass
    def status(self): return {"stopped": Engine.stopped}
    def give_way(self): pass

def load(settings, adapters):
    if settings.base:
        raise MissingBaseError("There is no base model.")
    return Engine()

mode, arguments = sys.argv[1], sys.argv[2:]
if mode == "broken":
    raise SystemExit("no such library")
if mode == "old":
    worker.__version__ = "0.0.0"
worker._load_engine = load
raise SystemExit(worker.main(arguments))
"""

MakeLink = Callable[..., EngineLink]


def request(prefix: str, document: str = "d") -> CompletionRequest:
    return CompletionRequest(document, "p.py", prefix, "")


def engines(home: Home) -> list[psutil.Process]:
    """The live engine processes of `home`."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        dead = process.info["status"] in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        if not dead and str(home.path) in (process.info["cmdline"] or []):
            found.append(process)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "h", "ann")


@pytest.fixture
def mode() -> list[str]:
    """Which stand-in the next start takes: [""], ["old"], ["broken"]."""
    return [""]


@pytest.fixture
async def make_link(
    home: Home, mode: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeLink]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    real = starter.worker_command

    def command(home: Home, settings: EngineSettings) -> list[str]:
        whole = real(home, settings)
        return [sys.executable, str(script), mode[0], *whole[whole.index("--home") :]]

    monkeypatch.setattr(starter, "worker_command", command)
    links: list[EngineLink] = []

    def make(settings: EngineSettings | None = None) -> EngineLink:
        links.append(EngineLink(home, settings))
        return links[-1]

    yield make
    for link in links:
        await link.shutdown()
        await link.close()
    _, orphans = psutil.wait_procs(engines(home), timeout=3)
    for orphan in orphans:
        orphan.kill()
    assert orphans == []


async def engine_of(link: EngineLink) -> int:
    """The process id of the engine that answers `link`."""
    return int((await link.complete(request("now"))).suggestions[0].text)


async def test_two_links_starting_at_once_share_one_engine(make_link: MakeLink, home: Home) -> None:
    one, two = make_link(), make_link()
    first, second = await asyncio.gather(engine_of(one), engine_of(two))
    assert first == second
    assert await one.prefill(request("x")) == 5
    assert (await two.status())["clients"] == 2


async def test_the_engine_outlives_a_front_and_serves_the_next(make_link: MakeLink) -> None:
    one, two = make_link(), make_link()
    first = await engine_of(one)
    await one.close()
    assert await engine_of(two) == first


async def test_nothing_starts_before_the_first_request(make_link: MakeLink, home: Home) -> None:
    link = make_link()
    await link.forget("d")
    assert await link.status() == {"state": "stopped"}
    assert engines(home) == []


async def test_telling_of_an_adapter_starts_no_engine_and_reaches_one_that_runs(
    make_link: MakeLink, home: Home
) -> None:
    link = make_link()
    await link.look_at_adapter()
    assert not engines(home)
    await link.complete(request("a"))
    home.adapters.mkdir()
    (home.adapters / "active.json").write_text("{")
    await make_link().look_at_adapter()
    deadline = time.monotonic() + 5
    while "trouble" not in (status := await link.status()):
        assert time.monotonic() < deadline
    assert "active.json" in status["trouble"]


async def test_recording_starts_no_engine_and_raises_nothing(make_link: MakeLink, home: Home) -> None:
    link = make_link()
    assert await link.record([fate()]) == ""
    assert await link.signal_stats() == {}
    assert engines(home) == []


async def test_signals_are_in_the_person_s_file_and_its_figures(make_link: MakeLink, home: Home) -> None:
    link = make_link()
    await engine_of(link)
    assert await link.record([fate(), survival(), span(), typed(17)]) == ""
    found: dict[str, Any] = {}
    while not found.get("completed_ratio"):
        found = await link.signal_stats()
    assert (found["accepted"], found["kept_characters"], found["completed_ratio"]) == (1, 17, 0.5)
    assert [row["id"] for row in rows(home.signals_file)] == ["s1"]


async def test_what_was_recorded_is_written_when_the_engine_ends(make_link: MakeLink, home: Home) -> None:
    link = make_link()
    await engine_of(link)
    await link.record([fate(f"s{i}") for i in range(100)])
    await link.shutdown()
    assert len(rows(home.signals_file)) == 100


async def test_what_troubles_the_store_is_the_answer(make_link: MakeLink, home: Home) -> None:
    link = make_link()
    await engine_of(link)
    home.signals_file.mkdir()
    trouble = await link.record([fate()])
    while not trouble:
        trouble = await link.record([])
    assert trouble.startswith("Suggestions are not recorded: ")
    assert (await link.status())["trouble"] == trouble
    assert await engine_of(link) > 0


async def test_a_killed_engine_is_started_again_under_a_waiting_request(make_link: MakeLink) -> None:
    link = make_link()
    first = await engine_of(link)
    waiting = asyncio.create_task(link.complete(request("wait")))
    await asyncio.sleep(0.1)
    os.kill(first, signal.SIGKILL)
    await asyncio.sleep(0.5)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await engine_of(link) != first


async def test_an_engine_killed_between_requests_is_not_noticed(make_link: MakeLink) -> None:
    link = make_link()
    first = await engine_of(link)
    os.kill(first, signal.SIGKILL)
    assert await engine_of(link) != first


async def test_an_engine_that_always_dies_is_not_started_in_a_loop(make_link: MakeLink) -> None:
    link = make_link()
    starts = []
    real = subprocess.Popen

    def counting(*args: object, **options: object) -> object:
        starts.append(time.monotonic())
        return real(*args, **options)  # type: ignore[call-overload]

    starter.subprocess.Popen = counting  # type: ignore[attr-defined,misc]
    try:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            with pytest.raises(EngineError):
                await link.complete(request("die"))
            await asyncio.sleep(0.01)
    finally:
        starter.subprocess.Popen = real  # type: ignore[attr-defined,misc]
    assert 2 <= len(starts) <= 5
    assert "error" in await link.status()


async def test_an_engine_that_cannot_start_says_why_and_recovers(make_link: MakeLink, mode: list[str]) -> None:
    link = make_link()
    mode[0] = "broken"
    with pytest.raises(EngineError, match="no such library"):
        await link.start()
    assert "no such library" in (await link.status())["error"]
    mode[0] = ""
    assert await engine_of(link) > 0


async def test_a_base_that_cannot_be_served_is_named_to_every_request(make_link: MakeLink) -> None:
    link = make_link(EngineSettings(base="/missing"))
    for _ in range(2):
        with pytest.raises(BaseModelError, match=r"^There is no base model\.$"):
            await link.complete(request("now"))
    assert (await link.status())["state"] == "failed"


async def test_an_engine_of_another_version_is_replaced(make_link: MakeLink, mode: list[str]) -> None:
    mode[0] = "old"
    old = await engine_of(make_link())
    mode[0] = ""
    new = await engine_of(make_link())
    assert new != old
    assert not psutil.pid_exists(old)


async def test_two_versions_at_once_do_not_end_each_others_engine_for_ever(
    make_link: MakeLink, mode: list[str]
) -> None:
    link = make_link()
    mode[0] = "old"
    # What it starts is again of another version: it takes that one.
    assert await engine_of(link) == await engine_of(link)


async def test_cancelling_the_task_stops_the_engine_at_once(make_link: MakeLink) -> None:
    link = make_link()
    await engine_of(link)
    task = asyncio.create_task(link.complete(request("wait", "one")))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    answered = time.monotonic() - began
    await link.complete(request("now", "two"))
    assert (await link.status())["stopped"] == 1
    assert answered < 0.05
    assert time.monotonic() - began < 0.25


async def test_a_request_costs_well_under_a_millisecond(make_link: MakeLink) -> None:
    link = make_link()
    await engine_of(link)
    body = request("x = 1\n" * 300)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        await link.complete(body)
        times.append(time.perf_counter() - began)
    assert sorted(times)[100] < 0.002


async def test_a_stale_socket_and_a_foreign_file_in_its_place_are_cleaned(make_link: MakeLink, home: Home) -> None:
    home.prepare()
    Path(home.engine_address()).touch()
    assert await engine_of(make_link()) > 0


async def test_sigterm_ends_the_engine_and_removes_its_socket(make_link: MakeLink, home: Home) -> None:
    link = make_link()
    (process,) = engines(home) or [psutil.Process(await engine_of(link))]
    process.terminate()
    process.wait(5)
    assert not Path(home.engine_address()).exists()


async def test_an_engine_that_hangs_is_an_error_not_a_hang(
    make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = make_link()
    pid = await engine_of(link)
    os.kill(pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch, pytest.raises(EngineError, match="did not answer"):
            patch.setattr(link_module, "REPLY_SECONDS", 0.2)
            await link.complete(request("now"))
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_script_that_is_not_asynchronous_gets_its_answer(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(link: EngineLink) -> str:
        return str((await link.status())["state"])

    assert with_engine(home, EngineSettings(), act) == "stopped"


def test_importing_the_link_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'tokenizers', 'transformers', 'platformdirs', 'importlib.metadata', 'sqlite3'}"
    code = f"import sys, habitab_engine.link; print(sorted(set(sys.modules) & {heavy}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
