"""The one engine process of a person: requests from all windows, one thread that owns the model.

`python -m habitab_engine.worker --home DIR --user NAME --settings JSON`, started by `link.py`. It ends itself
when nobody asked for a while, when its socket was taken away, and soon after its model could not be loaded.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from multiprocessing import connection as mp
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from habitab_engine import __version__, ipc
from habitab_engine.config import EngineSettings, thread_count
from habitab_engine.errors import Cancelled, EngineError, HabitabError, InputError
from habitab_engine.home import Home, engine_key, open_log
from habitab_engine.jobs import Client, Job, Jobs
from habitab_engine.locks import locked
from habitab_engine.swaps import Swaps, Wearing
from habitab_engine.trim import trim
from habitab_engine.types import Completion, CompletionRequest, Folder, OpenText, Signal

# Seconds between two looks at the clock and the socket file.
TICK = 2.0
# Seconds an engine without a model stays to say why; then a repaired base is picked up by the next one.
FAILED_SECONDS = 5.0
# Seconds to wait for a predecessor that is going.
SWITCH_SECONDS = 0.0005
LOCK_SECONDS = 10.0
# Seconds the model's thread gets to stop at the end.
JOIN_SECONDS = 2.0


class Serving(Wearing, Protocol):
    """What the server needs of `engine.Engine`."""

    def complete(self, request: CompletionRequest, stop: threading.Event) -> Completion: ...
    def prefill(self, request: CompletionRequest, stop: threading.Event) -> int: ...
    def open_folder(self, folder: Folder) -> None: ...
    def observe(self, text: OpenText) -> None: ...
    def forget(self, document: str) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def exchange(self, prepared: Any) -> object: ...


class Storing(Protocol):
    """What the server needs of `signals.SignalStore`; every method may be called from any thread."""

    @property
    def trouble(self) -> str: ...
    def record(self, signals: Sequence[Signal]) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Server:
    """Serves `address` with the engine that `load` returns.

    `key` gives the secret of the handshake at each connection; `load` may raise any exception: its
    sentence is then the answer to every request. `store` makes what keeps the signals, given what waits for a
    completion to end; without it none are kept. `adapters` is the folder whose pointer the engine follows.
    """

    def __init__(
        self,
        address: str,
        key: Callable[[], bytes],
        load: Callable[[], Serving],
        *,
        base: str = "",
        idle_seconds: float = 1800.0,
        served_version: str = "",
        log: logging.Logger | None = None,
        store: Callable[[Callable[[], None]], Storing] | None = None,
        adapters: Path | None = None,
    ) -> None:
        self._key = key
        self._load = load
        self._idle_seconds = idle_seconds
        self._log = log or logging.getLogger("habitab.engine")
        self._facts = {"version": served_version or __version__, "pid": os.getpid(), "base": base}
        self._listener = ipc.Listener(address)
        self._give_way: Callable[[], None] = lambda: None
        self._store = store(lambda: self._give_way()) if store else None
        self._adapters = adapters
        self._swaps: Swaps | None = None
        self._jobs = Jobs()
        self._clients: set[Client] = set()
        self._over = threading.Event()
        self._failure: HabitabError | None = None
        self._state = "loading"
        self._untidy = False  # since the last look around
        self._ends_at = time.monotonic() + idle_seconds
        self._model = threading.Thread(target=self._own_model, name="habitab-model", daemon=True)

    def run(self) -> None:
        """Serve until idle, stopped or replaced."""
        threading.Thread(target=self._accept, name="habitab-accept", daemon=True).start()
        self._model.start()
        self._log.info("started, version %s", self._facts["version"])
        try:
            while not self._over.wait(min(TICK, self._idle_seconds / 4)):
                self._look_around()
        finally:
            self._end()

    def stop(self) -> None:
        """End `run` soon; not for signal handlers: the event's lock may be held by what they interrupt."""
        self._over.set()

    @property
    def stuck(self) -> bool:
        """Whether the model's thread, or the one that prepares another, did not stop when it was told to."""
        return self._model.is_alive() or (self._swaps is not None and self._swaps.busy)

    def _end(self) -> None:
        self._log.info("ending")
        self._over.set()
        self._listener.close()
        self._jobs.close()
        self._model.join(JOIN_SECONDS)
        if self._swaps is not None:
            self._swaps.close()
        if self._store is not None:
            self._store.close()
        # What still waited is asked again by its front, of the next engine.
        for client in list(self._clients):
            client.channel.close()

    def _look_around(self) -> None:
        swapping = self._swaps is not None and self._swaps.busy
        self._untidy |= swapping
        if self._jobs.busy:
            self._used()
        elif self._untidy and not swapping:
            self._untidy = False
            trim()
        if self._swaps is not None:
            self._swaps.look()
        if time.monotonic() >= self._ends_at:
            self._over.set()
        if not self._listener.is_ours():
            self._log.info("the socket was taken away")
            self._over.set()

    def _used(self) -> None:
        self._untidy = True
        if self._failure is None:
            self._ends_at = time.monotonic() + self._idle_seconds

    # ---- the fronts ----

    def _accept(self) -> None:
        while not self._over.is_set():
            connection = self._listener.accept()
            if connection is None:
                # Closed; or out of file descriptors, which a pause may mend.
                self._over.wait(0.1)
                continue
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: mp.Connection) -> None:
        if not ipc.greet(connection, self._key):
            return
        client = Client()
        on_frame = functools.partial(self._on_frame, client)
        client.channel = ipc.Channel(connection, on_frame, functools.partial(self._on_end, client))
        self._clients.add(client)
        client.channel.start()

    def _on_end(self, client: Client) -> None:
        self._clients.discard(client)
        self._jobs.withdraw(lambda job: job.client is client)

    def _on_frame(self, client: Client, frame: bytes) -> None:
        number: object = None
        try:
            message = ipc.decode(frame)
            number = message.get("id")
            self._handle(client, number, message)
        except HabitabError as exc:
            client.fail(number, exc)
        except Exception as exc:
            # Whatever one frame does, the connection and all that others wait for must outlive it.
            client.fail(number, self._unexpected("reading a request", exc))

    def _handle(self, client: Client, number: object, message: ipc.Message) -> None:
        op = message.get("op")
        match op:
            case "hello":
                client.reply(number, self._facts | {"state": self._state})
            case "cancel":
                self._cancel(client, message.get("target"))
            case "shutdown":
                client.reply(number, {})
                self._over.set()
            case "status" if self._state != "ready":
                client.reply(number, self._status({}))
            case "adapter":
                if self._swaps is not None:
                    self._swaps.look(again=True)
                client.reply(number, {})
            case "record":
                client.reply(number, {"trouble": self._record(message.get("signals"))})
            case "signals":
                client.reply(number, self._store.stats() if self._store else {})
            case "complete" | "prefill" | "open" | "observe" | "forget" | "status":
                self._submit(_job(client, number, op, message))
            case _:
                raise InputError(f"The engine knows no operation {op!r}.")

    def _cancel(self, client: Client, target: object) -> None:
        gone = self._jobs.withdraw(lambda job: job.client is client and job.number == target)
        _answer_cancelled(gone)

    def _record(self, signals: object) -> str:
        """Hand signals to the store, which writes them in its own time; return what is in trouble, or ""."""
        if self._store is not None:
            self._store.record(ipc.rebuild_signals(signals))
        return self._trouble

    def _submit(self, job: Job) -> None:
        if job.op in ("complete", "prefill"):
            self._used()
        _answer_cancelled(self._jobs.submit(job))

    # ---- the model's thread ----

    def _own_model(self) -> None:
        engine = self._loaded()
        while (job := self._jobs.take()) is not None:
            try:
                job.client.reply(job.number, self._do(engine, job))
            except HabitabError as exc:
                job.client.fail(job.number, exc)
            except Exception as exc:
                job.client.fail(job.number, self._unexpected("answering", exc))

    def _loaded(self) -> Serving | None:
        began = time.monotonic()
        try:
            engine = self._load()
        except HabitabError as exc:
            self._failure = exc
        except Exception as exc:
            self._failure = self._unexpected("loading the model", exc)
        else:
            self._state = "ready"
            self._give_way = engine.give_way
            if self._adapters is not None:
                self._swaps = Swaps(self._adapters, engine, self._jobs.submit, self._unexpected, self._log)
            self._log.info("model loaded in %.2f s", time.monotonic() - began)
            return engine
        self._state = "failed"
        self._log.error("no model: %s", self._failure)
        self._ends_at = time.monotonic() + FAILED_SECONDS
        return None

    def _do(self, engine: Serving | None, job: Job) -> object:
        if engine is None:
            raise self._failure or EngineError("The engine has no model.")
        if job.op == "forget":
            engine.forget(job.document)
            return None
        if job.op == "swap":
            self._untidy = True  # what served before is freed now
            return engine.exchange(job.prepared)
        match job.request:
            case Folder():
                engine.open_folder(job.request)
                return None
            case OpenText():
                engine.observe(job.request)
                return None
            case None:
                return self._status(engine.status())
        if job.stop.is_set():
            raise Cancelled("A newer request took its place.")
        if job.op == "prefill":
            return engine.prefill(job.request, job.stop)
        return asdict(engine.complete(job.request, job.stop))

    def _status(self, engine_facts: dict[str, Any]) -> dict[str, Any]:
        facts = self._facts | {"state": self._state, "clients": len(self._clients)} | engine_facts
        facts |= {"trouble": self._trouble} if self._trouble else {}
        return facts | ({"error": str(self._failure)} if self._failure else {})

    @property
    def _trouble(self) -> str:
        """What is amiss though completions are served, or ""."""
        return " ".join(part.trouble for part in (self._store, self._swaps) if part and part.trouble)

    def _unexpected(self, act: str, exc: Exception) -> EngineError:
        """Logged without its text, which may quote the person's code."""
        frames = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(exc.__traceback__)]
        self._log.error("%s failed: %s at %s", act, type(exc).__name__, " < ".join(reversed(frames)))
        return EngineError(f"The engine failed while {act} ({type(exc).__name__}): see logs/engine.log.")


