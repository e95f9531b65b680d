"""Where a completion ends: rules that look at the text after every token, each a pure function.

A rule returns how many characters of the text to keep, or None to go on. The earliest stop wins. A line that
is not complete yet is judged only where no further character could change the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from habitab_engine.likeness import distance
from habitab_engine.surroundings import Surroundings, columns
from habitab_engine.syntax import CLOSER_OF, CLOSING_BRACKETS, scan

_BLANK_LINE = re.compile(r"\n[ \t]*\n")
# A shorter rest of the line is left to the rules for brackets and quotes: `,` or `:` may well come twice.
_TELLING_REST = 3
_TELLING_LINE = 5
_CONTINUATIONS = (
    "else",
    "elif",
    "elsif",
    "except",
    "finally",
    "catch",
    "case",
    "when",
    "rescue",
    "ensure",
    "default",
)


@dataclass(frozen=True, slots=True)
class Stop:
    """Keep the first `keep` characters; `reason` names the rule."""

    keep: int
    reason: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it will stand in the file (the first one with what stands before the cursor).

    `start` is where to cut the generated text to drop the line (before its newline), `end` to keep it.
    """

    text: str
    start: int
    end: int
    complete: bool


def lines_of(text: str, around: Surroundings) -> Iterator[Line]:
    """The lines of generated text; the last one is incomplete."""
    start, before = 0, around.line_before
    while True:
        newline = text.find("\n", start)
        end = newline if newline >= 0 else len(text)
        yield Line(before + text[start:end], max(start - 1, 0), end, newline >= 0)
        if newline < 0:
            return
        start, before = newline + 1, ""


def first_stop(text: str, around: Surroundings) -> Stop | None:
    """The earliest place at which any rule ends `text` (all that was generated so far), or None to go on."""
    stops = [Stop(keep, reason) for reason, rule in RULES if (keep := rule(text, around)) is not None]
    return min(stops, key=lambda stop: stop.keep, default=None)


def end_of_line(text: str, around: Surroundings) -> int | None:
    """The line's end, where a single line is wanted."""
    newline = -1 if around.multiline else text.find("\n")
    return newline if newline >= 0 else None


def start_of_suffix(text: str, around: Surroundings) -> int | None:
    """The text begins to repeat the rest of the line."""
    rest = around.rest.strip()
    if len(rest) < _TELLING_REST or rest[0] in CLOSING_BRACKETS:
        return None
    found = text.partition("\n")[0].find(rest)
    return found if found >= 0 else None


def closing_quote(text: str, around: Surroundings) -> int | None:
    """The end of the cursor's string, where its closing quote already stands right of the cursor."""
    quote = around.before.inside
    if not quote or around.syntax.is_comment(quote) or not around.rest.startswith(quote):
        return None
    end = around.syntax.end_of(quote, text, 0)
    return end - len(quote) if end >= 0 and text[:end].endswith(quote) else None


def unmatched_bracket(text: str, around: Surroundings) -> int | None:
    """A closing bracket that has no opener, or whose opener the suffix already closes."""
    free = around.free_openers
    for bracket, position in scan(text, around.syntax, around.before.inside).closers:
        if not free or CLOSER_OF[free[-1]] != bracket:
            return _before_line_break(text, position)
        free = free[:-1]
    return None


def _before_line_break(text: str, position: int) -> int:
    """`position`, or the end of the line before where only white space stands between."""
    kept = text[:position].rstrip(" \t")
    return len(kept.rstrip()) if kept.endswith("\n") else position


def line_below(text: str, around: Surroundings) -> int | None:
    """A complete line equals the next line of the file, indentation included."""
    below = around.line_below
    return _first_repeat(text, around, lambda line: line.text.rstrip() == below) if below else None


