"""Which lines have settled, what a secret was seen with, and spans that replay every edit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from habitab_server.anchors import shrunk
from habitab_server.documents import Document, Place, after
from habitab_server.edited import QUIET_SECONDS, RECENT_SECONDS, Lines, Region, Spans, settled

SPOT = st.floats(0, 1)
EDIT = st.tuples(SPOT, SPOT, st.text(alphabet="ab\n", max_size=5), st.booleans())


class Page:
    """A document with its lines and spans, and a clock."""

    def __init__(self, text: str) -> None:
        self.document = Document("untitled:a", "python", 1, text)
        self.lines, self.spans = Lines(), Spans()
        self.now = 1000.0

    def edit(self, start: Place, end: Place, text: str) -> None:
        span = (start.line, start.column, end.line, end.column)
        edit = shrunk(self.document.change(2, text, span))
        if edit.removed or edit.text:
            self.lines.edited(self.document, edit, self.now)
            self.spans.edited(edit, self.now)

    def type(self, line: int, keys: str, column: int | None = None) -> None:
        """Key by key at the end of a line, or at a column."""
        cursor = Place(line, len(self.document.line(line)) if column is None else column)
        for key in keys:
            self.edit(cursor, cursor, key)
            cursor = after(cursor, key)

    def erase(self, line: int, count: int) -> None:
        for _ in range(count):
            end = Place(line, len(self.document.line(line)))
            self.edit(Place(line, end.column - 1), end, "")

    def settled(self, first: int, last: int, since: float = float("-inf")) -> bool:
        return settled(self.lines.busy(self.now), first, last, since)

    def around(self, line: int) -> str:
        return self.lines.around(self.document, line, line, self.now)

    def take(self, everything: bool = True) -> list[tuple[Region, Place, str]]:
        taken = list(self.spans.take(lambda region: everything or self.now - region.when > 1))
        return [(region, at, self.document.between(region.begin, region.end)) for region, at in taken]


@given(st.text(alphabet="ab\n", max_size=12), st.lists(EDIT, max_size=12))
def test_spans_replay_every_edit_in_whatever_order_they_settle(
    text: str, edits: list[tuple[float, float, str, bool]]
) -> None:
    page, replayed = Page(text), Document("untitled:b", "python", 1, text)
    for one, other, new, settles in [*edits, (0.0, 0.0, "", True)]:
        whole = page.document.text(1000)
        start, end = (after(Place(0, 0), whole[:at]) for at in sorted((int(one * len(whole)), int(other * len(whole)))))
        page.now += 2 * settles
        page.edit(start, end, new)
        for region, at, now in page.take(everything=False):
            stop = after(at, region.before)
            assert replayed.between(at, stop) == region.before
            replayed.change(2, now, (at.line, at.column, stop.line, stop.column))
    for region, at, now in page.take():
        stop = after(at, region.before)
        assert replayed.between(at, stop) == region.before
        replayed.change(2, now, (at.line, at.column, stop.line, stop.column))
    assert replayed.text(1000) == page.document.text(1000)
    assert not page.spans


def test_keys_that_follow_each_other_are_one_span_and_a_new_line_is_another() -> None:
    page = Page("a = 1\nb = 2\n")
    page.type(0, " + 1\nc = 3")
    page.type(2, "0")
    assert [(r.before, now, at) for r, at, now in page.take()] == [
        ("", " + 1", Place(0, 5)),
        ("", "\nc = 3", Place(0, 9)),
        ("", "0", Place(2, 5)),
    ]


def test_corrections_on_the_way_are_in_the_span_as_they_ended() -> None:
    page = Page("a = 1\n")
    page.erase(0, 1)
    page.type(0, "23")
    page.erase(0, 1)
    ((region, at, now),) = page.take()
    assert (region.before, now, at) == ("1", "2", Place(0, 4))


def test_a_line_settles_when_nobody_types_in_it_for_long_enough() -> None:
    page = Page("a\nb\nc\n")
    page.type(1, "x")
    page.now += QUIET_SECONDS - 1
    assert not page.settled(1, 1) and page.settled(0, 0)
    page.now += 1
    assert page.settled(0, 2)


def test_a_line_moves_with_the_lines_put_above_it() -> None:
    page = Page("a\nb\nc\n")
    page.type(2, "x")
    page.now += 10
    page.edit(Place(0, 0), Place(0, 0), "\n\n")
    page.now += 5
    assert page.settled(4, 4) and page.settled(3, 3)
    assert not page.settled(2, 2)


def test_who_types_on_in_new_lines_leaves_the_old_ones_at_rest() -> None:
    page = Page("a\n")
    page.type(0, "b")
    asked = page.now
    for line in range(8):
        page.now += 4
        page.type(line, "\nx")
    assert page.settled(0, 1, since=asked)


def test_a_line_that_was_being_typed_in_when_asked_holds_back_every_other() -> None:
    page = Page("a\nb\n")
    page.type(1, "to")
    asked = page.now
    page.now += 20
    page.type(1, "ken")
    assert page.settled(0, 0) and not page.settled(0, 0, since=asked)


def test_a_save_settles_what_the_cursor_has_left() -> None:
    page = Page("a\nb\n")
    page.type(0, "x")
    page.type(1, "x")
    page.lines.rest(but=1)
    assert page.settled(0, 0) and not page.settled(1, 1)


def test_around_a_line_are_its_neighbours_and_all_lines_edited_lately() -> None:
    page = Page("\n".join(f"line {number}" for number in range(50)))
    page.type(40, " edited")
    assert "line 40 edited" in page.around(10) and "line 12" in page.around(10)
    assert "line 20" not in page.around(10)
    page.now += RECENT_SECONDS
    assert "line 40" not in page.around(10)


def test_what_was_deleted_is_seen_as_it_was_before_the_first_deletion() -> None:
    page = Page("a = 1\nb\n")
    page.type(0, "234567")
    page.erase(0, 8)
    assert "a = 1234567" in page.around(1)
    page.edit(Place(0, 0), Place(1, 0), "")
    assert "a =" in page.around(0)
    page.now += RECENT_SECONDS
    assert "1234567" not in page.around(0)


def test_the_body_of_a_private_key_is_seen_with_its_first_line() -> None:
    page = Page("-----BEGIN RSA PRIVATE KEY-----\n" + "MIIE\n" * 60 + "-----END RSA PRIVATE KEY-----\nx = 1\n")
    assert "BEGIN" in page.around(50)
    assert "BEGIN" not in page.around(63)


def test_many_edits_leave_no_growing_memory() -> None:
    page = Page("a\n" * 3000)
    for line in range(0, 3000, 2):
        page.now += 1
        page.type(line, "\nx")
    assert len(page.lines._edits) < 2 * RECENT_SECONDS + 10
