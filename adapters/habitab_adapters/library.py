"""Places in Python's standard library, which is public code that everybody has: some judge an adapter, others calm it.

Each is what the engine would be asked there: its prompt (a path, some lines below, the lines above), then the lines
that are to be written. The same installation of Python gives the same places.
"""

from __future__ import annotations

import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, count, takewhile
from pathlib import Path
from typing import Protocol

from habitab_adapters.handwork import as_text, is_worth_typing
from habitab_adapters.pretrain.filters import fault_of_path, fault_of_text, is_test
from habitab_engine.errors import InputError
from habitab_engine.families import FimTemplate
from habitab_engine.prompt import Budget, build
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.types import CompletionRequest

SEED = 0
TOKENS = 50_000  # that count, at least
PATIENCE_MS = 60_000.0  # a slow machine changes nothing
_OTHERS = frozenset({"site-packages", "dist-packages"})  # installed beside it
# Tests, tables, and what differs from machine to machine.
_LEFT_OUT = re.compile(r"(?:^|/)(?:idle_test|encodings|pydoc_data)/|(?:^|/)_sysconfigdata")


class Asked(Protocol):
    """What decides about a prompt; an engine has it."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def template(self) -> FimTemplate: ...

    @property
    def budget(self) -> Budget: ...


@dataclass(frozen=True, slots=True)
class Form:
    """The same without an engine."""

    tokenizer: Tokenizer
    template: FimTemplate
    budget: Budget


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens of lines above the cursor, behind it, and below those, at most."""

    above: int
    written: int
    below: int


JUDGED, REHEARSED = Size(232, 224, 32), Size(64, 128, 32)


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in a stranger's file and the `rest` of its line. `tokens` are those of the prompt and of the lines that
    are written; the first `given` do not count."""

    request: CompletionRequest
    rest: str
    tokens: list[int]
    given: int


def judged(asked: Asked) -> Iterator[Place]:
    """One place in each file, in a random order with a fixed seed, until `TOKENS` count; where the library is too
    small, more than one.

    Raises InputError where the library is not there as source code.
    """
    library, paths = _library()
    counted = 0
    for number in count():
        before = counted
        for path in paths:
            if (place := _drawn(asked, library, path, number, JUDGED)) is not None:
                counted += len(place.tokens) - place.given
                yield place
            if counted >= TOKENS:
                return
        if counted == before:
            raise InputError(
                f"Python's standard library is not in {library} as source code, and strangers' code is taken from it: "
                "install Python with its library."
            )


def rehearsed(asked: Asked, most: int) -> list[Place]:
    """At most `most` shorter places, each in a file of the library in which none is `judged`."""
    library, paths = _library()
    apart = {place.request.path for place in judged(asked)}
    found = (_drawn(asked, library, path, 0, REHEARSED) for path in paths if path not in apart)
    return [place for place, _ in zip((place for place in found if place is not None), range(most), strict=False)]


def _library() -> tuple[Path, list[str]]:
    """Where it is, and the files that a person wrote, tests apart, in a random order."""
    library = Path(sysconfig.get_path("stdlib"))
    folders = [place for place in library.glob("*") if place.is_dir() and place.name not in _OTHERS]
    files = [*library.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    paths = sorted(file.relative_to(library).as_posix() for file in files)
    paths = [path for path in paths if not (_LEFT_OUT.search(path) or is_test(path) or fault_of_path(path))]
    random.Random(SEED).shuffle(paths)
    return library, paths


def _drawn(asked: Asked, library: Path, path: str, number: int, size: Size) -> Place | None:
    """The file's place of this number; None where nobody would write in it."""
    text, rng = as_text((library / path).read_bytes()), random.Random(f"{SEED} {number} {path}")
    lines = text.split("\n")
    rows = [i for i, line in enumerate(lines) if is_worth_typing(line)]
    return None if fault_of_text(text) or not rows else _place(asked, path, lines, rng.choice(rows), rng, size)


def _place(asked: Asked, path: str, lines: list[str], row: int, rng: random.Random, size: Size) -> Place:
    """A random cursor in a line."""
    tokenizer, line = asked.tokenizer, lines[row]
    column = rng.randrange(len(line) - len(line.lstrip()), len(line.rstrip()))
    above, behind = lines[:row], lines[row + 1 :]
    above = above[len(above) - _fitting(reversed(above), size.above, tokenizer) :]
    end = _fitting(behind, size.written, tokenizer)
    below = behind[end : end + _fitting(behind[end:], size.below, tokenizer)]
    request = CompletionRequest(
        document=f"strangers:{path}:{row + 1}",
        path=path,
        prefix="\n".join([*above, line[:column]]),
        suffix="".join(f"\n{text}" for text in below),
        multiline=False,
        budget_ms=PATIENCE_MS,
        sources=(),
        memory=False,
    )
    prompt = build(request, tokenizer, asked.template, asked.budget)
    written = tokenizer.encode(prompt.healed + "\n".join([line[column:], *behind[:end]]))
    special = set(tokenizer.special_ids.values())
    given = 1 + max((i for i, token in enumerate(prompt.tokens) if token in special), default=0)
    return Place(request, line[column:].rstrip(), [*prompt.tokens, *written], given)


def _fitting(lines: Iterable[str], most: int, tokenizer: Tokenizer) -> int:
    """How many of the lines, from the first on, have at most `most` tokens."""
    sizes = accumulate(len(tokenizer.encode(f"{line}\n")) for line in lines)
    return sum(1 for _ in takewhile(lambda size: size <= most, sizes))
