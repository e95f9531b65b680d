"""What stands around the cursor, seen the way the rules need it: lines, indentation, open brackets."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from habitab_engine.syntax import CLOSER_OF, CLOSING_BRACKETS, Scan, Syntax, language_of, scan, scan_long, syntax_of
from habitab_engine.types import CompletionRequest

TAB_COLUMNS = 4
# How much of the suffix is read for closing brackets, in characters.
_LOOK_AHEAD = 4000
_INDENTATION = re.compile(r"^[ \t]*(?=\S)", re.MULTILINE)
_INTERPOLATED = re.compile(r"\{[^{}]*\Z")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The text on both sides of the cursor (`\\n` line ends), its language, whether it may go on below.

    Where the text is `cut`, the document goes on behind the suffix.
    """

    prefix: str
    suffix: str
    language: str = ""
    multiline: bool = True
    cut: bool = False

    @classmethod
    def of(cls, request: CompletionRequest, multiline: bool) -> Surroundings:
        language = language_of(request.path, request.language)
        end = request.offset + len(request.prefix) + len(request.suffix)
        return cls(request.prefix, request.suffix, language, multiline, end < request.length)

    @property
    def syntax(self) -> Syntax:
        return syntax_of(self.language)

    @property
    def line_before(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]

    @property
    def rest(self) -> str:
        """The cursor's line after the cursor."""
        return self.suffix.partition("\n")[0]

    @property
    def line_below(self) -> str:
        """The next line that is not blank, right-trimmed; "" if there is none."""
        return next(self.lines_below(), "")

    def lines_below(self) -> Iterator[str]:
        """The lines after the cursor's that are not blank, right-trimmed, read only as far as asked."""
        start = self.suffix.find("\n") + 1 or len(self.suffix)
        while start < len(self.suffix):
            stop = self.suffix.find("\n", start) + 1 or len(self.suffix)
            if line := self.suffix[start:stop].rstrip():
                yield line
            start = stop

    @property
    def line_above(self) -> str:
        """The last line before the cursor's that is not blank, right-trimmed; "" if there is none."""
        above = self.prefix[: len(self.prefix) - len(self.line_before)].rstrip()
        return above[above.rfind("\n") + 1 :]

    @property
    def before(self) -> Scan:
        """The unclosed brackets and the comment or string at the cursor."""
        return _before(self.prefix, self.language)

    @property
    def inside(self) -> str:
        """The mark of the comment or string that the cursor is in, "" in code.

        An interpolation that is open (`f"{name`, `${name`) counts as code.
        """
        before = self.before
        comment = self.syntax.is_comment(before.inside)
        if before.inside and not comment and _INTERPOLATED.search(self.prefix, before.content):
            return ""
        return before.inside

    @property
    def in_comment(self) -> bool:
        return self.syntax.is_comment(self.inside)

    def opens_block(self, line: str) -> bool:
        """Whether what follows `line` stands deeper than it."""
        return bool(re.search(self.syntax.block_opener, line.rstrip()))

    @property
    def after_empty_opener(self) -> bool:
        """Whether the cursor is where the first line of a block goes that has no line yet."""
        if self.inside or self.rest.strip():
            return False
        opener = self.line_before if self.line_before.strip() else self.line_above
        return self.opens_block(opener) and columns(self.line_below) <= columns(opener)

    @property
    def indent_unit(self) -> str:
        """One step of the file's own indentation: a tab, some spaces, or "" where the file shows none."""
        return _indent_unit(self.prefix, self.suffix)

    @property
    def free_openers(self) -> str:
        """The brackets open at the cursor that the suffix does not close, outermost first."""
        return _free_openers(self.prefix, self.suffix, self.language, self.cut)


def columns(line: str) -> int:
    """The width of the line's leading white space; a tab counts as `TAB_COLUMNS`."""
    blank = line[: len(line) - len(line.lstrip(" \t"))]
    return len(blank) + blank.count("\t") * (TAB_COLUMNS - 1)


