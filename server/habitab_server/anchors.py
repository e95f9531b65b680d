"""Places that move with the edits of a document, and the text between two of them; pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import accumulate

from habitab_server.documents import Edit, Place, after

# Edits of more lines are taken as they are: comparing line by line takes time.
_MOST_LINES = 2_000


class Anchor:
    """A stretch of a document, held by both ends while the text around and in it is edited.

    One that is `open` takes in what is typed at its edges: it is a place where something is being written. A closed
    one holds what was written: at an edge it takes in no more than replaces what was deleted there, as many
    characters at most and none behind a line break. Otherwise whatever is typed on behind a suggestion, the next ten
    lines say, would count as what became of it.
    """

    __slots__ = ("_lost_head", "_lost_tail", "begin", "end", "is_open")

    def __init__(self, begin: Place, end: Place, *, is_open: bool) -> None:
        self.begin, self.end = begin, end
        self.is_open = is_open
        # Characters deleted at the edges that nothing has replaced yet.
        self._lost_head = self._lost_tail = 0

    def move(self, edit: Edit) -> bool:
        """Follow one edit; whether it touched the stretch or its edges."""
        if edit.start.line > self.end.line or edit.start > self.end:
            return False
        if edit.end < self.begin:
            if edit.end.line == self.begin.line or edit.reached.line != edit.end.line:
                self.begin, self.end = shifted(self.begin, edit), shifted(self.end, edit)
            return False
        if edit.start == edit.end:
            self._insert(edit)
        else:
            self._replace(edit)
        return True

    def _insert(self, edit: Edit) -> None:
        at_begin, at_end = edit.start == self.begin, edit.start == self.end
        takes = self.is_open or not (at_begin or at_end) or self._replaces(edit, at_begin, at_end)
        if at_begin and not takes:
            self.begin = shifted(self.begin, edit)
        if not at_end or takes or at_begin:
            self.end = shifted(self.end, edit)

    def _replaces(self, edit: Edit, at_begin: bool, at_end: bool) -> bool:
        """Whether text inserted at an edge stands for what was deleted there."""
        lost = self._lost_tail if at_end else self._lost_head
        left = 0 if "\n" in edit.text else max(0, lost - len(edit.text))
        if at_end:
            self._lost_tail = left
        else:
            self._lost_head = left
        return lost > 0 and "\n" not in edit.text

    def _replace(self, edit: Edit) -> None:
        begin, end = self.begin, self.end
        if edit.start < end and edit.end > begin:
            self._lose(edit)
        if edit.end <= begin:
            self.begin = shifted(begin, edit)
        elif edit.start < begin:
            self.begin = edit.reached
        if edit.end <= end:
            self.end = shifted(end, edit)
        elif edit.start < end:
            self.end = edit.reached if self.is_open else edit.start
        self.end = max(self.begin, self.end)

    def _lose(self, edit: Edit) -> None:
        lost = max(0, len(edit.removed) - len(edit.text))
        if edit.end >= self.end:
            self._lost_tail += lost
        elif edit.start <= self.begin:
            self._lost_head += lost


def shifted(place: Place, edit: Edit) -> Place:
    """Where a place at or behind the end of `edit` stands after it."""
    reached = edit.reached
    if place.line == edit.end.line:
        return Place(reached.line, reached.column + place.column - edit.end.column)
    return Place(place.line + reached.line - edit.end.line, place.column)


def shrunk(edit: Edit) -> Edit:
    """The edit without what it leaves as it was at both its ends."""
    old, new = edit.removed, edit.text
    if not old or not new:
        return edit
    head = _common(old, new)
    old, new = old[head:], new[head:]
    tail = _common(old[::-1], new[::-1])
    removed, text = old[: len(old) - tail], new[: len(new) - tail]
    start = after(edit.start, edit.removed[:head])
    return Edit(edit.version, start, after(start, removed), text, removed)


def pieces(edit: Edit) -> Iterator[Edit]:
    """An edit as one for each stretch of lines that differs, the last first: a formatter sends whole files."""
    edit = shrunk(edit)
    old, new = edit.removed.splitlines(keepends=True), edit.text.splitlines(keepends=True)
    if min(len(old), len(new)) < 2 or max(len(old), len(new)) > _MOST_LINES:
        if edit.removed or edit.text:
            yield edit
        return
    starts = list(accumulate(old, after, initial=edit.start))
    for i, j, m, n in _differing(old, new):
        yield shrunk(Edit(edit.version, starts[i], starts[j], "".join(new[m:n]), "".join(old[i:j])))


def _differing(old: list[str], new: list[str]) -> Iterator[tuple[int, int, int, int]]:
    """Which lines gave way to which, the last first; lines alike but for blanks, and as many as before, one by one."""
    bare = ["".join(line.split()) for line in old], ["".join(line.split()) for line in new]
    for _, i, j, m, n in reversed(SequenceMatcher(None, *bare).get_opcodes()):
        if j - i != n - m:
            yield i, j, m, n
            continue
        for k in reversed(range(j - i)):
            if old[i + k] != new[m + k]:
                yield i + k, i + k + 1, m + k, m + k + 1


def _common(one: str, other: str) -> int:
    """The length of what both begin with; halving, since a loop over a whole file would take a second."""
    most = min(len(one), len(other))
    return bisect_left(range(most), True, key=lambda size: one[: size + 1] != other[: size + 1])
