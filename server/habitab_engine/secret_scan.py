"""Secrets in text, line by line: what detect-secrets finds, and what it misses in code. Loads its library when asked.

A line is judged by itself, so that what was seen once need not be looked at again. Better a line too many than one too
few: a text with a secret costs its rows their text, not their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

# Regular expressions may take time quadratic in a line's length: longer lines are looked at in pieces that overlap.
_PIECE, _OVERLAP = 1_000, 400
_REMEMBERED = 30_000  # lines, by hash; some 3 MB
_BREATH = 16  # new lines between two pauses: about a millisecond

# Names that say what stands behind them, surely and maybe.
_SURE = r"password|passwd|passphrase|pwd|secret|token|api_?key|access_?key|private_?key|credentials?"
_MAYBE = r"key|auth|pass"
_CAPITALS = f"{_SURE}|{_MAYBE}".upper()
_ASSIGN, _END = r"[\"']?\]?\s*(?::|=|:=|=>)\s*[\"']?", r"[\"']?\s*[,;]?\s*(?:(?:#|//).*)?$"
_FORMS = (
    # A private key by its first or last line, whatever its kind.
    r"(?:BEGIN|END) (?:[A-Z0-9]+ )*PRIVATE KEY|PuTTY-User-Key-File-|AGE-SECRET-KEY-1",
    # NAME_OF_KEY=value as `.env` files and shells have it: no space, no variable, no call.
    rf"^\s*(?:export\s+|set\s+|ENV\s+|-\s+)?[A-Z0-9_]*(?:{_CAPITALS})[A-Z0-9_]*="
    r"(?![\"']?[$<{%]|[\w.]*[(\[])[\"']?[^\s\"']{4,}[\"']?\s*(?:#.*)?$",
    # scheme://user:password@host, the user left out as well.
    r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#\"'`<>{}:@]*:[^\s/?#\"'`<>{}@$%][^\s/\"'`<>{}@]*@[\w\[]",
    # The value of an Authorization header.
    r"\b[Bb](?:earer|asic)\s+(?=\S*\d)[A-Za-z0-9._~+/-]{16,}",
    # password: value, with letters and digits; under a name that says less only what is long and has many digits.
    rf"(?i:{_SURE})\w*{_ASSIGN}(?=\S*[A-Za-z])(?=\S*\d)[^\s\"'`()\[\]{{}}<>,;$]{{6,}}{_END}",
    rf"(?i:{_MAYBE})\w*{_ASSIGN}(?=\S*[A-Za-z])(?=(?:\S*?\d){{3}})[\w+/~-]{{16,}}={{0,2}}{_END}",
)
# A run of base64 without quotes: a line of a key's body, or a token in a configuration file.
_RUN = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{32,}={0,2}")
_MIXED = 0.43  # changes between small letters, capitals, digits and signs, a character; 0.64 in random base64


def holds_secret(text: str) -> bool:
    """Whether a key, a token, a password or a private key (or a part of one) stands in the text."""
    return any(_found(piece) for line in text.splitlines() for piece in _pieces(line))


class Scanner:
    """`holds_secret` for texts that repeat each other; remembers the lines it saw by their hash, never themselves.

    `pause` is called every millisecond or so of work.
    """

    def __init__(self, pause: Callable[[], None] = lambda: None) -> None:
        self._pause = pause
        self._seen: dict[int, bool] = {}
        self._fresh = 0

    def holds_secret(self, text: str) -> bool:
        return any([self._judge(line) for line in text.splitlines()])

    def _judge(self, line: str) -> bool:
        key = hash(line)
        found = self._seen.pop(key, None)
        if found is None:
            self._breathe()
            found = holds_secret(line)
            if len(self._seen) >= _REMEMBERED:
                del self._seen[next(iter(self._seen))]
        # Put back at the end: the first is the one not seen for longest.
        self._seen[key] = found
        return found

    def _breathe(self) -> None:
        self._fresh += 1
        if self._fresh % _BREATH == 0:
            self._pause()


@lru_cache
def token_patterns(without: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """What detect-secrets' detectors look for that know a kind of token by its form, `without` those so named."""
    detectors = [detector for detector in _detectors() if not type(detector).__name__.startswith(without)]
    return tuple(pattern for detector in detectors for pattern in getattr(detector, "denylist", ()))


@lru_cache(maxsize=1)
def _detectors() -> tuple[Any, ...]:
    """One of each kind that detect-secrets has."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    kinds: Iterable[Callable[[], Any]] = get_mapping_from_secret_type_to_class().values()
    return tuple(kind() for kind in kinds)


def _pieces(line: str) -> Iterator[str]:
    if len(line) <= _PIECE:
        yield line
        return
    for begin in range(0, len(line) - _OVERLAP, _PIECE - _OVERLAP):
        yield line[begin : begin + _PIECE]


def _found(piece: str) -> bool:
    random = any(_looks_random(run[0]) for run in _RUN.finditer(piece))
    return random or bool(_ours().search(piece)) or any(_finds(one, piece) for one in _detectors())


@lru_cache(maxsize=1)
def _ours() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{form})" for form in _FORMS))


def _finds(detector: Any, line: str) -> bool:
    """Whether one of detect-secrets' detectors finds something; strings that look random by its own limit only."""
    found = [value for value in detector.analyze_string(line) if not _is_template(value)]
    if (limit := getattr(detector, "entropy_limit", None)) is not None:
        return any(detector.calculate_shannon_entropy(value) > limit for value in found)
    return bool(found)


def _is_template(value: str) -> bool:
    """`{password}`, `<password>` and their like."""
    return value[:1] + value[-1:] in ("{}", "<>") or (value[:2] == "${" and value[-1] == "}")


def _looks_random(run: str) -> bool:
    """Whether a run of base64 is no name or path of a program: every kind of character, evenly mixed."""
    kinds = [_kind(char) for char in run]
    changes = sum(a != b for a, b in pairwise(kinds))
    return {"a", "A", "0"} <= set(kinds) and changes > _MIXED * len(run)


def _kind(char: str) -> str:
    return "0" if char.isdigit() else "a" if char.islower() else "A" if char.isupper() else char
