"""Edits give the text an editor has, positions count as the editor counts, and size costs nothing."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.errors import PositionError
from habitab_server.documents import (
    PREFIX_CHARACTERS,
    SUFFIX_CHARACTERS,
    Document,
    Documents,
    Place,
    after,
    clean,
)

TEXT = st.text(alphabet="ab \tβ😀\n\r\x0c\u2028", max_size=30)
CODEC = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
WIDTH = {"utf-8": 1, "utf-16": 2, "utf-32": 4}


def doc(text: str, encoding: str = "utf-16") -> Document:
    return Document("file:///w/a.py", "python", 1, text, encoding)


def whole(document: Document) -> str:
    at = document.snapshot(Place(0, 0))
    assert at.prefix == "" and at.offset == 0
    return at.suffix


def units(text: str, encoding: str) -> int:
    return len(text.encode(CODEC[encoding])) // WIDTH[encoding]


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, str, list[tuple[float, float, str]]]:
    spots = st.floats(0, 1)
    return (
        draw(st.sampled_from(sorted(CODEC))),
        draw(TEXT),
        draw(st.lists(st.tuples(spots, spots, TEXT), max_size=6)),
    )


@given(edits())
def test_incremental_edits_give_the_same_text_as_the_editor_has(
    story: tuple[str, str, list[tuple[float, float, str]]],
) -> None:
    encoding, text, changes = story
    document, expected = doc(text, encoding), clean(text)
    for version, (one, other, new) in enumerate(changes, 2):
        start, end = sorted((int(one * len(expected)), int(other * len(expected))))
        span = (*position(expected, start, encoding), *position(expected, end, encoding))
        document.change(version, new, span)
        expected = expected[:start] + clean(new) + expected[end:]
        assert whole(document) == expected
        assert_offsets_true(document, expected, start)


def position(text: str, index: int, encoding: str) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n"), units(before.rpartition("\n")[2], encoding)


def assert_offsets_true(document: Document, text: str, index: int) -> None:
    line, column = position(text, index, document.encoding)
    place = document.place(line, column)
    at = document.snapshot(place)
    assert (at.prefix, at.suffix, at.offset, at.cursor) == (text[:index], text[index:], 0, index)
    assert at.length == len(text)
    assert document.units(place) == column


def test_a_change_without_a_range_replaces_everything() -> None:
    document = doc("old")
    document.change(2, "new\r\ntext")
    assert whole(document) == "new\ntext"
    assert document.version == 2


def test_a_form_feed_ends_no_line() -> None:
    document = doc("a\x0cb\u2028c\nd")
    document.change(2, "X", (1, 0, 1, 1))
    assert whole(document) == "a\x0cb\u2028c\nX"


def test_an_edit_beyond_the_end_goes_to_the_end() -> None:
    document = doc("a\nb")
    document.change(2, "c", (9, 9, 9, 9))
    assert whole(document) == "a\nbc"


@pytest.mark.parametrize("line, column", [(2, 0), (-1, 0), (0, -1), (10**9, 0)])
def test_a_position_outside_the_document_is_an_error(line: int, column: int) -> None:
    with pytest.raises(PositionError, match="outside"):
        doc("a\nb").place(line, column)


def test_a_column_past_the_line_is_its_end() -> None:
    assert doc("ab\nc").place(0, 99) == Place(0, 2)


def test_half_an_astral_character_stops_nothing() -> None:
    document = doc("x = '\ud83d'\n")
    assert whole(document).encode() == "x = '\ufffd'\n".encode()


@pytest.mark.parametrize("ends, expected", [("\r\n", "a\r\nb"), ("\n", "a\nb"), ("", "a\nb")])
def test_inserted_text_has_the_documents_line_ends(ends: str, expected: str) -> None:
    assert doc("x" + ends).insertable("a\nb") == expected


def test_the_text_for_the_engine_has_no_carriage_return() -> None:
    at = doc("a\r\nb\r\nc").snapshot(Place(1, 1))
    assert (at.prefix, at.suffix) == ("a\nb", "\nc")


def test_a_long_document_is_cut_at_line_starts_and_the_offset_counts_what_was_cut() -> None:
    text = "".join(f"value_{number} = {number}\n" for number in range(50_000))
    at = doc(text).snapshot(Place(25_000, 3))
    assert PREFIX_CHARACTERS - 100 < len(at.prefix) <= PREFIX_CHARACTERS
    assert SUFFIX_CHARACTERS - 100 < len(at.suffix) <= SUFFIX_CHARACTERS
    assert text[at.offset - 1] == "\n"
    assert text[at.offset : at.cursor] == at.prefix
    assert text[at.cursor :].startswith(at.suffix)


def test_a_very_long_line_is_cut_within() -> None:
    at = doc("x" * 100_000).snapshot(Place(0, 50_000))
    assert (len(at.prefix), len(at.suffix)) == (PREFIX_CHARACTERS, SUFFIX_CHARACTERS)
    assert at.cursor == 50_000


def test_a_selected_range_belongs_to_neither_side() -> None:
    at = doc("x = pri + 1").snapshot(Place(0, 4), Place(0, 7))
    assert (at.prefix, at.suffix) == ("x = ", " + 1")
    assert at.length == len("x =  + 1")


def test_typing_at_a_place_is_told_from_other_changes() -> None:
    document, start = doc("a = \nb"), Place(0, 4)
    assert not document.typed_on(1, start)
    document.change(2, "f()", (0, 4, 0, 4))
    document.change(3, "x", (0, 6, 0, 6))
    assert document.typed_on(1, start)
    assert not document.typed_on(3, start)
    document.change(4, "", (0, 6, 0, 7))
    assert not document.typed_on(1, start)


def test_typing_elsewhere_is_not_typing_on() -> None:
    document = doc("a = \nb")
    document.change(2, "c", (1, 1, 1, 1))
    assert not document.typed_on(1, Place(0, 4))


def test_edits_that_are_no_longer_remembered_are_not_typing_on() -> None:
    document = doc("")
    for version in range(2, 200):
        document.change(version, "x", (0, version - 2, 0, version - 2))
    assert not document.typed_on(1, Place(0, 0))
    assert document.typed_on(150, Place(0, 149))


@given(TEXT, TEXT)
def test_after_names_the_place_behind_an_insertion(before: str, text: str) -> None:
    before, text = clean(before), clean(text)
    start = after(Place(0, 0), before)
    at = doc(before + text).snapshot(after(start, text))
    assert at.prefix == before + text and at.suffix == ""


def test_percent_encoding_of_a_uri_makes_no_difference_and_a_folder_finds_its_documents() -> None:
    documents = Documents()
    documents.open(Document("file:///w/a%20b/c.py", "python", 1, ""))
    assert documents.get("file:///w/a b/c.py") is not None
    assert len(documents.under("file:///w/a%20b")) == 1
    assert documents.under("file:///w/a") == []
    documents.close("file:///w/a b/c.py")
    assert documents.get("file:///w/a%20b/c.py") is None


def test_a_keystroke_in_fifty_thousand_lines_costs_under_five_milliseconds() -> None:
    document = doc("    return some_function(value, other)\n" * 50_000)
    times = []
    for version in range(2, 42):
        started = time.process_time()
        document.change(version, "x", (25_000, version, 25_000, version))
        document.snapshot(document.place(25_000, version + 1))
        times.append(time.process_time() - started)
    assert sorted(times)[len(times) // 2] < 0.005


def test_line_ends_of_every_kind_are_one() -> None:
    assert clean("a\r\nb\rc\nd") == re.sub("X", "\n", "aXbXcXd")