@lru_cache(maxsize=8)
def _before(prefix: str, language: str) -> Scan:
    return scan_long(prefix, syntax_of(language))


@lru_cache(maxsize=8)
def _indent_unit(prefix: str, suffix: str) -> str:
    blanks = _INDENTATION.findall(prefix) + _INDENTATION.findall(suffix.partition("\n")[2])
    tabs = sum(blank.startswith("\t") for blank in blanks)
    spaces = sum(blank.startswith(" ") for blank in blanks)
    if tabs > spaces:
        return "\t"
    # A step of one column is alignment (` * ` in a block comment), not indentation.
    steps = Counter(len(deep) - len(flat) for flat, deep in pairwise(blanks) if len(deep) - len(flat) in (2, 3, 4, 8))
    return " " * min(steps, key=lambda step: (-steps[step], step)) if steps else ""


@lru_cache(maxsize=8)
def _free_openers(prefix: str, suffix: str, language: str, cut: bool) -> str:
    syntax = syntax_of(language)
    before = _before(prefix, language)
    stack = [(bracket, columns(_line_at(prefix, position))) for bracket, position in before.openers]
    free: list[str] = []
    ahead = suffix[:_LOOK_AHEAD]
    lines = _lines_below(ahead)
    for closer, position in scan(ahead, syntax, before.inside).closers:
        if not _match(closer, _closing_indent(ahead, position), _margin(lines, position), stack, free):
            # It closes what is still to be written, so it says nothing about the openers that are there.
            break
    # Beyond the look-ahead nothing is known: what is open there is taken as closed.
    known = len(suffix) <= _LOOK_AHEAD and not cut
    margin = -math.inf if known else _margin(lines, len(ahead))
    outer = [bracket for bracket, indent in stack if _out_of_reach(bracket, indent, margin)]
    return "".join(outer + free[::-1])


def _lines_below(ahead: str) -> list[tuple[int, int]]:
    """Where each whole line below the cursor's ends, and its indentation. Left out are lines that begin with a closing
    bracket, which end something themselves, and a preprocessor's, which stand anywhere."""
    lines, end = list[tuple[int, int]](), ahead.find("\n")
    for line in ahead.split("\n")[1:-1]:
        end += len(line) + 1
        if line.strip() and line.lstrip()[0] not in f"{CLOSING_BRACKETS}#":
            lines.append((end, columns(line)))
    return lines


def _margin(lines: list[tuple[int, int]], position: int) -> float:
    """The indentation of the least indented of the `lines` that end before `position`."""
    return min((indent for end, indent in lines if end < position), default=math.inf)


def _out_of_reach(bracket: str, indent: int, margin: float) -> bool:
    """Whether what an opener's line opens would have been closed before a line that is indented by `margin` only.

    Within braces lines may stand no deeper than the opener's: cases, labels, namespaces.
    """
    return margin < indent or (margin == indent and bracket != "{")


def _match(
    closer: str, closer_indent: int | None, margin: float, stack: list[tuple[str, int]], free: list[str]
) -> bool:
    """Take the opener that `closer` belongs to off the stack; those passed over on the way have no closer.

    False if there is none. A closer that begins its line belongs to no opener on a line that is indented deeper, and
    none belongs to an opener that lines between, the least indented by `margin`, put out of reach.
    """
    for index in range(len(stack) - 1, -1, -1):
        bracket, indent = stack[index]
        begun = closer_indent is None or indent <= closer_indent
        if CLOSER_OF[bracket] == closer and begun and not _out_of_reach(bracket, indent, margin):
            free += [passed for passed, _ in reversed(stack[index + 1 :])]
            del stack[index:]
            return True
    return False


def _line_at(text: str, position: int) -> str:
    return text[text.rfind("\n", 0, position) + 1 : position + 1]


def _closing_indent(suffix: str, position: int) -> int | None:
    """The indentation of a closer that is the first thing on its line; None for any other closer."""
    start = suffix.rfind("\n", 0, position) + 1
    return columns(suffix[start:position]) if start and not suffix[start:position].strip() else None
