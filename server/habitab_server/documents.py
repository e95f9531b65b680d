"""The open documents as lists of lines, so that a keystroke in a file of 50,000 lines costs next to nothing.

Lines are held without their ends: what goes to the engine has `\\n` only, and a position never needs more.
Columns inside are code points; the editor's units (UTF-16 unless negotiated otherwise) are converted at the
border.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from urllib.parse import unquote

from habitab_engine.errors import PositionError

PREFIX_CHARACTERS = 16_000
SUFFIX_CHARACTERS = 4_000
# How many edits are remembered to tell typing from other changes.
_EDITS = 64

_LINE_END = re.compile(r"\r\n|\r|\n")
# Half an astral character cannot be encoded; an editor that sends one must not stop the server.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A zero-based line and a column in code points."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document around one cursor as it was at one moment.

    `offset` characters stand before `prefix`; the document has `length` of them, without what neither side has.
    """

    uri: str
    version: int
    place: Place
    prefix: str
    suffix: str
    offset: int
    length: int

    @property
    def cursor(self) -> int:
        """Characters between the document's start and the cursor."""
        return self.offset + len(self.prefix)


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` took the place of `removed`, which stood between `start` and `end`."""

    version: int
    start: Place
    end: Place
    text: str
    removed: str = ""

    @property
    def reached(self) -> Place:
        """The place behind `text`."""
        return after(self.start, self.text)


def clean(text: str) -> str:
    """Line ends become `\\n`, lone surrogates the replacement character."""
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def column_of(line: str, units: int, encoding: str) -> int:
    """The column in code points that `units` of `encoding` reach; a column past the end is the end."""
    if encoding == "utf-32" or line.isascii():
        return max(0, min(units, len(line)))
    reached = 0
    for column, character in enumerate(line):
        if reached >= units:
            return column
        reached += count_units(character, encoding)
    return len(line)


def count_units(text: str, encoding: str) -> int:
    """The length of `text` in code units of `encoding` (utf-8, utf-16 or utf-32)."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    if encoding == "utf-8":
        return len(text.encode("utf-8"))
    return len(text) + sum(character > "\uffff" for character in text)


def after(place: Place, text: str) -> Place:
    """The place behind `text` if it is inserted at `place`."""
    breaks = text.count("\n")
    if not breaks:
        return Place(place.line, place.column + len(text))
    return Place(place.line + breaks, len(text) - text.rindex("\n") - 1)


class Document:
    """One open document; every method is cheap in the document's length."""

    def __init__(self, uri: str, language: str, version: int, text: str, encoding: str = "utf-16") -> None:
        self.uri = uri
        self.language = language
        self.encoding = encoding
        self._replace_all(version, text)

    @property
    def version(self) -> int:
        return self._version

    def change(self, version: int, text: str, span: tuple[int, int, int, int] | None = None) -> Edit:
        """Put `text` in place of `span` (start line, start units, end line, end units), or of everything."""
        if span is None:
            start, end = Place(0, 0), self.end
            removed = self.between(start, end)
            self._replace_all(version, text)
            return Edit(version, start, end, clean(text), removed)
        start, end = sorted((self._clamped(*span[:2]), self._clamped(*span[2:])))
        text, removed = clean(text), self.between(start, end)
        self._move_anchor(start, end, text)
        self._length += len(text) - len(removed)
        head, tail = self._lines[start.line][: start.column], self._lines[end.line][end.column :]
        self._lines[start.line : end.line + 1] = (head + text + tail).split("\n")
        self._version = version
        self._edits.append(Edit(version, start, end, text))
        return Edit(version, start, end, text, removed)

    def place(self, line: int, units: int) -> Place:
        """The place of an editor's position. Raises PositionError where there is no such line."""
        if not 0 <= line < len(self._lines) or units < 0:
            raise PositionError(f"Line {line} is outside the document, which has {len(self._lines)} lines.")
        return Place(line, column_of(self._lines[line], units, self.encoding))

    def units(self, place: Place) -> int:
        """The column of `place` in the editor's units."""
        return count_units(self._lines[place.line][: place.column], self.encoding)

    @property
    def end(self) -> Place:
        return Place(len(self._lines) - 1, len(self._lines[-1]))

    def line(self, number: int) -> str:
        """One line without its end."""
        return self._lines[number]

    def between(self, start: Place, end: Place) -> str:
        """The text from `start` to `end`."""
        if start.line == end.line:
            return self._lines[start.line][start.column : end.column]
        first, *middle, last = self._lines[start.line : end.line + 1]
        return "\n".join([first[start.column :], *middle, last[: end.column]])

    def text(self, limit: int) -> str:
        """The whole text, or "" if it has more than `limit` characters."""
        whole = "" if sum(map(len, self._lines)) > limit else "\n".join(self._lines)
        return whole if len(whole) <= limit else ""

    def contains(self, place: Place) -> bool:
        return 0 <= place.line < len(self._lines) and 0 <= place.column <= len(self._lines[place.line])

    def snapshot(self, place: Place, end: Place | None = None) -> Snapshot:
        """The text around `place`; what stands between `place` and `end` belongs to neither side."""
        prefix = self._prefix(place)
        offset = self._start_of(place.line) + place.column - len(prefix)
        end = end or place
        length = self._length - self._count(place, end)
        return Snapshot(self.uri, self._version, place, prefix, self._suffix(end), offset, length)

    def typed_on(self, version: int, place: Place) -> bool:
        """Whether all that happened since `version` is text typed at `place`, and something was typed."""
        cursor = place
        for edit in self._edits:
            if edit.version <= version:
                continue
            if edit.start != edit.end or not place <= edit.start <= cursor:
                return False
            cursor = after(cursor, edit.text) if edit.start == cursor else cursor
        return cursor != place and self._known_since(version)

    def insertable(self, text: str) -> str:
        """`text` with the document's own line ends."""
        return text.replace("\n", self._line_end)

    def _replace_all(self, version: int, text: str) -> None:
        found = _LINE_END.search(text)
        self._line_end = "\r\n" if found and found.group() == "\r\n" else "\n"
        cleaned = clean(text)
        self._lines, self._length = cleaned.split("\n"), len(cleaned)
        self._version = version
        self._edits: deque[Edit] = deque(maxlen=_EDITS)
        self._first_version = version
        # A line near the last cursor and the characters before it: offsets need no count from the top.
        self._anchor = (0, 0)

    def _known_since(self, version: int) -> bool:
        """Whether every edit after `version` is still remembered."""
        full = len(self._edits) == _EDITS
        return version >= (self._edits[0].version if full else self._first_version)

    def _clamped(self, line: int, units: int) -> Place:
        if line < 0:
            return Place(0, 0)
        if line >= len(self._lines):
            return self.end
        return Place(line, column_of(self._lines[line], units, self.encoding))

    def _move_anchor(self, start: Place, end: Place, text: str) -> None:
        """Keep the anchor true over an edit: one above it shifts it, one around it takes it to the edit."""
        line, offset = self._anchor
        if start.line >= line:
            return
        if end.line >= line:
            self._anchor = (start.line, self._start_of(start.line))
            return
        self._anchor = (
            line + text.count("\n") - (end.line - start.line),
            offset + len(text) - self._count(start, end),
        )

    def _count(self, start: Place, end: Place) -> int:
        """Characters from `start` to `end`."""
        lines = self._lines[start.line : end.line]  # a slice: islice would count through all lines above
        return sum(map(len, lines)) + len(lines) + end.column - start.column

    def _start_of(self, line: int) -> int:
        """Characters before `line`, counted from the anchor, which moves there."""
        anchor, offset = self._anchor
        if line >= anchor:
            offset += sum(map(len, islice(self._lines, anchor, line))) + line - anchor
        else:
            offset -= sum(map(len, islice(self._lines, line, anchor))) + anchor - line
        self._anchor = (line, offset)
        return offset

    def _prefix(self, place: Place) -> str:
        """At most about PREFIX_CHARACTERS before `place`, cut at a line's start if there is one."""
        here = self._lines[place.line][: place.column]
        if len(here) >= PREFIX_CHARACTERS:
            return here[-PREFIX_CHARACTERS:]
        parts = [here, *_within(self._upwards(place.line), PREFIX_CHARACTERS - len(here))]
        return "\n".join(reversed(parts))

    def _suffix(self, place: Place) -> str:
        here = self._lines[place.line][place.column :]
        if len(here) >= SUFFIX_CHARACTERS:
            return here[:SUFFIX_CHARACTERS]
        below = islice(self._lines, place.line + 1, None)
        return "\n".join([here, *_within(below, SUFFIX_CHARACTERS - len(here))])

    def _upwards(self, line: int) -> Iterator[str]:
        return (self._lines[number] for number in range(line - 1, -1, -1))


def _within(lines: Iterator[str], room: int) -> Iterator[str]:
    """Whole lines as long as they fit into `room` characters, line ends counted."""
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return
        yield line


class Documents:
    """The open documents by URI; percent-encoding makes no difference."""

    def __init__(self) -> None:
        self._open: dict[str, Document] = {}

    def open(self, document: Document) -> None:
        self._open[_key(document.uri)] = document

    def get(self, uri: str) -> Document | None:
        return self._open.get(_key(uri))

    def close(self, uri: str) -> None:
        self._open.pop(_key(uri), None)

    def __iter__(self) -> Iterator[Document]:
        return iter(list(self._open.values()))

    def under(self, uri: str) -> list[Document]:
        """The document `uri` and, if it is a folder, every open document in it."""
        key = _key(uri)
        return [doc for name, doc in self._open.items() if name == key or name.startswith(key + "/")]


def _key(uri: str) -> str:
    return unquote(uri)
