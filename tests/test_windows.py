"""Today's text: matches as a naive search finds them, whatever was edited, for the price of the change."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.base_files import EMBEDDED
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.units import BORDER, Encoder
from habitab_engine.windows import AHEAD, LONGEST_UNIT, OCCURRENCES, REACH, Document, Windows, changed

BASE = Tokenizer(EMBEDDED)
ENCODER = Encoder(BASE.encode, len(BASE))
LETTERS = Encoder(lambda text: [ord(c) for c in text], 70_000)  # four bytes a code

LONG = "".join(f"    value_{i} = compute(value_{i - 1}, {i})\n" for i in range(9))

words = st.lists(st.sampled_from(["a", "b", "ab ", "\n", "\n  ", "x.y(", ")", " ", "'", "é"]), max_size=30)
edits = st.tuples(st.integers(0, 99), st.integers(0, 99), words.map("".join))
holes = st.none() | st.tuples(st.integers(0, 99), st.integers(0, 4))


def edited(text: str, edit: tuple[int, int, str]) -> str:
    begin, end = sorted(at % (len(text) + 1) for at in edit[:2])
    return text[:begin] + edit[2] + text[end:]


def hole_in(text: str, hole: tuple[int, int] | None) -> tuple[int, int] | None:
    if hole is None:
        return None
    begin = hole[0] % (len(text) + 1)
    return begin, min(len(text), begin + hole[1])


def numbers_of(document: Document, encoder: Encoder) -> list[int]:
    """The ids of what is shown, −1 at a border."""
    ids: list[int] = []
    for part in document.shown.split(BORDER):
        ids += [*encoder.ids(encoder(part)), -1]
    return ids[:-1]


def naive(texts: list[list[int]], context: list[int]) -> tuple[int, list[tuple[int, ...]]]:
    """The length of the longest end of `context` before any place, and what follows such places."""
    best, following = 0, []
    for ids in texts:
        for at in range(1, len(ids)):
            length = 0
            while length < min(at, len(context), REACH) and ids[at - 1 - length] == context[-1 - length]:
                length += 1
            if ids[at] >= 0 and length and length >= best:
                following = following if length == best else []
                best = length
                border = ids.index(-1, at) if -1 in ids[at:] else len(ids)
                following.append(tuple(ids[at : min(border, at + AHEAD)]))
    return best, following


@pytest.mark.parametrize(
    ("encoder", "block", "many"), [(ENCODER, 2, 2000), (LETTERS, 512, 2000), (LETTERS, 3, 9), (LETTERS, 3, 0)]
)
@given(steps=st.lists(st.tuples(st.integers(0, 1), edits, holes), max_size=12), context=words)
def test_matches_are_those_of_a_naive_search_after_any_edits(encoder, block, many, steps, context) -> None:
    documents, windows = [Document(encoder), Document(encoder)], Windows(encoder.width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("habitab_engine.windows._BLOCK", block)
        patch.setattr("habitab_engine.windows._MANY", many)
        for which, edit, hole in steps:
            document = documents[which]
            text = edited(document.text, edit)
            for change in document.update(text, hole_in(text, hole)):
                windows.exchange(change.gone, change.new)
    texts = [numbers_of(document, encoder) for document in documents]
    pattern = encoder.ids(encoder("".join(context)))[-REACH:]
    length, followers = windows.longest(encoder.codes(pattern[::-1]), AHEAD)
    expected, following = naive(texts, pattern)
    assert length == expected
    found = Counter(tuple(encoder.ids(codes)) for codes in followers)
    if len(following) <= OCCURRENCES:
        assert found == Counter(following)
    else:
        assert not found - Counter(following)


@given(st.lists(st.tuples(edits, holes), max_size=8))
def test_an_edited_document_is_as_if_written_anew(steps) -> None:
    document, windows, text = Document(ENCODER), Windows(ENCODER.width), LONG
    windows.exchange([], document.update(text, None)[0].new)
    for edit, hole in steps:
        text = edited(text, edit)
        for change in document.update(text, hole_in(text, hole)):
            windows.exchange(change.gone, change.new)
    fresh = Document(ENCODER)
    fresh.update(text, hole_in(text, steps[-1][1]) if steps else None)
    assert document.windows() == fresh.windows()
    assert document._sizes.tolist() == [len(unit) for unit in ENCODER.cut(document.shown)]
    assert sorted(document.windows()) == [window for block in windows._blocks for window in block]
    windows.exchange(document.windows(), [])
    assert len(windows) == 0


def test_a_cut_that_no_longer_stands_is_undone() -> None:
    document = Document(ENCODER)
    document.update("a = 1\nb \n  c = 2\n", None)
    document.update("a = 1\nb   c = 2\n", None)
    assert document._sizes.tolist() == [len(unit) for unit in ENCODER.cut(document.shown)]


@given(st.text("ab\n", max_size=12), st.text("ab\n", max_size=12))
def test_a_change_is_what_lies_between_the_common_ends(old: str, new: str) -> None:
    begin, end = changed(old, new)
    assert 0 <= begin <= end <= len(old)
    added = new[begin : end + len(new) - len(old)]
    assert old[:begin] + added + old[end:] == new
    if old[begin:end] and added:
        assert old[begin] != added[0] and old[end - 1] != added[-1]


def test_a_keystroke_exchanges_few_windows_and_so_does_a_jump_of_the_cursor() -> None:
    text = "".join(f"    value_{i} = compute(value_{i - 1}, {i})\n" for i in range(1000))
    document = Document(ENCODER)
    document.update(text, None)
    for at in (100, 30_000, 5_000):
        document.update(text, (at, at))
        changes = document.update(f"{text[:at]}x{text[at:]}", (at + 1, at + 1))
        assert sum(len(change.gone) + len(change.new) for change in changes) < 4 * (REACH + AHEAD)
        text = document.text
    jumps = document.update(text, (31_000, 31_000))
    assert sum(len(change.gone) + len(change.new) for change in jumps) < 8 * (REACH + AHEAD)


def test_nothing_is_seen_across_the_cursor() -> None:
    document, windows = Document(ENCODER), Windows(ENCODER.width)
    for change in document.update("alpha = beta\ngamma = delta\n", (12, 12)):
        windows.exchange(change.gone, change.new)
    context = BASE.encode("alpha = beta")
    length, followers = windows.longest(ENCODER.codes(context[::-1]), AHEAD)
    assert length < len(context)
    assert all("gamma" not in BASE.decode(ENCODER.ids(codes)) for codes in followers)


def test_many_equal_lines_are_one_match_read_in_part() -> None:
    document, windows = Document(ENCODER), Windows(ENCODER.width)
    for change in document.update("x = 1\n" * 20_000, None):
        windows.exchange(change.gone, change.new)
    context = BASE.encode("x = 1\n" * 30)
    length, followers = windows.longest(ENCODER.codes(context[::-1][:REACH]), 1)
    assert length == REACH and OCCURRENCES <= len(followers) < 3 * OCCURRENCES


def test_a_line_too_long_to_be_typed_is_a_border() -> None:
    document = Document(ENCODER)
    document.update("a = 1\n" + "x" * (LONGEST_UNIT + 1) + "\nb = 2\n", None)
    assert len(document) < 20
    document.update("a = 1\nx\nb = 2\n", None)
    fresh = Document(ENCODER)
    fresh.update("a = 1\nx\nb = 2\n", None)
    assert document.windows() == fresh.windows()
