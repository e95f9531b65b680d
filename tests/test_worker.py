"""The engine process's server, with an engine of the tests' own: who is served when, and when it ends."""

from __future__ import annotations

import dataclasses
import itertools
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from habitab_adapters.registry import Registry
from habitab_engine import ipc, worker
from habitab_engine.adapters import POINTER
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.config import EngineSettings, thread_count
from habitab_engine.engine import Engine
from habitab_engine.errors import Cancelled, MissingBaseError
from habitab_engine.home import Home, engine_key
from habitab_engine.locks import locked
from habitab_engine.types import Completion, CompletionRequest, Folder, OpenText, Signal, Suggestion
from loras import facts_of, random_lora
from recorded import fate, span, survival, typed


class SlowEngine:
    """Answers "done" at once; a prefix "wait…" runs until it is stopped or released."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.told: list[Folder | OpenText] = []
        self.release = threading.Event()
        self.began = threading.Event()

    def complete(self, request: CompletionRequest, stop: threading.Event) -> Completion:
        self._work("complete", request, stop)
        return Completion((Suggestion("done", (-0.1,), "eos"),), "", 1.0, 2, 1, 1)

    def prefill(self, request: CompletionRequest, stop: threading.Event) -> int:
        self._work("prefill", request, stop)
        return 7

    def open_folder(self, folder: Folder) -> None:
        self.told.append(folder)

    def observe(self, text: OpenText) -> None:
        self.told.append(text)

    def forget(self, document: str) -> None:
        self.log.append(f"forget {document}")

    def status(self) -> dict[str, Any]:
        return {"kernel": "none"}

    def give_way(self) -> None:
        self.log.append("gave way")

    def _work(self, op: str, request: CompletionRequest, stop: threading.Event) -> None:
        self.log.append(f"{op} {request.prefix}")
        if request.prefix == "crash":
            raise KeyError("def secret(): code of the person")
        self.began.set()
        while request.prefix.startswith("wait") and not self.release.is_set():
            if stop.wait(0.002):
                self.log.append(f"stopped {request.prefix}")
                raise Cancelled("stopped")


class SetStore:
    """Keeps signals in a list; its trouble is what the test says."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self.pause = pause
        self.kept: list[Signal] = []
        self.trouble = ""
        self.closed = False

    def record(self, signals: Sequence[Signal]) -> None:
        self.kept += signals

    def stats(self) -> dict[str, Any]:
        return {"accepted": len(self.kept)}

    def close(self) -> None:
        self.closed = True


def request(prefix: str, document: str = "d") -> CompletionRequest:
    return CompletionRequest(document, "p.py", prefix, "")


class Front:
    """A client that keeps its replies."""

    def __init__(self, home: Home) -> None:
        self._numbers = itertools.count(1)
        self.replies: dict[object, ipc.Message] = {}
        self.frames: queue.SimpleQueue[ipc.Message] = queue.SimpleQueue()
        self.ended = threading.Event()
        self.connection = ipc.dial(home.engine_address(), engine_key(home))
        self.channel = ipc.Channel(self.connection, lambda f: self.frames.put(ipc.decode(f)), self.ended.set)
        self.channel.start()

    def send(self, op: str, **fields: Any) -> int:
        number = next(self._numbers)
        self.channel.send({"id": number, "op": op, **fields})
        return number

    def ask(self, op: str, request: CompletionRequest) -> int:
        return self.send(op, request=dataclasses.asdict(request))

    def reply(self, number: object) -> ipc.Message:
        while number not in self.replies:
            message = self.frames.get(timeout=5)
            self.replies[message["id"]] = message
        return self.replies[number]

    def kind(self, number: object) -> str:
        return str(self.reply(number).get("error", {}).get("kind", "result"))


@dataclasses.dataclass
class Running:
    server: worker.Server
    engine: SlowEngine
    home: Home
    thread: threading.Thread

    def front(self) -> Front:
        return Front(self.home)


