from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.edits import MOST_LINES, Trail

TEXT = "\n".join(f"line {i}" for i in range(100))


def edited(trail: Trail, text: str, old: str, new: str) -> str:
    text = text.replace(old, new, 1)
    trail.update(text)
    return text


def shown(trail: Trail, text: str) -> list[str]:
    lines = text.split("\n")
    return ["|".join(lines[p.first : p.last]) for p in trail.places]


def test_a_text_that_was_only_opened_has_no_places() -> None:
    trail = Trail(TEXT)
    trail.update(TEXT)
    assert trail.places == ()


def test_an_edit_is_a_place() -> None:
    trail = Trail(TEXT)
    text = edited(trail, TEXT, "line 50\n", "line fifty\n")
    assert shown(trail, text) == ["line fifty"]


def test_a_place_moves_with_the_lines_above_it() -> None:
    trail = Trail(TEXT)
    text = edited(trail, TEXT, "line 50\n", "line fifty\n")
    text = edited(trail, text, "line 10\n", "line ten\nnew\nlines\n")
    assert shown(trail, text) == ["line fifty", "line ten|new|lines"]


def test_places_near_each_other_are_one() -> None:
    trail = Trail(TEXT)
    text = edited(trail, TEXT, "line 50\n", "a\n")
    text = edited(trail, text, "line 52\n", "b\n")
    assert shown(trail, text) == ["a|line 51|b"]


def test_a_change_of_very_many_lines_says_nothing() -> None:
    trail = Trail(TEXT)
    text = edited(trail, TEXT, "line 50\n", "pasted\n" * (MOST_LINES + 5))
    assert trail.places == ()
    assert shown(trail, edited(trail, text, "line 3\n", "x\n")) == ["x"]


def test_a_later_edit_has_a_larger_turn_also_across_documents() -> None:
    one, other = Trail(TEXT), Trail(TEXT)
    edited(one, TEXT, "line 5\n", "x\n")
    edited(other, TEXT, "line 5\n", "x\n")
    assert one.places[0].turn < other.places[0].turn


@given(st.lists(st.text(alphabet="ab\n", max_size=60), min_size=1, max_size=12))
def test_places_lie_in_the_text_whatever_happened(texts: list[str]) -> None:
    trail = Trail(texts[0])
    for text in texts:
        trail.update(text)
        assert all(0 <= p.first < p.last <= text.count("\n") + 1 for p in trail.places)
        turns = [p.turn for p in trail.places]
        assert turns == sorted(turns)
