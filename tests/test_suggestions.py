"""What is typed through comes from the cache; what was rejected stays away. `║` is the cursor."""

from __future__ import annotations

import pytest

from habitab_server.documents import Document, Place, Snapshot, after
from habitab_server.suggestions import REJECTED_SECONDS, Entry, Rejected, Spot, Suggestions


def at(drawn: str, version: int = 1) -> Snapshot:
    before, after_cursor = drawn.split("║")
    document = Document("file:///a.py", "python", version, before + after_cursor)
    return document.snapshot(after(Place(0, 0), before))


def cache(drawn: str, *texts: str, must_start: str = "", count: int = 1) -> Suggestions:
    found = Suggestions()
    named = tuple((f"id{number}", text) for number, text in enumerate(texts))
    found.add(Entry(Spot.at(at(drawn), must_start), named, count))
    return found


def rests(found: Suggestions, drawn: str, must_start: str = "", count: int = 1) -> list[tuple[str, int]]:
    return [(fit.text, fit.replaced) for fit in found.find(at(drawn), must_start, count)]


def test_pain_08_typing_through_a_suggestion_keeps_it_with_one_id_until_it_is_used_up() -> None:
    text = "print(value)\n    return value"
    found = cache("def f(value):\n    ║\n", text)
    for typed in range(len(text) - 1):
        snapshot = at(f"def f(value):\n    {text[:typed]}║\n")
        assert found.find(snapshot) == [("id0", text[typed:], 0)]
    assert rests(found, f"def f(value):\n    {text}║\n") == []


@pytest.mark.parametrize(
    "drawn, why",
    [
        ("x = 1\ny = q║\n", "contradicted"),
        ("x = 2\ny = ║\n", "changed above"),
        ("x = 1\ny = ║\nz", "changed below"),
        ("x = 1\ny =║\n", "moved back"),
        ("x = 1\nfoo\ny = ║\n", "moved down"),
        ("x = 1║\n", "elsewhere"),
    ],
)
def test_a_suggestion_is_not_shown_where_it_does_not_belong(drawn: str, why: str) -> None:
    assert rests(cache("x = 1\ny = ║\n", "foo(x)"), drawn) == [], why


def test_deleting_what_was_typed_brings_the_suggestion_back() -> None:
    found = cache("y = ║\n", "foo(x)")
    assert rests(found, "y = fo║\n") == [("o(x)", 0)]
    assert rests(found, "y = ║\n") == [("foo(x)", 0)]


@pytest.mark.parametrize(
    "text, drawn, expected",
    [
        ("foo(x, y)\nbar", "foo(║)", [("x, y)\nbar", 1)]),
        ("foo(x)", "foo(x║)", [(")", 1)]),
        ('foo("a")', 'foo("║")', [('a")', 2)]),
        ("foo(x)", "foo(x)║", []),
        # The suggestion has no closer of its own on this line, so replacing the inserted one would lose it.
        ("foo(\n    x\n)", "foo(║)", []),
        # A closer that nothing typed asked for is a change of the document.
        ("foo(x)", "foo║)", []),
    ],
)
def test_closers_that_the_editor_inserted_are_replaced_not_doubled(
    text: str, drawn: str, expected: list[tuple[str, int]]
) -> None:
    found = cache("y = ║\nz\n", text)
    assert rests(found, f"y = {drawn}\nz\n") == expected


def test_pain_09_a_suggestion_must_extend_the_selected_menu_item() -> None:
    found = cache("x = ║\n", "print(x)", "other()", count=3)
    assert rests(found, "x = ║\n", must_start="print", count=3) == [("print(x)", 0)]
    assert rests(found, "x = ║\n", must_start="private", count=3) == []
    assert rests(found, "x = ║\n", must_start="print(x)", count=3) == []


def test_pain_09_what_was_made_for_a_menu_item_is_not_shown_for_another() -> None:
    found = cache("x = ║\n", "print(x)", must_start="print")
    assert rests(found, "x = ║\n", must_start="print") == [("print(x)", 0)]
    assert rests(found, "x = ║\n") == []
    assert rests(found, "x = p║\n") == []
    assert rests(found, "x = print║\n") == [("(x)", 0)]


def test_one_suggestion_is_not_enough_where_alternatives_are_asked_for() -> None:
    found = cache("x = ║\n", "print(x)")
    assert rests(found, "x = ║\n", count=3) == []


def test_the_newest_answer_wins_and_the_cache_is_bounded() -> None:
    found = cache("x = ║\n", "old")
    spot = Spot.at(at("x = ║\n"))
    found.add(Entry(spot, (("n", "new"),)))
    assert rests(found, "x = ║\n") == [("new", 0)]
    for number in range(100):
        found.add(Entry(Spot.at(at("q" * number + "║")), (("q", "q"),)))
    assert rests(found, "x = ║\n") == []


def test_a_rest_of_white_space_is_nothing_to_show() -> None:
    assert rests(cache("x║", "y\n    "), "xy║") == []


def test_a_rejected_suggestion_stays_away_also_when_its_head_is_typed_and_comes_back_later() -> None:
    rejected = Rejected()
    rejected.add("a\nx = ", "print(x)", now=100.0)
    assert rejected.holds("a\nx = ", "print(x)", now=101.0)
    assert rejected.holds("a\nx = pri", "nt(x)", now=101.0)
    assert not rejected.holds("a\nx = ", "print(y)", now=101.0)
    assert not rejected.holds("b\nx = ", "print(x)", now=101.0)
    assert not rejected.holds("a\nx = ", "print(x)", now=100.0 + REJECTED_SECONDS)