Start = Callable[..., Running]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "h", "ann")
    home.prepare()
    return home


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    started: list[Running] = []

    def start(
        load: Callable[[], worker.Serving] | None = None,
        idle_seconds: float = 60.0,
        at: Home = home,
        store: Callable[[Callable[[], None]], worker.Storing] | None = None,
        adapters: Path | None = None,
    ) -> Running:
        at.prepare()
        engine = SlowEngine()
        server = worker.Server(
            at.engine_address(),
            lambda: engine_key(at),
            load or (lambda: engine),
            idle_seconds=idle_seconds,
            store=store,
            adapters=adapters,
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append(Running(server, engine, at, thread))
        return started[-1]

    yield start
    for running in started:
        running.engine.release.set()
        running.server.stop()
        running.thread.join(10)
        assert not running.thread.is_alive()


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


def test_two_fronts_share_one_engine(start: Start) -> None:
    running = start()
    one, two = running.front(), running.front()
    assert one.reply(one.ask("complete", request("a")))["result"]["suggestions"][0]["text"] == "done"
    assert two.reply(two.ask("prefill", request("b")))["result"] == 7
    assert running.engine.log == ["complete a", "prefill b"]


def test_two_homes_never_meet(start: Start, tmp_path: Path) -> None:
    one, two = start(), start(at=Home(tmp_path / "other", "ann"))
    front = one.front()
    front.reply(front.ask("complete", request("a")))
    assert (one.engine.log, two.engine.log) == (["complete a"], [])


def test_hello_and_status_are_answered_while_the_model_loads(start: Start) -> None:
    loaded = threading.Event()
    engine = SlowEngine()

    def load() -> worker.Serving:
        loaded.wait(10)
        return engine

    front = start(load).front()
    late = front.ask("complete", request("a"))
    hello = front.reply(front.send("hello"))["result"]
    assert hello["state"] == "loading"
    assert hello["pid"] > 0
    assert hello["version"]
    assert front.reply(front.send("status"))["result"]["state"] == "loading"
    loaded.set()
    assert front.kind(late) == "result"
    status = front.reply(front.send("status"))["result"]
    assert (status["state"], status["kernel"]) == ("ready", "none")


def test_a_newer_request_of_a_document_stops_the_older_one(start: Start) -> None:
    running = start()
    front = running.front()
    old = front.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    waiting = front.ask("complete", request("wait 2"))
    new = front.ask("complete", request("now"))
    assert [front.kind(n) for n in (old, waiting, new)] == ["Cancelled", "Cancelled", "result"]
    assert "complete wait 2" not in running.engine.log or "stopped wait 2" in running.engine.log


def test_the_newest_document_comes_first_and_completions_before_prefills(start: Start) -> None:
    running = start()
    front = running.front()
    front.ask("complete", request("wait", "first"))
    assert running.engine.began.wait(5)
    numbers = [
        front.ask("complete", request("older", "a")),
        front.ask("complete", request("newer", "b")),
        front.ask("prefill", request("warm", "c")),
    ]
    front.reply(front.send("hello"))
    running.engine.release.set()
    assert {front.kind(n) for n in numbers} == {"result"}
    assert running.engine.log == ["complete wait", "complete newer", "complete older", "prefill warm"]


def test_a_completion_interrupts_a_prefill_of_any_document(start: Start) -> None:
    running = start()
    front = running.front()
    warm = front.ask("prefill", request("wait", "a"))
    assert running.engine.began.wait(5)
    assert front.kind(front.ask("complete", request("now", "b"))) == "result"
    assert front.kind(warm) == "Cancelled"


def test_a_prefill_never_stops_a_completion(start: Start) -> None:
    running = start()
    front = running.front()
    shown = front.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    warm = front.ask("prefill", request("b"))
    front.reply(front.send("hello"))
    running.engine.release.set()
    assert (front.kind(shown), front.kind(warm)) == ("result", "result")


def test_a_cancelled_request_is_answered_fast_and_the_engine_is_free(start: Start) -> None:
    running = start()
    front = running.front()
    old = front.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    began = time.monotonic()
    front.send("cancel", target=old)
    assert front.kind(old) == "Cancelled"
    assert front.kind(front.ask("complete", request("now"))) == "result"
    assert time.monotonic() - began < 0.25


def test_a_front_that_dies_cancels_its_work(start: Start) -> None:
    running = start()
    dying, other = running.front(), running.front()
    dying.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    dying.ask("complete", request("queued", "other document"))
    ipc.hang_up(dying.connection)
    assert eventually(lambda: "stopped wait" in running.engine.log)
    assert other.kind(other.ask("complete", request("now"))) == "result"
    assert "complete queued" not in running.engine.log


def test_forgetting_a_document_stops_its_work_and_reaches_the_engine(start: Start) -> None:
    running = start()
    front = running.front()
    old = front.ask("complete", request("wait", "closed"))
    assert running.engine.began.wait(5)
    assert front.kind(front.send("forget", document="closed")) == "result"
    assert front.kind(old) == "Cancelled"
    assert running.engine.log[-1] == "forget closed"


def test_folders_and_documents_reach_the_engine(start: Start) -> None:
    running = start()
    front = running.front()
    folder, text = Folder("/w", ("*.sql",)), OpenText("file:///w/a.py", "x = 1\n", "/w/a.py", "/w")
    assert front.kind(front.send("open", folder=asdict(folder))) == "result"
    assert front.kind(front.send("observe", text=asdict(text))) == "result"
    assert running.engine.told == [folder, text]


def test_of_two_looks_at_a_document_the_newer_one_counts(start: Start) -> None:
    running = start()
    front = running.front()
    busy = front.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    older, newer = (front.send("observe", text=asdict(OpenText("d", text))) for text in ("old", "new"))
    assert front.kind(older) == "Cancelled"
    running.engine.release.set()
    assert front.kind(busy) == front.kind(newer) == "result"
    assert running.engine.told == [OpenText("d", "new")]


def test_bad_frames_and_operations_get_an_error_and_the_connection_lives(start: Start) -> None:
    front = start().front()
    front.connection.send_bytes(b"\xff{")
    assert front.kind(None) == "InputError"
    bad = [front.send("dance"), front.send("complete"), front.send("complete", request={"prefix": 3})]
    assert [front.kind(n) for n in bad] == ["InputError"] * 3
    assert front.kind(front.send("cancel", target={"no": "number"}) and front.send("hello")) == "result"


def test_a_fault_in_reading_one_frame_answers_that_request_and_no_other_suffers(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ipc.rebuild

    def rebuild(kind: type[Any], data: Any) -> Any:
        if data["prefix"] == "odd":
            raise AttributeError("def secret(): code of the person")
        return real(kind, data)

    running = start()
    front = running.front()
    waiting = front.ask("complete", request("wait", "another document"))
    assert running.engine.began.wait(5)
    monkeypatch.setattr(worker.ipc, "rebuild", rebuild)
    error = front.reply(front.ask("complete", request("odd")))["error"]
    assert (error["kind"], "AttributeError" in error["message"]) == ("EngineError", True)
    assert "secret" not in error["message"] + caplog.text
    running.engine.release.set()
    assert front.kind(waiting) == "result"
    assert not front.ended.is_set()


def test_a_fault_of_the_engine_is_one_sentence_without_the_persons_code(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    front = start().front()
    error = front.reply(front.ask("complete", request("crash")))["error"]
    assert error["kind"] == "EngineError"
    assert "secret" not in error["message"] + caplog.text
    assert "KeyError" in caplog.text
    assert front.kind(front.ask("complete", request("now"))) == "result"


def stored(made: list[SetStore]) -> Callable[[Callable[[], None]], SetStore]:
    """What makes a store for the server, and tells the test of it."""

    def make(pause: Callable[[], None]) -> SetStore:
        made.append(SetStore(pause))
        return made[-1]

    return make


def test_signals_reach_the_store_while_a_completion_runs(start: Start) -> None:
    made: list[SetStore] = []
    running = start(store=stored(made))
    front = running.front()
    busy = front.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    signals = [fate(), survival(), span(), typed(3)]
    assert front.reply(front.send("record", signals=ipc.flatten_signals(signals)))["result"] == {"trouble": ""}
    assert made[0].kept == signals
    assert front.reply(front.send("signals"))["result"] == {"accepted": 4}
    running.engine.release.set()
    assert front.kind(busy) == "result"


def test_the_store_gives_way_to_the_engine_once_there_is_one(start: Start) -> None:
    made: list[SetStore] = []
    loaded = threading.Event()
    engine = SlowEngine()

    def load() -> worker.Serving:
        loaded.wait(10)
        return engine

    front = start(load, store=stored(made)).front()
    made[0].pause()
    assert engine.log == []
    loaded.set()
    assert front.kind(front.ask("prefill", request("a"))) == "result"
    made[0].pause()
    assert engine.log[-1] == "gave way"


def test_the_store_s_trouble_is_told_with_every_record_and_in_the_status(start: Start) -> None:
    made: list[SetStore] = []
    front = start(store=stored(made)).front()
    assert "trouble" not in front.reply(front.send("status"))["result"]
    made[0].trouble = "The disk is full."
    assert front.reply(front.send("record", signals=[]))["result"] == {"trouble": "The disk is full."}
    assert front.reply(front.send("status"))["result"]["trouble"] == "The disk is full."


def test_signals_that_are_none_are_refused_as_a_whole(start: Start) -> None:
    made: list[SetStore] = []
    front = start(store=stored(made)).front()
    good = ipc.flatten_signals([typed(3)])
    bad: list[object] = [None, [3], [{"kind": "Suggestion"}], [{}], [*good, {"kind": "Typed"}]]
    assert [front.kind(front.send("record", signals=signals)) for signals in bad] == ["InputError"] * 5
    assert made[0].kept == []


def test_the_store_is_closed_at_the_end(start: Start) -> None:
    made: list[SetStore] = []
    running = start(store=stored(made))
    running.server.stop()
    running.thread.join(5)
    assert made[0].closed


def test_without_a_store_signals_are_answered_all_the_same(start: Start) -> None:
    front = start().front()
    assert front.reply(front.send("record", signals=ipc.flatten_signals([fate()])))["result"] == {"trouble": ""}
    assert front.reply(front.send("signals"))["result"] == {}


@pytest.fixture
def registry(home: Home, tiny_base: Path) -> Registry:
    """Two versions for the tiny base, none active."""
    registry, base = Registry(home, tiny_base), load_checkpoint(tiny_base)
    for seed in (1, 2):
        registry.add(random_lora(base, seed=seed), facts_of(base))
    return registry


def start_real(start: Start, registry: Registry) -> Front:
    """A server with a real engine."""
    settings = EngineSettings(base=str(registry.base), threads=1, kernel="float32")
    return start(lambda: Engine.load(settings, registry.folder), adapters=registry.folder).front()


def served_by(front: Front) -> str:
    """The adapter of one more completion, which must come."""
    asked = dataclasses.replace(request("def mean(values):\n    return "), max_tokens=2, budget_ms=60_000.0)
    return str(front.reply(front.ask("complete", asked))["result"]["adapter"])


def status(front: Front) -> dict[str, Any]:
    facts: dict[str, Any] = front.reply(front.send("status"))["result"]
    return facts


def test_completions_go_on_while_the_adapter_changes_and_the_last_one_pointed_to_stays(
    start: Start, registry: Registry
) -> None:
    front = start_real(start, registry)
    seen = [served_by(front)]
    for version in ("v1", "v2"):  # the second while the first is being prepared
        registry.activate(version)
        assert front.kind(front.send("adapter")) == "result"
        seen.append(served_by(front))
    assert eventually(lambda: seen.append(served_by(front)) or seen[-1] == "v2", 30)
    changes = [adapter for adapter, _ in itertools.groupby(seen)]
    assert changes in (["", "v2"], ["", "v1", "v2"])
    assert status(front)["adapter"] == "v2" and "trouble" not in status(front)


def test_a_changed_pointer_is_noticed_without_being_told(
    start: Start, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TICK", 0.02)
    registry.activate("v1")
    front = start_real(start, registry)
    assert served_by(front) == "v1"
    registry.activate(None)
    assert eventually(lambda: served_by(front) == "", 30)


def test_with_an_adapter_that_cannot_be_used_the_one_before_serves_on_and_all_are_told_why(
    start: Start, registry: Registry
) -> None:
    registry.activate("v1")
    front = start_real(start, registry)
    assert served_by(front) == "v1"
    (registry.folder / POINTER).write_text('{"version": "v7"}')
    front.reply(front.send("adapter"))
    assert eventually(lambda: "v7" in status(front).get("trouble", ""))
    assert served_by(front) == status(front)["adapter"] == "v1"
    assert "v7" in front.reply(front.send("record", signals=[]))["result"]["trouble"]


def test_without_adapters_the_pointer_is_nobody_s_concern(start: Start) -> None:
    front = start().front()
    assert front.kind(front.send("adapter")) == "result"


def test_a_base_that_cannot_be_loaded_answers_with_its_sentence_and_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TICK", 0.02)
    monkeypatch.setattr(worker, "FAILED_SECONDS", 0.3)

    def load() -> worker.Serving:
        raise MissingBaseError("There is no folder x.")

    running = start(load)
    front = running.front()
    for _ in range(2):
        number = front.ask("complete", request("a"))
        assert front.reply(number)["error"] == {
            "kind": "MissingBaseError",
            "message": "There is no folder x.",
        }
    assert front.reply(front.send("status"))["result"]["error"] == "There is no folder x."
    running.thread.join(5)
    assert not running.thread.is_alive()


def test_it_ends_when_idle_and_takes_its_socket_along(start: Start) -> None:
    running = start(idle_seconds=0.2)
    front = running.front()
    front.reply(front.ask("complete", request("a")))
    running.thread.join(5)
    assert not running.thread.is_alive()
    assert front.ended.wait(5)
    assert sys.platform == "win32" or not Path(running.home.engine_address()).exists()


def test_work_in_progress_is_not_idleness(start: Start) -> None:
    running = start(idle_seconds=0.2)
    front = running.front()
    number = front.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    time.sleep(0.5)
    running.engine.release.set()
    assert front.kind(number) == "result"


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are files on POSIX only")
def test_it_ends_when_its_socket_is_taken_away(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TICK", 0.02)
    running = start()
    Path(running.home.engine_address()).unlink()
    running.thread.join(5)
    assert not running.thread.is_alive()


def test_shutdown_is_answered_and_ends_it(start: Start) -> None:
    running = start()
    front = running.front()
    stuck = front.ask("complete", request("wait"))
    assert running.engine.began.wait(5)
    assert front.kind(front.send("shutdown")) == "result"
    running.thread.join(5)
    assert not running.thread.is_alive()
    assert front.ended.wait(5)
    assert front.kind(stuck) == "Cancelled"


HOLD = "import sys, time; from pathlib import Path; from habitab_engine.locks import locked\n"


def test_the_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = HOLD + "with locked(Path(sys.argv[1]), 0) as held:\n print(held, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert path.read_text() == str(holder.pid)
        with locked(path, 0.1) as held:
            assert not held
        holder.kill()
        holder.wait(5)
    with locked(path, 5) as held:
        assert held


def test_the_environment_keeps_libraries_offline_and_within_the_threads_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ: dict[str, str] = {}
    monkeypatch.setattr(worker.os, "environ", environ)
    worker.prepare_environment(EngineSettings(threads=3))
    assert environ["HF_HUB_OFFLINE"] == environ["TRANSFORMERS_OFFLINE"] == "1"
    assert environ["OMP_NUM_THREADS"] == "3" and "OMP_WAIT_POLICY" not in environ
    worker.prepare_environment(EngineSettings(threads=3), learning=True)
    assert environ["OMP_WAIT_POLICY"] == "passive"


def test_threads_are_at_most_four_unless_set() -> None:
    assert 1 <= thread_count(EngineSettings()) <= 4
    assert thread_count(EngineSettings(threads=9)) == 9


@pytest.mark.parametrize("settings", ["{", '{"threads": "many"}'])
def test_bad_arguments_are_one_sentence(settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main(["--home", str(tmp_path), "--user", "ann", "--settings", settings]) == 1
    assert capsys.readouterr().err.count("\n") == 1
