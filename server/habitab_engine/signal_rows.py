"""What of a signal is kept: one row, without any text where a secret stands in it or around it; pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from habitab_engine.likeness import similarity
from habitab_engine.types import Fate, Signal, Span, Survival, Typed

Row = dict[str, Any]
Holds = Callable[[str], bool]

# Characters of prefix and suffix that a prompt may reach: four times its tokens and more.
PREFIX_CHARACTERS, SUFFIX_CHARACTERS = 6_000, 2_000
# The columns that are emptied where a secret was found.
_TEXTS = ("prefix", "suffix", "snippets", "text", "inserted", "instead", "logprobs", "before", "after")


def row_of(signal: Signal, holds_secret: Holds, inserted: str) -> tuple[str, Row]:
    """The table and the row of `signal`; `inserted` is what a survival's suggestion put into the document."""
    match signal:
        case Fate():
            return "suggestions", _fate(signal, holds_secret)
        case Survival():
            return "survivals", _survival(signal, holds_secret, inserted)
        case Span():
            return "spans", _span(signal, holds_secret)
        case Typed():
            return "typed", {"day": _day(signal.when), "language": signal.language, "characters": signal.characters}


def without_text(row: Row) -> Row:
    """The same row with its numbers alone."""
    return row | {name: "" for name in _TEXTS if name in row} | {"withheld": 1}


def _fate(fate: Fate, holds_secret: Holds) -> Row:
    prefix, suffix = _last_lines(fate.prefix), _first_lines(fate.suffix)
    # A secret may be half in the prefix and half in what follows.
    wholes = [prefix + middle + suffix for middle in dict.fromkeys(("", fate.text, fate.inserted, fate.instead))]
    others = [text for snippet in fate.snippets for text in (snippet.path, snippet.text)]
    row = {
        "id": fate.id,
        "when": fate.when,
        "day": _day(fate.when),
        "language": fate.language,
        "trusted": int(fate.trusted),
        "automatic": int(fate.automatic),
        "outcome": fate.outcome,
        "accepted": fate.accepted,
        "withheld": 0,
        "probability": fate.probability,
        "latency_ms": fate.latency_ms,
        "screen_ms": fate.screen_ms,
        "reason": fate.reason,
        "base": fate.base,
        "adapter": fate.adapter,
        "root": fate.root,
        "path": fate.path,
        "text": fate.text,
        "inserted": fate.inserted,
        "instead": fate.instead,
        "logprobs": json.dumps([round(value, 4) for value in fate.logprobs]),
        "suffix": suffix,
        "prefix": prefix,
        "snippets": json.dumps([{"path": snippet.path, "text": snippet.text} for snippet in fate.snippets]),
    }
    return _guarded(row, holds_secret, *wholes, *others, fate.around)


def _survival(survival: Survival, holds_secret: Holds, inserted: str) -> Row:
    row = {
        "suggestion": survival.id,
        "at": survival.at,
        "when": survival.when,
        "kept": similarity(inserted, survival.text) if inserted else None,
        "withheld": 0,
        "text": survival.text,
    }
    return _guarded(row, holds_secret, survival.text, survival.around)


def _span(span: Span, holds_secret: Holds) -> Row:
    row = {
        "when": span.when,
        "day": _day(span.when),
        "language": span.language,
        "line": span.line,
        "column": span.column,
        "withheld": 0,
        "root": span.root,
        "path": span.path,
        "before": span.before,
        "after": span.after,
    }
    return _guarded(row, holds_secret, span.before, span.after, span.around)


def _guarded(row: Row, holds_secret: Holds, *texts: str) -> Row:
    """The row as SQLite can write it, and without its text if one of `texts` holds a secret."""
    if any(map(holds_secret, texts)):
        row = without_text(row)
    row |= {name: "" for name in ("root", "path") if name in row and holds_secret(row[name])}
    return {name: _writable(value) if isinstance(value, str) else value for name, value in row.items()}


def _writable(text: str) -> str:
    """Lone surrogates are no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _last_lines(prefix: str) -> str:
    """The end of the prefix, in whole lines: half a secret would not be known as one."""
    if len(prefix) <= PREFIX_CHARACTERS:
        return prefix
    return prefix[-PREFIX_CHARACTERS:].partition("\n")[2]


def _first_lines(suffix: str) -> str:
    if len(suffix) <= SUFFIX_CHARACTERS:
        return suffix
    return suffix[:SUFFIX_CHARACTERS].rpartition("\n")[0]


def _day(when: float) -> str:
    """The local date."""
    return f"{datetime.fromtimestamp(when):%Y-%m-%d}"
