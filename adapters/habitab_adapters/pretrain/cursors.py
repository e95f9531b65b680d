"""Where in a document a person may write, and what they write there: the gaps that the base learns to fill; pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from random import Random

from habitab_engine.surroundings import columns
from habitab_engine.syntax import CLOSING_BRACKETS, Syntax, language_of, scan, syntax_of

KINDS = ("rest", "lines", "block", "span")
# Characters of the longest gap; the engine writes 96 tokens at most, and code has 3 to 4 characters a token.
MOST_CHARACTERS = 360
# Whole lines of a gap of the kind "lines".
_MOST_LINES = 6
# The share of cursors that stand where an editor puts them on a new line: right after the indentation.
_AT_INDENTATION = 0.25
# The share of gaps that end before brackets which an editor has closed by itself.
_AUTO_CLOSED = 0.5
# The share of blocks that take the line with their closing bracket along.
_WITH_CLOSER = 0.5
_CLOSERS = ")]}\"'`;:, "


@dataclass(frozen=True, slots=True)
class Gap:
    """Characters `start` to `end` (exclusive) of a document: the cursor, and where what is written there ends."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Page:
    """A document by its lines.

    `starts` are the characters where the lines begin, and one more at the end: line i is
    `text[starts[i] : starts[i + 1] - 1]`. `written` are the lines that are not blank, `openers` those of them that
    open a block which has a line.
    """

    text: str
    syntax: Syntax
    starts: list[int]
    written: list[int]
    openers: list[int]

    @classmethod
    def of(cls, text: str, path: str, language: str = "") -> Page:
        syntax = syntax_of(language_of(path, language))
        lines = text.split("\n")
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        opens = re.compile(syntax.block_opener).search
        openers = [i for i, line in enumerate(lines[:-1]) if opens(line.rstrip()) and _is_inside(lines[i + 1], line)]
        return cls(text, syntax, starts, [i for i, line in enumerate(lines) if line.strip()], openers)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def line(self, i: int) -> str:
        return self.text[self.starts[i] : self.starts[i + 1] - 1]

    def line_at(self, character: int) -> int:
        """The line that holds a character, or its line break."""
        return self.text.count("\n", 0, character)


def draw(kind: str, page: Page, rng: Random) -> Gap | None:
    """A gap of one of the `KINDS`; None where the place that came up has none of at most `MOST_CHARACTERS`."""
    gap = _DRAWERS[kind](page, rng)
    fits = gap is not None and gap.end - gap.start <= MOST_CHARACTERS
    return gap if gap is not None and fits and page.text[gap.start : gap.end].strip() else None


def to_line_end(page: Page, gap: Gap) -> Gap:
    """The gap up to the end of its last line: where nothing follows that could say why it ends before."""
    text = page.text[gap.start : page.starts[page.line_at(gap.end) + 1] - 1]
    return Gap(gap.start, gap.start + len(text.rstrip()))


def _rest(page: Page, rng: Random) -> Gap | None:
    """The rest of a line, up to the white space behind it or to brackets behind it that were closed by the editor."""
    if not page.written:
        return None
    i = rng.choice(page.written)
    line = page.line(i).rstrip()
    first = len(line) - len(line.lstrip())
    cursor = first if rng.random() < _AT_INDENTATION else rng.randrange(first, len(line))
    rest = line[cursor:]
    size = _before_closers(rest, page.syntax) if rng.random() < _AUTO_CLOSED else len(rest)
    return Gap(page.starts[i] + cursor, page.starts[i] + cursor + size)


def _before_closers(rest: str, syntax: Syntax) -> int:
    """Where the line's end begins that closes what was opened before `rest`, if nothing else stands there."""
    closers = scan(rest, syntax).closers
    position = closers[0][1] if closers else len(rest)
    return len(rest) if rest[position:].strip(_CLOSERS) else position


def _lines(page: Page, rng: Random) -> Gap | None:
    """The next lines, none of them blank: a blank line is where the engine stops."""
    if not page.written:
        return None
    first = rng.choice(page.written)
    last, most = first, min(first + rng.randint(1, _MOST_LINES), len(page))
    while last + 1 < most and page.line(last + 1).strip():
        last += 1
    return _whole(page, first, last, rng)


def _block(page: Page, rng: Random) -> Gap | None:
    """What stands deeper than the line above it, up to a blank line or, at times, to the bracket that closes it."""
    if not page.openers:
        return None
    opener = rng.choice(page.openers)
    last, above = opener + 1, page.line(opener)
    while last + 1 < len(page) and _is_inside(page.line(last + 1), above):
        last += 1
    closed = last + 1 < len(page) and page.line(last + 1).lstrip()[:1] in tuple(CLOSING_BRACKETS)
    if closed and rng.random() < _WITH_CLOSER:
        last += 1
    return _whole(page, opener + 1, last, rng)


def _is_inside(line: str, opener: str) -> bool:
    return bool(line.strip()) and columns(line) > columns(opener)


def _whole(page: Page, first: int, last: int, rng: Random) -> Gap:
    """Whole lines, from the end of the line above or after the indentation of the first."""
    line = page.line(first)
    start = page.starts[first] + len(line) - len(line.lstrip())
    if first and rng.random() < 0.5:
        start = page.starts[first] - 1
    return Gap(start, page.starts[last] + len(page.line(last).rstrip()))


def _span(page: Page, rng: Random) -> Gap | None:
    """Any characters; each length has the same chance as its double."""
    if not page.text:
        return None
    start = rng.randrange(len(page.text))
    size = int(math.exp(rng.uniform(0, math.log(MOST_CHARACTERS))))
    return Gap(start, min(start + size, len(page.text)))


_DRAWERS = {"rest": _rest, "lines": _lines, "block": _block, "span": _span}
