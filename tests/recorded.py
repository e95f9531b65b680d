"""Signals as a front would send them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from habitab_engine.types import Fate, Snippet, Span, Survival, Typed


def fate(name: str = "s1", **changes: Any) -> Fate:
    """A suggestion that was accepted as it was, now."""
    fields: dict[str, Any] = {
        "id": name, "when": time.time(), "root": "/w", "path": "src/a.py", "language": "python", "trusted": True,
        "automatic": True, "base": "b1", "adapter": "", "prefix": "def area(r):\n    ", "suffix": "\n",
        "snippets": (Snippet("src/b.py", "PI = 3.14"),), "text": "return PI * r * r", "logprobs": (-0.1, -0.25),
        "probability": 0.7, "reason": "", "latency_ms": 50.0, "outcome": "accepted", "screen_ms": 900.0, "accepted": 17,
        "inserted": "return PI * r * r", "instead": "", "around": "def area(r):\n    return PI * r * r\n",
    }  # fmt: skip
    return Fate(**(fields | changes))


def survival(name: str = "s1", at: str = "120", text: str = "return PI * r * r", **changes: Any) -> Survival:
    return Survival(**({"id": name, "at": at, "when": time.time(), "text": text, "around": text} | changes))


def span(before: str = "x = 1", after: str = "x = 2", **changes: Any) -> Span:
    fields: dict[str, Any] = {
        "when": time.time(), "root": "/w", "path": "src/a.py", "language": "python", "line": 3, "column": 4,
        "before": before, "after": after, "around": after,
    }  # fmt: skip
    return Span(**(fields | changes))


def typed(characters: int, language: str = "python", when: float | None = None) -> Typed:
    return Typed(time.time() if when is None else when, language, characters)


def rows(path: Path, table: str = "suggestions") -> list[dict[str, Any]]:
    """What another process reads in the file."""
    connection = sqlite3.connect(path)
    try:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")]
    finally:
        connection.close()
