"""What recording costs a completion: the same warm request in turns, alone and right behind a signal of 24 kB."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from habitab_engine.link import EngineLink
from habitab_engine.types import CompletionRequest, Fate
from habitab_server.bench import median, quantile

TIMES, EVERY = 60, 7
REST_SECONDS = 0.5  # in which what was recorded is written


async def measure(link: EngineLink, requests: Iterator[CompletionRequest]) -> dict[str, Any]:
    """Milliseconds: p95 of both, and the median of the differences."""
    alone: list[float] = []
    beside: list[float] = []
    for number, request in enumerate(islice(requests, 0, TIMES * EVERY, EVERY)):
        await link.complete(request)
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
        "recording_alone_p95_ms": round(quantile(alone, 0.95), 2),
        "recording_beside_p95_ms": round(quantile(beside, 0.95), 2),
        "recording_added_ms": round(median([b - a for a, b in zip(alone, beside, strict=True)]), 2),
    }


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