def similar_line_below(text: str, around: Surroundings) -> int | None:
    """A complete line is almost the next line of the file.

    The line that the person has begun is spared: neighbours in a list or in a table resemble each other.
    """
    below = around.line_below
    begun = text.find("\n") if around.line_before.strip() else -1
    if len(below.strip()) < _TELLING_LINE:
        return None

    def near(line: Line) -> bool:
        return line.end != begun and nearly_same(line.text.rstrip(), below)

    return _first_repeat(text, around, near)


def _first_repeat(text: str, around: Surroundings, same: Callable[[Line], bool]) -> int | None:
    for line in lines_of(text, around):
        generated = text[line.start : line.end].strip()
        if line.complete and generated and same(line) and not _closes_own_opener(text, line, around):
            return line.start
    return None


def _closes_own_opener(text: str, line: Line, around: Surroundings) -> bool:
    """Whether the line ends a block that the text itself has begun."""
    return bool(scan(text[: line.start], around.syntax, around.before.inside).openers) and (
        line.text.lstrip()[0] in CLOSING_BRACKETS
    )


@lru_cache(maxsize=256)
def nearly_same(line: str, other: str) -> bool:
    """Whether the edit distance is under 10 % of the longer line; other digits (`x1`, `x2`) say it is not."""
    limit = (max(len(line), len(other), 1) - 1) // 10
    if abs(len(line) - len(other)) > limit or _digits(line) != _digits(other):
        return False
    return distance(line, other) <= limit


def _digits(line: str) -> list[str]:
    return re.findall(r"\d", line)


def three_repeats(text: str, around: Surroundings) -> int | None:
    """Three equal lines in a row: the first one is kept."""
    lines = [line for line in lines_of(text, around) if line.complete and line.text.strip()]
    for first, second, third in zip(lines, lines[1:], lines[2:], strict=False):
        if first.text.rstrip() == second.text.rstrip() == third.text.rstrip():
            return first.end
    return None


def double_newline(text: str, around: Surroundings) -> int | None:
    """A blank line."""
    found = _BLANK_LINE.search(text)
    return found.start() if found else None


def end_of_scope(text: str, around: Surroundings) -> int | None:
    """A line that leaves the block of the cursor; a line that closes the block is kept as its last.

    The block is what stands as deep as the cursor's line, or deeper than it where that line opens a block.
    """
    lines = [line for line in lines_of(text, around) if line.text.strip()]
    if not lines or around.before.inside:
        return None
    begun = bool(around.line_before.strip())
    opened = begun and lines[0].complete and around.opens_block(lines[0].text)
    floor = max(columns(around.line_before), columns(lines[0].text)) + opened
    leaving = (line for line in lines[begun:] if columns(line.text) < floor)
    keeps = (_leaving(line, around, opened and columns(line.text) == floor - 1) for line in leaving)
    return next((keep for keep in keeps if keep is not None), None)


def _leaving(line: Line, around: Surroundings, beside_opener: bool) -> int | None:
    """Where to stop at a line that stands less deep than the block; None to go on."""
    words = around.syntax.end_words | (frozenset(_CONTINUATIONS) if beside_opener else frozenset())
    text = line.text.strip()
    if text[0] not in CLOSING_BRACKETS and not _begins_with_word(text, words, line.complete):
        return line.start
    goes_on = not line.complete or around.opens_block(text) or _begins_with_word(text, frozenset(_CONTINUATIONS), True)
    return None if goes_on else line.end


def _begins_with_word(text: str, words: frozenset[str], complete: bool) -> bool:
    word = re.split(r"\W", text, maxsplit=1)[0]
    return word in words or (not complete and word == text and any(other.startswith(word) for other in words))


Rule = Callable[[str, Surroundings], int | None]
RULES: tuple[tuple[str, Rule], ...] = tuple(
    (rule.__name__.replace("_", " "), rule)
    for rule in (
        end_of_line,
        start_of_suffix,
        closing_quote,
        unmatched_bracket,
        line_below,
        similar_line_below,
        three_repeats,
        double_newline,
        end_of_scope,
    )
)
