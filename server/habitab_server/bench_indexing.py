"""What indexing a folder costs: the same completion again and again before the folder is opened, and meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

from habitab_engine.errors import EngineError
from habitab_engine.link import EngineLink
from habitab_engine.types import CompletionRequest
from habitab_server.bench import median

TYPED = ("r", "re", "ret", "retu")
PREFIX = (
    "class Vector:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n\n"
    "    def __add__(self, other):\n        return Vector(self.x + other.x, self.y + other.y)\n\n"
    "    def __sub__(self, other):\n        "
)
QUIET_TIMES = 30
PAUSE_SECONDS = 0.2  # a person types five keys a second
LONGEST_SECONDS = 600.0


async def measure(link: EngineLink, open_folder: Callable[[], None]) -> dict[str, Any]:
    """The figures of the folder that `open_folder` opens. Raises EngineError if it takes longer than ten minutes."""
    await _complete(link, TYPED[0])
    quiet = [await _complete(link, typed) for typed, _ in zip(itertools.cycle(TYPED), range(QUIET_TIMES), strict=False)]
    before, began = await link.status(), time.perf_counter()
    open_folder()
    meanwhile: list[float] = []
    for typed in itertools.cycle(TYPED):
        meanwhile.append(await _complete(link, typed))
        status, seconds = await link.status(), time.perf_counter() - began
        if status["indexed"] and status["indexed_files"]:
            break
        if seconds > LONGEST_SECONDS:
            raise EngineError("The folder was not indexed within ten minutes: close other programs and try again.")
    return {
        "indexed_files": status["indexed_files"],
        "index_seconds": round(seconds, 1),
        "index_mb": round((status["rss_bytes"] - before["rss_bytes"]) / 1e6, 1),
        "indexing_slowdown": round(median(meanwhile) / median(quiet), 3),
    }


async def _complete(link: EngineLink, typed: str) -> float:
    """Seconds that the engine takes behind what was typed, and a pause after it."""
    request = CompletionRequest("bench:indexing", "vector.py", PREFIX + typed, "\n", sources=(), multiline=False)
    began = time.perf_counter()
    await link.complete(request)
    spent = time.perf_counter() - began
    await asyncio.sleep(PAUSE_SECONDS)
    return spent
