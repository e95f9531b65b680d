"""The front's end of the engine: starts it when needed, asks it and outlives it. Never imports torch."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from multiprocessing import connection as mp
from typing import Any, TypeVar

from habitab_engine import __version__, ipc
from habitab_engine.config import EngineSettings
from habitab_engine.errors import BaseModelError, Cancelled, EngineError, HabitabError
from habitab_engine.home import Home
from habitab_engine.starter import Starter
from habitab_engine.types import Completion, CompletionRequest, Folder, OpenText, Signal

T = TypeVar("T")

# Seconds for any reply, a model being loaded included.
REPLY_SECONDS = 60.0
# Seconds for an engine to end after it was asked to.
END_SECONDS = 10.0
# A request rather waits this many seconds for an engine that may be started again than fails.
_PATIENCE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


class _LostError(EngineError):
    """The connection ended before the reply."""


class EngineLink:
    """One front's way to the engine process that all fronts of `home` share.

    To be used from one event loop. Nothing is started before the first request (or `start`).
    """

    def __init__(self, home: Home, settings: EngineSettings | None = None) -> None:
        self._starter = Starter(home, settings or EngineSettings())
        self._pauses = _Pauses()
        self._session: _Session | None = None
        self._opening: asyncio.Task[_Session] | None = None
        self._may_replace = True
        # Called at each new connection: that engine knows neither folders nor documents.
        self.on_connected: Callable[[], None] = lambda: None

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask for suggestions. Cancelling the awaiting task stops the engine within a token.

        Raises Cancelled where a newer request for the same document took its place, BaseModelError where the
        base cannot be served, EngineError where the engine cannot be started or does not answer.
        """
        return ipc.rebuild(Completion, await self._ask("complete", request=dataclasses.asdict(request)))

    async def prefill(self, request: CompletionRequest) -> int:
        """Warm the KV cache for `request`; the number of prompt tokens taken. Raises as `complete` does."""
        return int(await self._ask("prefill", request=dataclasses.asdict(request)))

    async def open_folder(self, folder: Folder) -> None:
        """Have a workspace folder indexed in the background; starts no engine."""
        await self._tell("open", folder=dataclasses.asdict(folder))

    async def observe(self, text: OpenText) -> None:
        """Tell how a document looks now; starts no engine."""
        await self._tell("observe", text=dataclasses.asdict(text))

    async def forget(self, document: str) -> None:
        """Drop what the engine keeps of a document that was closed or renamed; starts no engine."""
        await self._tell("forget", document=document)

    async def record(self, signals: Sequence[Signal]) -> str:
        """Have signals kept; return what troubles their store, or the active adapter, or "".

        Starts no engine and raises nothing: where none runs, or it ends just now, the signals are lost.
        """
        reply = await self._ask_running("record", signals=ipc.flatten_signals(signals))
        return str(reply.get("trouble", ""))

    async def signal_stats(self) -> dict[str, Any]:
        """The figures of `habitab signals stats`; empty where no engine runs."""
        return await self._ask_running("signals")

    async def look_at_adapter(self) -> None:
        """Have a running engine look now which adapter is active, and try one again that it could not use.

        It looks by itself every two seconds. Starts no engine and raises nothing.
        """
        await self._ask_running("adapter")

    async def status(self) -> dict[str, Any]:
        """Facts of the engine, at least `state` (`stopped`, `loading`, `ready`, `failed`) and maybe `error`.

        Starts no engine.
        """
        try:
            async with self._borrowed() as session:
                return dict(await session.request("status"))
        except EngineError:
            trouble = {"error": self._pauses.trouble} if self._pauses.trouble else {}
            return {"state": "stopped"} | trouble

    async def start(self) -> None:
        """Have an engine running (its model may still be loading). Raises EngineError."""
        await self._connected()

    async def shutdown(self) -> None:
        """Ask a running engine to end; starts none."""
        # An EngineError: there is none.
        with contextlib.suppress(EngineError):
            async with self._borrowed() as session:
                await session.shut_engine_down()

    async def close(self) -> None:
        """Leave the engine to the other fronts."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[_Session]:
        """Our session, or one to the running engine for this purpose only; raises EngineError without one."""
        if self._session is not None:
            yield self._session
            return
        session = _Session(await _in_thread(self._starter.connect_to_running))
        try:
            yield session
        finally:
            await session.close()

    async def _ask_running(self, op: str, **fields: Any) -> dict[str, Any]:
        """The reply of the running engine; nothing where there is none, or none of our version."""
        try:
            async with self._borrowed() as session:
                return dict(await session.request(op, **fields))
        except HabitabError:
            return {}

    async def _tell(self, op: str, **fields: Any) -> None:
        """What only matters to an engine that runs; one that ends, or got news meanwhile, need not know."""
        with contextlib.suppress(_LostError, Cancelled):
            if self._session is not None:
                await self._session.request(op, **fields)

    async def _ask(self, op: str, **fields: Any) -> Any:
        try:
            return await self._ask_once(op, fields)
        except _LostError:
            # It died with our request, or ended idle just before it: the next one answers.
            return await self._ask_once(op, fields)

    async def _ask_once(self, op: str, fields: ipc.Message) -> Any:
        session = await self._connected()
        try:
            result = await session.request(op, **fields)
        except BaseModelError as exc:
            self._pauses.trouble = str(exc)
            raise
        self._pauses.worked()
        return result

    async def _connected(self) -> _Session:
        """The session there is, or one that all who wait for it open together."""
        if self._session is not None:
            return self._session
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[_Session]) -> None:
        self._opening = None
        if not task.cancelled() and task.exception() is not None:
            self._pauses.failed(str(task.exception()))

    async def _open(self) -> _Session:
        await self._pauses.wait()
        while True:
            session = _Session(await _in_thread(self._starter.connect), self._on_end)
            try:
                if await self._suits(session):
                    self._session = session
                    self.on_connected()
                    return session
                await session.shut_engine_down()
            finally:
                if self._session is not session:
                    await session.close()

    async def _suits(self, session: _Session) -> bool:
        """Whether the engine has our version, or another one was ended by us before.

        Two fronts of two versions would otherwise end each other's engine at every keystroke; and an
        engine of another version understands us well enough.
        """
        facts = await session.request("hello")
        self._starter.settle(facts.get("pid"))
        suits = facts.get("version") == __version__ or not self._may_replace
        self._may_replace = suits and self._may_replace
        return suits

    def _on_end(self, session: _Session, unanswered: bool) -> None:
        if session is not self._session:
            return
        self._session = None
        if unanswered or session.fruitless:
            self._pauses.failed(self._pauses.trouble or "The engine ended unexpectedly: see logs/engine.log.")


class _Session:
    """One connection to an engine; lives in the loop, its channel's reader delivers into it."""

    def __init__(
        self,
        connection: mp.Connection,
        on_end: Callable[[_Session, bool], None] = lambda _session, _lost: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ended = asyncio.Event()
        self._asked = self._served = False
        self._channel = ipc.Channel(connection, self._on_frame, lambda: self._call(self._end))
        self._channel.start()

    @property
    def fruitless(self) -> bool:
        """Whether it was asked for work and never did any."""
        return self._asked and not self._served

    async def request(self, op: str, **fields: Any) -> Any:
        """The result of `op`; raises what the engine replied, or EngineError (_LostError at its end)."""
        if self._ended.is_set():
            raise _LostError("The engine ended: see logs/engine.log.")
        number, reply = next(self._numbers), self._loop.create_future()
        self._waiting[number] = reply
        self._asked |= op in ("complete", "prefill")
        self._channel.send({"id": number, "op": op, **fields})
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                return await reply
        except asyncio.CancelledError:
            self._channel.send({"id": next(self._numbers), "op": "cancel", "target": number})
            raise
        except TimeoutError as exc:
            self._channel.close()
            # Now, not when its reader notices: the next request must not land in the closed channel.
            self._end()
            raise EngineError(f"The engine did not answer within {REPLY_SECONDS:.0f} seconds.") from exc
        finally:
            self._waiting.pop(number, None)

    async def shut_engine_down(self) -> None:
        """Ask the engine to end and wait until it has hung up, or long enough."""
        with contextlib.suppress(_LostError, TimeoutError):
            await self.request("shutdown")
            await asyncio.wait_for(self._ended.wait(), END_SECONDS)

    async def close(self) -> None:
        """Hang up; an engine that hangs holds nobody up for more than a second."""
        self._channel.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), 1.0)

    def _on_frame(self, frame: bytes) -> None:
        message = ipc.decode(frame)
        self._call(self._deliver, message)

    def _call(self, act: Callable[..., None], *args: object) -> None:
        """In the loop's thread; not at all where the loop is closed, for nobody waits then."""
        try:
            self._loop.call_soon_threadsafe(act, *args)
        except RuntimeError:
            self._channel.close()

    def _deliver(self, message: ipc.Message) -> None:
        reply = self._waiting.get(message.get("id", 0))
        if reply is None or reply.done():
            return
        if "error" in message:
            reply.set_exception(ipc.to_error(message["error"]))
        else:
            self._served |= self._asked
            reply.set_result(message.get("result"))

    def _end(self) -> None:
        self._ended.set()
        waiting = [reply for reply in self._waiting.values() if not reply.done()]
        for reply in waiting:
            reply.set_exception(_LostError("The engine ended while it was answering: see logs/engine.log."))
        self._on_end(self, bool(waiting))


