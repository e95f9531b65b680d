"""Cursors stand where the lines were written, and what follows them is what was there before the commit"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters.pretrain.positions import (
    BLOCK,
    INSIDE,
    LINE,
    NEXT_LINE,
    Change,
    Place,
    Question,
    block_around,
    in_turn,
    questions,
)

LINES = st.lists(st.sampled_from(["", "def f():", "    a = 1", "    if a:", "        b(a)  ", "}", "x"]), min_size=1)


def change(added: set[int], asked: tuple[int, ...] = (), commit: str = "c", own: set[int] | None = None) -> Change:
    return Change(
        "history", commit, "a.py", "python", frozenset(added), frozenset(added if own is None else own), asked
    )


def asked(content: list[str], number: int, added: set[int]) -> dict[str, Question]:
    return {question.task: question for question in questions(Place(change(added), number), content)}


@given(LINES, st.data())
def test_prefix_text_and_suffix_are_the_file_without_what_comes_later(content: list[str], data: st.DataObject) -> None:
    number = data.draw(st.sampled_from([i for i, line in enumerate(content) if line.strip()] or [-1]))
    added = data.draw(st.sets(st.integers(0, len(content) - 1))) | {number}
    if number < 0:
        return
    for question in questions(Place(change(added), number), content):
        last = number if question.task != BLOCK else question.prefix.count("\n") + question.text.count("\n")
        later = [line for i, line in enumerate(content) if i <= last or i not in added]
        typed = question.prefix + question.text + question.suffix
        assert [line.rstrip() for line in typed.split("\n")] == [line.rstrip() for line in later]
        assert question.text and question.text == question.text.rstrip()


def test_each_task_has_its_cursor() -> None:
    found = asked(["def f():", "    return 1", "g()"], 1, {1})
    assert found[NEXT_LINE] == Question(NEXT_LINE, "def f():", "\ng()", "\n    return 1")
    assert found[LINE] == Question(LINE, "def f():\n    ", "\ng()", "return 1")
    inside = found[INSIDE]
    assert inside.prefix.startswith("def f():\n    r") and inside.prefix + inside.text == "def f():\n    return 1"


def test_nothing_is_asked_that_nobody_would_write_there() -> None:
    assert NEXT_LINE not in asked(["a = 1", "", "b = 2"], 2, {2})
    assert NEXT_LINE not in asked(["a = 1"], 0, {0})
    assert not asked(["", "import os"], 1, {0, 1})
    assert INSIDE not in asked(["if x:", "}"], 1, {1})


BODY = ["def f(a):", "    b = a", "    if b:", "        return a", "    return b", "", "f(1)"]


def test_a_block_is_all_that_stands_deeper_than_the_line_above_it() -> None:
    found = asked(BODY, 4, {1, 2, 3, 4})[BLOCK]
    assert found == Question(BLOCK, "def f(a):", "\n\nf(1)", "\n    b = a\n    if b:\n        return a\n    return b")
    assert block_around(1, BODY, frozenset(range(7))) == range(1, 5)


def test_a_block_was_written_whole_and_has_two_to_eight_lines() -> None:
    assert block_around(1, BODY, frozenset({1, 2, 3})) is None  # the last line was there before, or only moved
    assert block_around(3, BODY, frozenset(range(7))) is None  # one line
    assert block_around(6, BODY, frozenset(range(7))) is None  # not indented
    assert block_around(1, ["f()", *["    x = 1"] * 9], frozenset(range(10))) is None
    assert block_around(1, ["f()", *["    x = " + "1" * 180] * 2], frozenset(range(3))) is None


@given(st.lists(st.lists(st.integers(0, 50), unique=True, max_size=6), max_size=6))
def test_every_commit_has_its_turn_before_any_has_a_second(numbers: list[list[int]]) -> None:
    every = [change(set(asked), tuple(asked), f"c{i}") for i, asked in enumerate(numbers)]
    places = list(in_turn(every))
    assert len(places) == len({place.id for place in places}) == sum(map(len, numbers))
    assert places == list(in_turn(every))
    seen: dict[str, int] = {}
    for place in places:
        turn = seen[place.change.commit] = seen.get(place.change.commit, 0) + 1
        others = [min(len(asked), turn - 1) for asked in numbers]
        assert all(seen.get(f"c{i}", 0) >= least for i, least in enumerate(others))
