"""Which pieces of other places help to write on at a cursor; pure.

Words near the cursor are the query, as in RepoCoder (arXiv 2303.12570); few pieces are given, since every further
one was measured to help less and may mislead a small model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from habitab_engine.index import WORD
from habitab_engine.symbols import Import
from habitab_engine.types import Snippet

# Lines before the cursor that are the query, and how much less each line further up counts.
QUERY_LINES, FADING = 12, 0.93
# Lines before the cursor in which a name counts as used.
USE_LINES = 8
# Characters around the cursor that the prompt's window holds at most, as a rule; they need not be said again.
BEFORE, AFTER = 2_400, 800
# Pieces given, and the most lines of one.
MOST_SNIPPETS, SNIPPET_LINES = 5, 8
# The least score of a piece that is given.
LEAST_SCORE = 0.1
# What a score counts by where the piece comes from: what was just edited is often done again elsewhere.
FACTORS = {"open": 1.0, "edits": 2.0, "imports": 1.0, "similar": 1.0}

_DOTTED = re.compile(r"[^\W\d]\w*(?:(?:\.|::|->)[^\W\d]\w*)*")
_SEPARATOR = re.compile(r"\.|::|->")
_LEAST_PAIR = 16  # characters of two lines that say something when they are found again


@dataclass(frozen=True, slots=True)
class Candidate:
    """A piece of text from `source`, with a path for the model to read."""

    source: str
    score: float
    path: str
    text: str


def query(prefix: str) -> dict[str, float]:
    """The words near the cursor with their weights, 1 in its own line."""
    words: dict[str, float] = {}
    for distance, line in enumerate(reversed(_last_lines(prefix, QUERY_LINES))):
        for word in WORD.findall(line[-400:]):
            words.setdefault(word, FADING**distance)
    return words


def visible(prefix: str, suffix: str) -> str:
    """The text around the cursor that the prompt holds anyway."""
    return prefix[-BEFORE:] + suffix[:AFTER]


def _last_lines(text: str, count: int) -> list[str]:
    return text[-count * 400 :].split("\n")[-count:]


def names_used(prefix: str, imports: Sequence[Import]) -> list[tuple[Import, str]]:
    """The imported names that are used near the cursor, each with what it is called at home; the nearest first."""
    used: dict[str, None] = {}
    for line in reversed(_last_lines(prefix, USE_LINES)):
        used |= dict.fromkeys(name for name in _DOTTED.findall(line) if name not in used)
    bound = {imported.bound: imported for imported in imports}
    everything = [imported for imported in imports if imported.name == "*"]
    found: dict[tuple[Import, str], None] = {}
    for name in used:
        found |= dict.fromkeys(_meant(name, bound, everything))
    return list(found)


def _meant(name: str, bound: dict[str, Import], everything: list[Import]) -> Iterator[tuple[Import, str]]:
    parts = _SEPARATOR.split(name)
    for size in range(len(parts), 0, -1):
        imported = bound.get(".".join(parts[:size]))
        if imported is None:
            continue
        if imported.name:
            yield imported, imported.name
        # Of a module, or of what may be one, the name behind it is meant.
        if size < len(parts):
            yield imported, parts[size]
        return
    yield from ((imported, parts[0]) for imported in everything)


def agreement(imported: Import, name: str, here: str, path: str) -> int:
    """How well `path` may be where `name` comes from, imported in the file `here`: 0 not at all, 3 exactly."""
    target = [*path.split("/")[:-1], path.rsplit("/", 1)[-1].partition(".")[0]]
    if target[-1] in ("__init__", "index", "mod"):
        target.pop()
    module = list(imported.module)
    if imported.up:
        folders = here.split("/")[:-1]
        module = folders[: len(folders) - (imported.up - 1)] + module
    for exact in (module, [*module, imported.name], [*module, name]):
        if exact and target[-len(exact) :] == exact and (not imported.up or target == exact):
            return 3
    # A package often hands on what its modules define; a Go package and a Java class lie in a folder.
    if module and target[: len(module)] == module:
        return 2
    return int(bool(module) and not imported.up and module[-1] in target)


def rank(candidates: Iterable[Candidate], seen: str) -> tuple[Snippet, ...]:
    """The best pieces, the best last; none that stands in `seen` or within another."""
    given: list[Candidate] = []
    ordered = sorted(candidates, key=lambda c: (-c.score * FACTORS[c.source], c.path, c.text))
    for candidate in ordered:
        if len(given) == MOST_SNIPPETS or candidate.score * FACTORS[candidate.source] < LEAST_SCORE:
            break
        known = "\n".join([seen, *(other.text for other in given)])
        if not _stands_in(candidate.text, known):
            given.append(candidate)
    return tuple(Snippet(candidate.path, candidate.text) for candidate in reversed(given))


def _stands_in(text: str, known: str) -> bool:
    """Whether two neighbouring lines of `text` that say something are known, or its only line."""
    lines = [line for line in text.split("\n") if line.strip()]
    pairs = [f"{a}\n{b}" for a, b in pairwise(lines)] or lines
    return any(pair in known for pair in pairs if len(pair.strip()) >= _LEAST_PAIR)