def _job(client: Client, number: object, op: str, message: ipc.Message) -> Job:
    if op == "status":
        return Job(client, number, op)
    if op == "forget":
        return Job(client, number, op, document=str(message.get("document", "")))
    if op == "open":
        folder = ipc.rebuild(Folder, message.get("folder"))
        return Job(client, number, op, folder.root, folder)
    if op == "observe":
        text = ipc.rebuild(OpenText, message.get("text"))
        return Job(client, number, op, text.document, text)
    request = ipc.rebuild(CompletionRequest, message.get("request"))
    return Job(client, number, op, request.document, request)


def _answer_cancelled(jobs: list[Job]) -> None:
    for job in jobs:
        job.client.fail(job.number, Cancelled("A newer request took its place."))


# ---- the process ----


def prepare_environment(settings: EngineSettings, learning: bool = False) -> None:
    """Before torch is imported: nothing leaves the machine, and as many threads as the settings say.

    How long OpenMP's threads spin is left as it is: shorter loops save a machine full of such programs, but where
    waking a thread is slow they made a token five times slower (both measured). Where something is `learning` they
    sleep at once: operations are long, and between them the threads of the compiled products want the cores.
    """
    threads = str(settings.threads)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    if learning:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _load_engine(settings: EngineSettings, adapters: Path) -> Serving:
    # Torch's many thousand objects are here to stay: without a look at each of them it starts sooner.
    gc.disable()
    from habitab_engine.engine import Engine

    gc.freeze()
    gc.enable()
    # The model's thread waits no longer than this for threads that read files, index and listen; 5 ms is Python's way.
    sys.setswitchinterval(SWITCH_SECONDS)
    return Engine.load(settings, adapters)


