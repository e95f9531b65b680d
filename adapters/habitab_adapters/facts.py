"""What may be said of an adapter beside its tensors: short numbers and words, never code, a path or a signal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

WORD = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
# A base's id is the name of its folder.
BASE_ID = re.compile(r"[^/\\\x00-\x1f\x7f]{1,100}")
MOST_CHARACTERS = 16_000
_LARGEST = 1e15
_DEPTH = 3


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; ValueError for anything else, NaN, infinity and names given twice."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def fits(pattern: re.Pattern[str], value: object) -> bool:
    """Whether `value` is a text that `pattern` describes to its end."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def is_base(value: object) -> bool:
    """Whether `value` names a base: {"id", "sha256"}."""
    return (
        isinstance(value, dict)
        and value.keys() == {"id", "sha256"}
        and fits(BASE_ID, value["id"])
        and fits(SHA256, value["sha256"])
    )


def are_metrics(value: object) -> bool:
    """Whether `value` is an object of numbers, words and nulls, in lists or objects at most three deep, and short."""
    return isinstance(value, dict) and _short(value, _DEPTH) and len(json.dumps(value)) <= MOST_CHARACTERS


def _short(value: object, depth: int) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        return abs(value) <= _LARGEST  # NaN is not
    if isinstance(value, str):
        return fits(WORD, value)
    if isinstance(value, dict):
        return depth > 0 and all(fits(WORD, name) and _short(one, depth - 1) for name, one in value.items())
    return isinstance(value, list) and depth > 0 and all(_short(one, depth - 1) for one in value)


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError("it gives a name twice")
        found[name] = value
    return found


def _no_number(_: str) -> float:
    raise ValueError("it holds NaN or infinity")
