"""What recording costs: each of its steps, and a warm completion in turns alone and right behind a signal of 24 kB."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from habitab_engine import ipc
from habitab_engine.link import EngineLink
from habitab_engine.types import CompletionRequest, Fate
from habitab_server.bench import median, quantile
from habitab_server.documents import Document
from habitab_server.feedback import Feedback, Item
from habitab_server.follow import Made
from habitab_server.scope import Scope

TIMES, EVERY = 60, 7
KEYS, KEYS_A_LINE, KEYS_A_SECOND, LINES = 2_000, 40, 5, 2_000
REST_SECONDS = 0.5  # in which what was recorded is written


async def measure(link: EngineLink, requests: Iterator[CompletionRequest]) -> dict[str, Any]:
    """Milliseconds: p95 of a keystroke in the front and of a signal in the engine; p95 of a completion alone and
    beside, and the median of the differences."""
    keys, signals = list(_keystrokes()), []
    alone: list[float] = []
    beside: list[float] = []
    for number, request in enumerate(islice(requests, 0, TIMES * EVERY, EVERY)):
        await link.complete(request)
        signals.append(_reading(request, number))
        for records in ((False, True), (True, False))[number % 2]:
            sent = asyncio.ensure_future(link.record([_signal(request, number)])) if records else None
            await asyncio.sleep(0)
            began = time.perf_counter()
            await link.complete(request)
            (beside if records else alone).append((time.perf_counter() - began) * 1000)
            if sent is not None:
                await sent
            await asyncio.sleep(REST_SECONDS)
    return {
        "recording_keystroke_p95_ms": round(quantile(keys, 0.95), 3),
        "recording_signal_p95_ms": round(quantile(signals, 0.95), 3),
        "recording_alone_p95_ms": round(quantile(alone, 0.95), 2),
        "recording_beside_p95_ms": round(quantile(beside, 0.95), 2),
        "recording_added_ms": round(median([b - a for a, b in zip(alone, beside, strict=True)]), 2),
    }


def _keystrokes() -> Iterator[float]:
    """Milliseconds that the front's state machine takes for each key, with the request, a reply that the next key
    contradicts, and once a second what time alone brings."""
    now = 0.0
    document = Document("untitled:bench", "python", 1, "value = other\n" * LINES)
    feedback = Feedback(Scope(), lambda signals: None, lambda: None, clock=lambda: now)
    for number in range(KEYS):
        line, column = divmod(number, KEYS_A_LINE)
        edit = document.change(number + 2, "x", (line, column, line, column))
        place, now = edit.reached, number / KEYS_A_SECOND
        made = Made(str(number), CompletionRequest(document.uri, "", "", ""), place, f"y{number} + z")
        began = time.perf_counter()
        feedback.edited(document, edit)
        feedback.changed(document)
        feedback.asked(document, place)
        feedback.offered(document, document.version, [Item(made, made.text, place, place)])
        if number % KEYS_A_SECOND == 0:
            feedback.tick()
        yield (time.perf_counter() - began) * 1000


def _reading(request: CompletionRequest, number: int) -> float:
    """Milliseconds that the engine's reader takes for a signal."""
    frame = ipc.encode({"signals": ipc.flatten_signals([_signal(request, number)])})
    began = time.perf_counter()
    ipc.rebuild_signals(ipc.decode(frame)["signals"])
    return (time.perf_counter() - began) * 1000


def _signal(request: CompletionRequest, number: int) -> Fate:
    """As large as a front sends one."""
    return Fate(
        id=f"bench-{number}",
        when=time.time(),
        root=request.root,
        path=request.path,
        language=request.language,
        trusted=True,
        automatic=True,
        base="",
        adapter="",
        prefix=request.prefix[-16_000:],
        suffix=request.suffix[:8_000],
        snippets=(),
        text="return None",
        logprobs=(-0.1,) * 5,
        probability=0.9,
        reason="",
        latency_ms=40.0,
        outcome="accepted",
        screen_ms=900.0,
        accepted=11,
        inserted="return None",
        instead="",
        around=request.prefix[-400:],
    )