def _open_store(home: Home, settings: EngineSettings, log: logging.Logger, pause: Callable[[], None]) -> Storing:
    from habitab_engine.signals import SignalStore

    return SignalStore(home.signals_file, settings.signal_days, settings.signal_megabytes, pause, log)


def _arguments(argv: list[str] | None) -> tuple[Home, EngineSettings]:
    parser = argparse.ArgumentParser(prog="habitab_engine.worker")
    parser.add_argument("--home", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--settings", default="{}", help="EngineSettings as JSON")
    options = parser.parse_args(argv)
    settings = ipc.rebuild(EngineSettings, json.loads(options.settings))
    return Home.locate(options.home, options.user), settings


def serve(home: Home, settings: EngineSettings) -> None:
    """Be the engine process of `home`, unless there is one already."""
    log = open_log(home, "engine")
    address = home.engine_address(settings.base)
    is_served = functools.partial(ipc.is_served, address)
    with locked(home.engine_lock(address), LOCK_SECONDS, is_served) as held:
        if not held:
            return
        settings = replace(settings, threads=thread_count(settings))
        prepare_environment(settings)
        server = Server(
            address,
            functools.partial(engine_key, home),
            functools.partial(_load_engine, settings, home.adapters),
            base=settings.base,
            idle_seconds=settings.idle_minutes * 60,
            log=log,
            store=functools.partial(_open_store, home, settings, log),
            adapters=home.adapters,
        )

        signal.signal(signal.SIGTERM, _on_signal)
        signal.signal(signal.SIGINT, _on_signal)
        try:
            server.run()
        finally:
            if server.stuck:
                # Deep in a library call (an import, say): unwinding the interpreter under it could hang.
                logging.shutdown()
                os._exit(0)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    """End the process through the `finally` clauses, which another signal must not interrupt."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def main(argv: list[str] | None = None) -> int:
    try:
        home, settings = _arguments(argv)
        home.prepare()
        serve(home, settings)
    except (HabitabError, OSError, ValueError) as exc:
        print(f"habitab: the engine cannot start: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
