"""What is done to a suggestion before anyone sees it: one ordered tuple of pure filters.

A filter takes the text and its surroundings and returns the text to show, "" to drop the suggestion. Filters
only ever cut, except that indentation is fitted to the file's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice, pairwise

from habitab_engine.stopping import closing_quote, lines_of, three_repeats, unmatched_bracket
from habitab_engine.surroundings import TAB_COLUMNS, Surroundings, columns
from habitab_engine.syntax import CLOSING_BRACKETS, Scan, scan

MINIMUM_TEXT = 2
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>"
    r"|<(?:fim_(?:prefix|middle|suffix|pad)|file_sep|filename|repo_?name|gh_stars|empty_output|endoftext"
    r"|(?:issue|jupyter|commit)_[a-z_]+|PRE|SUF|MID|EOT)>"
)
_LEADING = re.compile(r"^[ \t]*")
# Filters can open the way for one another; they settle after one or two rounds.
_ROUNDS = 20


def clean(text: str, around: Surroundings) -> tuple[str, str]:
    """The text to show and "", or "" and the name of the filter that dropped it. Idempotent."""
    for _ in range(_ROUNDS):
        before = text
        for refine in FILTERS:
            text = refine(text, around)
            if not text:
                return "", refine.__name__.replace("_", " ")
        if text == before:
            break
    return text, ""


def special_token(text: str, around: Surroundings) -> str:
    """A control token anywhere says that the model has left the text."""
    return "" if _SPECIAL_TOKEN.search(text) else text


def blank(text: str, around: Surroundings) -> str:
    return text if text.strip() else ""


def equals_rest_of_line(text: str, around: Surroundings) -> str:
    return "" if text.strip() == around.rest.strip() else text


def repeats_following_lines(text: str, around: Surroundings) -> str:
    """All lines, as they would stand in the file, are those that follow anyway."""
    starts_below = text.lstrip(" \t").startswith("\n")
    whole = f"{'' if starts_below else around.line_before}{text}{around.rest}"
    return "" if _follow(whole, around) else text


def doubled_pairs(text: str, around: Surroundings) -> str:
    """Cut where a bracket or a quote closes what the text right of the cursor closes already."""
    cuts = [cut for rule in (closing_quote, unmatched_bracket) if (cut := rule(text, around)) is not None]
    return text[: min(cuts, default=len(text))]


def overlap_with_suffix(text: str, around: Surroundings) -> str:
    """Cut the end that is also the start of what follows: of the rest of the line, or of the lines below."""
    return _without_lines_below(text, around) or _without_rest(text, around)


def _without_lines_below(text: str, around: Surroundings) -> str:
    """The text before its last lines where those are the next ones of the file; "" where they are not."""
    for line in lines_of(text, around):
        kept = text[: line.start]
        if kept and _follow(text[line.start :], around) and _still_closed(kept, text, around):
            return kept
    return ""


def _without_rest(text: str, around: Surroundings) -> str:
    """The text without the longest end that begins the rest of the line.

    A closing bracket that is still there by now has an opener left of the cursor, so it is no overlap.
    """
    rest, trimmed = around.rest.strip(), text.rstrip()
    closers = _scanned(text, around).closers
    for size in range(min(len(rest), len(trimmed)), 0, -1):
        kept, end = trimmed[:-size], trimmed[-size:]
        if rest.startswith(end) and _joins(end, rest) and _still_closed(kept, text, around):
            return kept if _scanned(kept, around).closers == closers else text
    return text


def _joins(overlap: str, rest: str) -> bool:
    """Whether an overlap is more than the chance that a letter or two of a word agree."""
    return overlap == rest or len(overlap) > 2 or not overlap.isalnum()


def _still_closed(kept: str, text: str, around: Surroundings) -> bool:
    """Whether the part that is kept opens no bracket or string that only the part cut away closes."""
    short, long = _scanned(kept, around), _scanned(text, around)
    return len(short.openers) <= len(long.openers) and short.inside in ("", around.before.inside)


def _scanned(text: str, around: Surroundings) -> Scan:
    return scan(text, around.syntax, around.before.inside)


def _follow(text: str, around: Surroundings) -> bool:
    """Whether the lines of `text` that are not blank are the next such lines of the file."""
    lines = [line for line in map(str.rstrip, text.split("\n")) if line]
    return bool(lines) and lines == list(islice(around.lines_below(), len(lines)))


def duplicate_closing_line(text: str, around: Surroundings) -> str:
    """Two lines in a row that close the same depth: the second one is too many."""
    above = around.line_above
    for line in lines_of(text, around):
        current = line.text.rstrip()
        if current and current == above and _only_closes(current, around):
            return text[: line.start]
        above = current or above
    return text


def _only_closes(line: str, around: Surroundings) -> bool:
    return not line.strip(CLOSING_BRACKETS + ";, \t") or line.strip() in around.syntax.end_words


def repeated_lines_or_blocks(text: str, around: Surroundings) -> str:
    """Keep the first of three equal lines, and the first of two equal blocks of lines."""
    cut = three_repeats(f"{text}\n", around)
    lines = [line for line in lines_of(text[:cut], around) if line.text.strip()]
    texts = [line.text.rstrip() for line in lines]
    for size in range(2, len(lines) // 2 + 1):
        for first in range(len(lines) - 2 * size + 1):
            second = first + size
            if texts[first:second] == texts[second : second + size]:
                return text[: lines[second].start]
    return text[:cut]


def too_deep(text: str, around: Surroundings) -> str:
    """Python: a line can stand deeper than the one above only after a block opener, and then by one step."""
    above, extra = around.line_above, _LEADING.match(text).group()  # type: ignore[union-attr]
    unsure = around.before.openers or around.inside or re.search(r"#|\"\"\"|'''|\\$", above)
    if around.language != "python" or around.line_before.strip() or not above or unsure or "\t" in extra:
        return text
    step = columns(around.indent_unit) if around.opens_block(above) else 0
    excess = min(columns(around.line_before) + len(extra) - columns(above) - step, len(extra))
    return re.sub(rf"^ {{{excess}}}", "", text, flags=re.MULTILINE) if excess > 0 else text


def indentation(text: str, around: Surroundings) -> str:
    """Indent with what the file indents with: tabs or spaces, and its width."""
    unit = around.indent_unit
    if not unit or around.inside:
        return text
    begun = bool(around.line_before.strip())
    if unit == "\t":
        step = _own_step(text, around)
        return _indent_lines(text, begun, lambda blank: _with_tabs(blank, step if step <= TAB_COLUMNS else 0))
    return _with_width(_indent_lines(text, begun, lambda blank: blank.replace("\t", unit)), len(unit), around)


def _indent_lines(text: str, begun: bool, fit: Callable[[str], str]) -> str:
    """`fit` applied to the leading white space of every line but a first one that is begun already."""
    lines = text.split("\n")
    fitted = [_LEADING.sub(lambda blank: fit(blank.group()), line) for line in lines[begun:]]
    return "\n".join(lines[:begun] + fitted)


def _own_step(text: str, around: Surroundings) -> int:
    """How many columns deeper the text stands after its first block opener; 0 if it shows none."""
    lines = [line.text for line in lines_of(text, around) if line.text.strip()]
    steps = (columns(deep) - columns(flat) for flat, deep in pairwise(lines) if around.opens_block(flat))
    step = next(steps, 0)
    return step if step in (2, 3, 4, 8) else 0


def _with_tabs(blank: str, step: int) -> str:
    tabs, rest = divmod(blank.count(" "), step or TAB_COLUMNS)
    return "\t" * (blank.count("\t") + tabs) + " " * rest


def _with_width(text: str, width: int, around: Surroundings) -> str:
    """The text's steps made `width` columns wide, where all its lines stand on steps of one width.

    Left alone where a line would fall left of the margin: held there, the text's own step would stay what
    it is, and every further round would widen the other lines again.
    """
    step = _own_step(text, around)
    depths = [columns(line.text) for line in lines_of(text, around) if line.text.strip()]
    base = depths[0] if depths else 0
    if step in (0, width) or any((depth - base) % step for depth in depths):
        return text
    if base + (min(depths) - base) // step * width < 0:
        return text

    def fit(blank: str) -> str:
        # A blank line's white space is not among the depths, and is trimmed later.
        return " " * max(0, base + (len(blank) - base) // step * width)

    first, newline, below = text.partition("\n")
    return first + newline + _indent_lines(below, False, fit) if newline else text


def trailing_spaces(text: str, around: Surroundings) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip()


def too_short(text: str, around: Surroundings) -> str:
    return text if len(text.strip()) >= MINIMUM_TEXT else ""


Filter = Callable[[str, Surroundings], str]
FILTERS: tuple[Filter, ...] = (
    blank,
    special_token,
    repeats_following_lines,
    equals_rest_of_line,
    doubled_pairs,
    overlap_with_suffix,
    duplicate_closing_line,
    repeated_lines_or_blocks,
    too_deep,
    indentation,
    trailing_spaces,
    too_short,
)
