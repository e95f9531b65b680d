"""A stretch of text keeps its ends wherever edits take them, compared with counting characters from the start."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_server.anchors import Anchor, pieces, shrunk
from habitab_server.documents import Document, Edit, Place, after

TEXT = st.text(alphabet="ab\n😀", max_size=12)
SPOT = st.floats(0, 1)


def place(text: str, index: int) -> Place:
    return after(Place(0, 0), text[:index])


def edit_of(text: str, start: int, end: int, new: str) -> Edit:
    return Edit(1, place(text, start), place(text, end), new, text[start:end])


class Stretch(NamedTuple):
    """The same as an open anchor, in characters from the start of the text."""

    begin: int
    end: int

    def moved(self, start: int, end: int, new: str) -> Stretch:
        begin, stop = self
        if start > stop or (end < begin):
            shift = len(new) - (end - start) if end < begin else 0
            return Stretch(begin + shift, stop + shift)
        if start == end:
            return Stretch(begin, stop + len(new))
        head = begin if start >= begin else start + len(new) + max(0, begin - end)
        tail = stop + len(new) - (end - start) if end <= stop else start + len(new) if start < stop else stop
        return Stretch(head, max(head, tail))


@given(TEXT, SPOT, SPOT, st.lists(st.tuples(SPOT, SPOT, TEXT), max_size=5))
def test_an_open_stretch_moves_as_character_counts_do(
    text: str, one: float, other: float, edits: list[tuple[float, float, str]]
) -> None:
    stretch = Stretch(*sorted((int(one * len(text)), int(other * len(text)))))
    anchor = Anchor(place(text, stretch.begin), place(text, stretch.end), is_open=True)
    for left, right, new in edits:
        start, end = sorted((int(left * len(text)), int(right * len(text))))
        anchor.move(edit_of(text, start, end, new))
        text, stretch = text[:start] + new + text[end:], stretch.moved(start, end, new)
        assert (anchor.begin, anchor.end) == (place(text, stretch.begin), place(text, stretch.end))


@given(TEXT, SPOT, SPOT, st.lists(st.tuples(SPOT, SPOT, TEXT), max_size=5))
def test_a_closed_stretch_lies_in_the_text_and_in_the_open_one(
    text: str, one: float, other: float, edits: list[tuple[float, float, str]]
) -> None:
    begin, stop = sorted((int(one * len(text)), int(other * len(text))))
    closed = Anchor(place(text, begin), place(text, stop), is_open=False)
    opened = Anchor(closed.begin, closed.end, is_open=True)
    for left, right, new in edits:
        start, end = sorted((int(left * len(text)), int(right * len(text))))
        edit = edit_of(text, start, end, new)
        assert closed.move(edit) <= opened.move(edit)
        text = text[:start] + new + text[end:]
        assert Place(0, 0) <= closed.begin <= closed.end <= place(text, len(text))
        if start == end:
            assert opened.begin <= closed.begin and closed.end <= opened.end


@given(TEXT, SPOT, SPOT, TEXT)
def test_the_pieces_of_an_edit_do_what_it_does(text: str, one: float, other: float, new: str) -> None:
    start, end = sorted((int(one * len(text)), int(other * len(text))))
    edit = edit_of(text, start, end, new)
    for parts in ([shrunk(edit)], list(pieces(edit))):
        document = Document("untitled:a", "python", 1, text, "utf-32")
        for part in parts:
            span = (part.start.line, part.start.column, part.end.line, part.end.column)
            assert document.change(2, part.text, span) == Edit(2, part.start, part.end, part.text, part.removed)
        assert document.text(1000) == text[:start] + new + text[end:]


class Kept:
    """A document in which the text between ├ and ┤ was accepted."""

    def __init__(self, drawn: str) -> None:
        head, rest = drawn.split("├")
        inside, tail = rest.split("┤")
        self.document = Document("untitled:a", "python", 1, head + inside + tail)
        begin = after(Place(0, 0), head)
        self.anchor = Anchor(begin, after(begin, inside), is_open=False)

    @property
    def text(self) -> str:
        return self.document.between(self.anchor.begin, self.anchor.end)

    def replace(self, old: str, new: str) -> None:
        """In one edit."""
        text = self.document.text(10_000)
        begin = place(text, text.index(old))
        end = after(begin, old)
        span = (begin.line, begin.column, end.line, end.column)
        for piece in pieces(self.document.change(2, new, span)):
            self.anchor.move(piece)

    def type(self, behind: str, keys: str, erase: int = 0) -> None:
        """Put the cursor behind some text, press backspace, then keys."""
        cursor = place(text := self.document.text(10_000), text.index(behind) + len(behind))
        for _ in range(erase):
            left = Place(cursor.line, cursor.column - 1)
            self.anchor.move(self.document.change(2, "", (left.line, left.column, cursor.line, cursor.column)))
            cursor = left
        for key in keys:
            at = (cursor.line, cursor.column)
            self.anchor.move(self.document.change(2, key, (*at, *at)))
            cursor = after(cursor, key)


def test_what_is_typed_on_behind_it_does_not_belong_to_it() -> None:
    kept = Kept("x = ├sum(values)┤\n")
    kept.type("sum(values)", " + 1\ny = 2")
    assert kept.text == "sum(values)"


def test_what_is_put_before_it_does_not_belong_to_it() -> None:
    kept = Kept("x = ├sum(values)┤\n")
    kept.type("x = ", "not ")
    assert kept.text == "sum(values)"


def test_what_replaces_its_end_belongs_to_it_and_no_more() -> None:
    kept = Kept("x = ├sum(values)┤\n")
    kept.type("sum(values)", "rows) + 1", erase=len("values)"))
    assert kept.text == "sum(rows) +"
    kept = Kept("x = ├sum(values)┤\n")
    kept.type("sum(values)", "xs)\nz = 1", erase=len("values)"))
    assert kept.text == "sum(xs)"


def test_what_replaces_its_begin_belongs_to_it() -> None:
    kept = Kept("x = ├sum(values)┤\n")
    kept.type("x = sum", "max", erase=3)
    assert kept.text == "max(values)"


def test_what_replaces_all_of_it_belongs_to_it() -> None:
    kept = Kept("x = ├sum(values)┤\n")
    kept.type("sum(values)", "len(rows)\ny", erase=len("sum(values)"))
    assert kept.text == "len(rows)"


@pytest.mark.parametrize(
    ("old", "new", "text"), [("values", "rows", "sum(rows)"), ("x = sum", "x = max", "max(values)")]
)
def test_a_rename_inside_stays_inside(old: str, new: str, text: str) -> None:
    kept = Kept("x = ├sum(values)┤\n")
    kept.replace(old, new)
    assert kept.text == text


def test_a_formatter_that_sends_the_whole_file_leaves_each_line_in_its_place() -> None:
    kept = Kept("import os\nif x :\n   ├a = 1\n   b = [ 2 ]┤\nprint( b )\n")
    kept.replace(kept.document.text(10_000), "import os\n\nif x:\n    a = 1\n    b = [2]\nprint(b)\n")
    assert kept.text == "a = 1\n    b = [2]"


def test_deleting_the_line_leaves_nothing() -> None:
    kept = Kept("a = 1\nx = ├sum(values)┤\nb = 2\n")
    kept.replace("x = sum(values)\n", "")
    assert (kept.text, kept.anchor.begin) == ("", Place(1, 0))