class _Pauses:
    """Keeps an engine that fails again and again from being started in a loop."""

    def __init__(self) -> None:
        self.trouble = ""
        self._failures = 0
        self._not_before = 0.0

    async def wait(self) -> None:
        """Until a start is allowed; raises EngineError with the last trouble if that is long."""
        pause = self._not_before - time.monotonic()
        if pause > _PATIENCE_SECONDS:
            raise EngineError(self.trouble)
        await asyncio.sleep(max(0.0, pause))

    def failed(self, trouble: str) -> None:
        """The first failure is free; then 0.5, 1, 2, 4 … 60 seconds."""
        self.trouble = trouble
        if time.monotonic() < self._not_before:
            return
        pause = 0.25 * 2**self._failures if self._failures else 0.0
        self._failures = min(self._failures + 1, 10)
        self._not_before = time.monotonic() + min(pause, _LONGEST_PAUSE_SECONDS)

    def worked(self) -> None:
        self.trouble = ""
        self._failures = 0


async def _in_thread(act: Callable[[], mp.Connection]) -> mp.Connection:
    """The result of a blocking `act`. A daemon thread: an engine that hangs must not hold up our exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[mp.Connection] = loop.create_future()

    def settle(connection: mp.Connection | None, error: Exception | None) -> None:
        if done.cancelled():
            if connection is not None:
                connection.close()
        elif error is not None:
            done.set_exception(error)
        elif connection is not None:
            done.set_result(connection)

    def run() -> None:
        connection, error = None, None
        try:
            connection = act()
        except Exception as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(settle, connection, error)
        except RuntimeError:
            # The loop is closed: nobody waits.
            if connection is not None:
                connection.close()

    threading.Thread(target=run, name="habitab-connect", daemon=True).start()
    return await done


def with_engine(home: Home, settings: EngineSettings, act: Callable[[EngineLink], Awaitable[T]]) -> T:
    """Run `act` with a link from code that is not asynchronous."""

    async def run() -> T:
        link = EngineLink(home, settings)
        try:
            return await act(link)
        finally:
            await link.close()

    return asyncio.run(run())
