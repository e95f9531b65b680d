"""What becomes of a suggestion: from edits alone, and with a client that tells; on a clock that the test turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.types import OUTCOMES, Fate
from habitab_server.documents import Document, Place
from habitab_server.feedback import MOST_FOLLOWED, Item
from window import LONG, Window

TEXT = "sum(values)"
Script = Callable[[Window], object]


def row(fate: Fate) -> tuple[Any, ...]:
    return fate.outcome, fate.accepted, fate.inserted, fate.instead


def play(script: Script, tells: bool = False, drawn: str = "x = ║\n", text: str = TEXT) -> Fate:
    """The fate of one suggestion that was on the screen for a second before the script began."""
    window = Window(drawn, tells)
    window.offer(text)
    window.wait(1)
    script(window)
    (fate,) = window.close()
    return fate


def pieces(*sizes: int) -> Script:
    return lambda window: [window.take(size) for size in sizes]


def typed(keys: str, then: Script = lambda window: None) -> Script:
    return lambda window: (window.type(keys), then(window))


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (Window.tab, ("accepted", 11, TEXT, "")),
        (typed("su", Window.tab), ("accepted", 9, TEXT, "")),
        (pieces(3), ("partly_accepted", 3, "sum", "")),
        (pieces(4, 6), ("partly_accepted", 10, "sum(values", "")),
        (pieces(4, 7), ("accepted", 11, TEXT, "")),
        (lambda window: (window.take(4), window.type("va"), window.tab()), ("accepted", 9, TEXT, "")),
        (lambda window: (window.take(4), window.type("values)")), ("partly_accepted", 4, "sum(", "")),
        (lambda window: (window.take(4), window.type("xs)")), ("partly_accepted", 4, "sum(", "xs)")),
        (typed(TEXT), ("typed_through", 0, "", TEXT)),
        (typed("sun"), ("typed_over", 0, "", "sun")),
        (typed("max(values)\ny"), ("typed_over", 0, "", "max(values)")),
        (typed("su", lambda window: window.move(1)), ("ignored", 0, "", "su")),
        (lambda window: window.move(1), ("ignored", 0, "", "")),
        (lambda window: window.wait(10), ("ignored", 0, "", "")),
        (lambda window: (window.wait(12), window.tab()), ("accepted", 11, TEXT, "")),
        (lambda window: (window.type("s"), window.erase(2)), ("ignored", 0, "", "")),
        (lambda window: (window.type("q"), window.erase(), window.tab()), ("accepted", 11, TEXT, "")),
    ],
)
def test_every_way_to_answer_a_suggestion_has_its_outcome(
    script: Script, expected: tuple[Any, ...], tells: bool
) -> None:
    fate = play(script, tells)
    assert row(fate) == expected
    assert fate.outcome in OUTCOMES


def test_escape_is_a_reject_and_only_a_client_can_say_so() -> None:
    assert play(Window.escape).outcome == "rejected"
    assert row(play(lambda window: (window.escape(), window.type("max")))) == ("rejected", 0, "", "max")


def test_escape_after_a_piece_leaves_it_partly_accepted() -> None:
    assert play(lambda window: (window.take(4), window.escape())).outcome == "partly_accepted"


@pytest.mark.parametrize("tells", [False, True])
@pytest.mark.parametrize("script", [typed("q"), lambda window: window.move(1)])
def test_what_was_on_the_screen_under_a_quarter_second_was_unseen(script: Script, tells: bool) -> None:
    window = Window(tells=tells)
    window.offer(TEXT)
    script(window)
    (fate,) = window.close()
    assert (fate.outcome, fate.screen_ms < 250) == ("unseen", True)


def test_what_was_taken_was_seen_however_fast() -> None:
    window = Window()
    window.offer(TEXT)
    window.tab()
    (fate,) = window.close()
    assert (fate.outcome, fate.screen_ms < 250) == ("accepted", True)


def test_a_client_may_know_that_it_was_shown() -> None:
    window = Window()
    window.offer(TEXT)
    window.feedback.shown(window.ghost.id)
    window.type("q")
    assert window.close()[0].outcome == "typed_over"


def test_typing_through_stays_one_suggestion_on_the_screen_all_the_time() -> None:
    window = Window()
    window.offer(TEXT)
    window.type("sum(")
    window.wait(2)
    window.tab()
    (fate,) = window.close()
    assert (fate.outcome, fate.accepted) == ("accepted", 7)
    assert fate.screen_ms == pytest.approx(4 * 150 + 2000 + 10)


def test_a_fate_has_what_its_request_and_its_answer_had() -> None:
    window = Window("import os\nx = ║\ny\n")
    window.feedback.base = "base-1"
    window.configure(workspaceTrusted=False)
    window.offer(TEXT, logprobs=(-0.5,), probability=0.6, adapter="a1", latency_ms=12.0, automatic=False)
    window.wait(1)
    window.tab()
    (fate,) = window.close()
    assert (fate.prefix, fate.suffix, fate.text) == ("import os\nx = ", "\ny\n", TEXT)
    assert (fate.path, fate.language, fate.base, fate.adapter) == ("one.py", "python", "base-1", "a1")
    assert (fate.logprobs, fate.probability, fate.latency_ms) == ((-0.5,), 0.6, 12.0)
    assert (fate.trusted, fate.automatic, fate.when) == (False, False, 1000.0 + 1e9)
    assert "x = sum(values)" in fate.around


# ---- what editors do by themselves ----


def test_a_bracket_that_the_editor_closed_contradicts_nothing() -> None:
    def script(window: Window) -> None:
        window.type("sum(", right=")")
        assert window.ghost.replaced == 1
        window.tab()

    assert row(play(script)) == ("accepted", 7, TEXT, "")


def test_a_bracket_and_its_closer_in_two_changes_contradict_nothing() -> None:
    def script(window: Window) -> None:
        window.type("sum")
        at, behind = window.cursor, Place(0, window.cursor.column + 1)
        window.changes((at, at, "("), (behind, behind, ")"))
        window.cursor = behind
        window.ask()
        window.tab()

    assert row(play(script)) == ("accepted", 7, TEXT, "")


def test_a_closer_typed_against_the_ghost_contradicts_it() -> None:
    assert row(play(typed("sum()"))) == ("typed_over", 0, "", "sum()")


def test_typing_through_behind_a_closed_bracket_is_typing_through() -> None:
    def script(window: Window) -> None:
        window.type("sum(", right=")")
        window.type("values")

    assert play(script).outcome == "typed_through"


def test_a_new_line_with_its_indentation_is_one_key() -> None:
    text = "\n    return x"
    fate = play(lambda window: (window.insert("\n    ", by_hand=True), window.tab()), drawn="def f():║\n", text=text)
    assert row(fate) == ("accepted", len("return x"), text, "")


def test_a_line_that_the_editor_indents_anew_is_taken_all_the_same() -> None:
    text = "if x:\n    return 1"
    window = Window("def f():\n  ║\n")
    window.offer(text)
    window.wait(1)
    window.insert("if x:\n      return 1")
    (fate,) = window.close()
    assert row(fate) == ("accepted", len(text), "if x:\n      return 1", "")


def test_indentation_taken_away_left_of_the_ghost_contradicts_nothing() -> None:
    window = Window("if a:\n    b\n    el║\n")
    window.offer("se:\n        c")
    window.wait(1)
    window.changes((Place(2, 6), Place(2, 6), "s"), (Place(2, 0), Place(2, 4), ""))
    window.cursor = Place(2, 3)
    window.ask()
    window.insert("e:\n        c")
    (fate,) = window.close()
    assert (fate.outcome, fate.accepted) == ("accepted", len("e:\n        c"))


def test_blanks_trimmed_elsewhere_do_not_mean_that_the_cursor_left() -> None:
    window = Window("a  \nx = ║\n")
    window.offer(TEXT)
    window.wait(1)
    window.changes((Place(0, 1), Place(0, 3), ""))
    window.tab()
    assert window.close()[0].outcome == "accepted"


def test_an_edit_elsewhere_means_that_the_cursor_left() -> None:
    window = Window("a\nx = ║\n")
    window.offer(TEXT)
    window.wait(1)
    window.changes((Place(0, 1), Place(0, 1), "b"))
    assert window.close()[0].outcome == "ignored"


def test_a_request_in_another_document_means_that_the_cursor_left() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.feedback.asked(Document("untitled:two", "python", 1, ""), Place(0, 0))
    window.wait(2)
    (fate,) = window.close()
    assert (fate.outcome, fate.screen_ms) == ("ignored", 1000)


def test_deleting_what_stood_before_the_ghost_makes_it_go() -> None:
    fate = play(lambda window: (window.erase(2), window.type("q")), drawn="x = 1║\n")
    assert fate.outcome == "ignored"


def test_the_menus_own_item_is_none_of_ours() -> None:
    window = Window("pri║\n")
    window.texts = ["print(values)"]
    window.ask(menu="print")
    window.wait(1)
    window.insert("nt", by_hand=True)
    window.wait(1)
    window.tab()
    (fate,) = window.close()
    assert (fate.outcome, fate.accepted, fate.inserted) == ("accepted", len("(values)"), "print(values)")


def test_an_item_of_the_fallback_menu_replaces_the_word_and_is_accepted() -> None:
    window = Window("x = to║\n")
    window.offer("tal(values)")
    window.wait(1)
    window.replace(Place(0, 4), Place(0, 6), "total(values)")
    assert row(window.close()[0]) == ("accepted", 11, "tal(values)", "")


# ---- several at once, and again ----


def test_only_the_taken_one_of_alternatives_is_accepted() -> None:
    window = Window()
    window.offer("sum(values)", "sum(rows)", "max(values)")
    window.wait(1)
    window.insert("sum(rows)")
    assert {fate.text: fate.outcome for fate in window.close()} == {
        "sum(values)": "ignored",
        "sum(rows)": "accepted",
        "max(values)": "unseen",
    }


def test_a_piece_that_alternatives_have_in_common_belongs_to_the_one_the_client_names() -> None:
    window = Window()
    window.offer("sum(values)", "sum(rows)")
    window.wait(1)
    first, second = window.made
    window.insert("sum(")
    window.feedback.partly(second, 4)
    fates = {fate.id: (fate.outcome, fate.accepted) for fate in window.close()}
    assert fates == {first: ("ignored", 0), second: ("partly_accepted", 4)}


def test_typing_over_the_best_is_no_answer_to_the_others() -> None:
    window = Window()
    window.offer("sum(values)", "max(values)")
    window.wait(1)
    window.type("q")
    assert {fate.text: fate.outcome for fate in window.close()} == {
        "sum(values)": "typed_over",
        "max(values)": "unseen",
    }


def test_a_newer_suggestion_takes_the_place_of_the_old_one() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.suggestions.clear()
    window.offer("max(values)")
    window.wait(1)
    window.tab()
    assert [(fate.text, fate.outcome) for fate in window.close()] == [(TEXT, "ignored"), ("max(values)", "accepted")]


def test_the_same_text_asked_for_anew_is_the_same_suggestion() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.type("su")
    window.suggestions.clear()
    window.offer("m(values)")
    first, second = window.made
    window.insert("m(values)")
    window.feedback.accepted(second)
    (fate,) = window.close()
    assert (fate.id, fate.outcome, fate.accepted) == (first, "accepted", 9)


def test_a_reply_that_came_too_late_was_never_offered() -> None:
    window = Window()
    made = window.make(TEXT, window.cursor)
    window.replace(window.cursor, window.cursor, "q")
    window.feedback.offered(window.document, 1, [Item(made, TEXT, window.cursor, window.cursor)])
    assert window.close() == []


def test_what_is_offered_again_long_after_it_was_told_is_another_row() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    window.move(1, 4)
    window.wait(20)
    assert [fate.outcome for fate in window.fates] == ["ignored"]
    window.move(0, 4)
    window.tab()
    first, second = window.close()
    assert (second.outcome, second.id != first.id) == ("accepted", True)


def test_an_accept_undone_and_offered_again_stays_accepted() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.replace(Place(0, 4), window.cursor, "")
    window.cursor = Place(0, 4)
    window.ask()
    window.type("q")
    window.wait(LONG)
    (fate,) = window.close()
    assert fate.outcome == "accepted"
    assert window.survivals[0].text == "q"


@given(st.data())
def test_notifications_and_edits_alone_tell_the_same(data: st.DataObject) -> None:
    texts = st.sampled_from([TEXT, "value", "if x:\n    return sum(values)\nreturn 0", "f(a)(b)[c]", "αβ😀 = 'γδ'"])
    actions = st.lists(
        st.sampled_from(["key", "key", "wrong", "piece", "tab", "away", "back", "wait", "erase"]), max_size=9
    )
    script, text, other = data.draw(actions), data.draw(texts), data.draw(texts)
    windows = [Window("x = ║\ny = \n", tells) for tells in (False, True)]
    for window in windows:
        window.offer(text)
        window.wait(0.5)
        for action in script:
            act(window, action)
            if window.ghost is None:
                window.offer(other)
        window.close()
    silent, telling = ([(fate.text, *row(fate)) for fate in window.fates] for window in windows)
    assert silent == telling


def act(window: Window, action: str) -> None:
    ghost = window.ghost
    if action == "key" and ghost is not None:
        window.type(ghost.text[0])
    elif action == "wrong":
        window.type("q")
    elif action == "piece" and ghost is not None and len(ghost.text) > 3:
        window.take(2 + len(ghost.text) // 3)
    elif action == "tab" and ghost is not None and len(ghost.text) > 2:
        window.tab()
    elif action == "away":
        window.move(window.document.end.line - 1, 4)
    elif action == "back":
        window.move(0, 4)
    elif action == "wait":
        window.wait(3)
    elif action == "erase" and window.cursor.column > 4:
        window.erase()


# ---- when it is told ----


def test_a_row_waits_until_its_line_was_left_and_is_quiet() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    window.type("max")
    window.wait(LONG)
    assert window.fates == []
    window.move(1, 4)
    window.wait(1)
    assert [fate.instead for fate in window.fates] == ["max"]


def test_a_line_edited_again_and_again_holds_its_row_back() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    for _ in range(5):
        window.type("q")
        window.move(1, 4)
        window.wait(10)
        window.move(0, 4)
        assert window.fates == []
    window.move(1, 4)
    window.wait(20)
    assert len(window.fates) == 1


def test_a_row_waits_for_any_line_that_was_being_typed_in_when_it_was_asked_for() -> None:
    window = Window("║\ny = \n")
    window.type("token = 'AKIA")
    window.move(1, 4)
    window.offer(TEXT)
    window.wait(1)
    window.move(0, 13)
    for key in "IOSFODNN7":
        window.type(key)
        window.wait(5)
        assert window.fates == []
    window.move(2, 0)
    window.wait(20)
    assert ["AKIAIOSFODNN7" in fate.around for fate in window.fates] == [True]


def test_a_person_who_does_nothing_for_minutes_has_left_the_line() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.wait(200)
    assert window.fates == []
    window.wait(150)
    assert len(window.fates) == 1


def test_a_save_tells_what_the_cursor_has_left_and_nothing_of_its_line() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.save()
    assert window.fates == []
    window.type("\nz")
    window.save()
    assert [fate.outcome for fate in window.fates] == ["accepted"]


def test_a_closed_document_tells_everything_and_is_forgotten() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.feedback.closed(window.document.uri)
    assert [fate.outcome for fate in window.fates] == ["ignored"]
    window.feedback.close()
    assert (len(window.fates), window.feedback.pending) == (1, False)


def test_a_document_that_became_private_is_forgotten_untold() -> None:
    window = Window(uri="file:///w/.env")
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    assert window.close() == []
    window = Window()
    window.offer(TEXT)
    window.feedback.drop(window.document.uri)
    assert window.close() == []


# ---- what survives ----


def test_what_was_taken_is_looked_at_again_at_every_time_and_event() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.type("\nz")
    window.wait(20)
    window.replace(Place(0, 8), Place(0, 14), "rows")
    window.wait(20)
    window.save()
    window.save()
    window.wait(700)
    window.close()
    assert [(one.at, one.text) for one in window.survivals] == [
        ("15", TEXT),
        ("30", "sum(rows)"),
        ("save", "sum(rows)"),
        ("120", "sum(rows)"),
        ("300", "sum(rows)"),
        ("600", "sum(rows)"),
    ]
    assert {one.id for one in window.survivals} == {window.fates[0].id}
    assert window.signals.index(window.fates[0]) < window.signals.index(window.survivals[0])


def test_a_window_that_ends_looks_a_last_time() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.close()
    assert [(one.at, one.text) for one in window.survivals] == [("close", TEXT)]


def test_the_place_of_a_reject_is_looked_at_half_a_minute_later() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    window.escape()
    window.type("max\nz")
    window.wait(40)
    window.close()
    assert [(one.at, one.text) for one in window.survivals] == [("30", "max")]


def test_what_was_not_taken_is_not_looked_at_again() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    window.type("max\nz")
    window.wait(700)
    window.save()
    window.close()
    assert (window.survivals, len(window.fates)) == ([], 1)


def test_a_snapshot_of_a_line_that_is_being_typed_in_waits() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    for _ in range(10):
        window.wait(5)
        window.erase()
        window.type("x")
    assert window.signals == []
    window.type("\ny")
    window.wait(16)
    assert [one.at for one in window.survivals] == ["15", "30"]


# ---- what the gate hid, and what was typed ----


def test_what_the_gate_hid_is_compared_with_what_was_typed() -> None:
    window = Window("x = ║\ny = \n")
    window.suppress(TEXT)
    window.type("max(rows)\nz")
    window.wait(20)
    (fate,) = window.fates
    assert row(fate) == ("suppressed", 0, "", "max(rows)")
    assert (fate.reason, fate.probability, fate.screen_ms) == ("too unlikely", 0.1, 0)


def test_characters_typed_by_hand_are_counted_and_those_taken_are_not() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.type("su")
    window.tab()
    window.type("\nfoo")
    window.insert("x" * 100)
    window.wait(61)
    assert window.typed == 6
    window.type("ab")
    window.close()
    assert window.typed == 8


def test_a_last_character_that_the_command_claims_was_not_typed() -> None:
    window = Window(tells=True)
    window.offer("ab")
    window.wait(1)
    window.type("a")
    window.tab()
    (fate,) = window.close()
    assert (row(fate), window.typed) == (("accepted", 1, "ab", ""), 1)


def test_spans_are_told_only_where_the_person_wants_it_and_trusts_the_workspace() -> None:
    for values, wanted in [
        ({}, []),
        ({"recordTyping": True, "workspaceTrusted": False}, []),
        ({"recordTyping": True}, [("", "ab", 0, 4), ("", "\ncd", 0, 6)]),
    ]:
        window = Window()
        window.configure(**values)
        window.type("ab\ncd")
        window.close()
        assert [(one.before, one.after, one.line, one.column) for one in window.spans] == wanted


def test_a_span_of_a_line_that_is_being_typed_in_waits() -> None:
    window = Window()
    window.configure(recordTyping=True)
    window.type("ab\ncd")
    window.wait(20)
    assert [one.after for one in window.spans] == ["ab"]
    window.move(2, 0)
    window.wait(1)
    assert [one.after for one in window.spans] == ["ab", "\ncd"]


@pytest.mark.parametrize("values", [{"recordSuggestions": False}, {"enabled": False}, {"privateGlobs": 3}])
def test_nothing_is_followed_where_nothing_is_to_be_recorded(values: dict[str, Any]) -> None:
    window = Window()
    window.configure(recordTyping=True, **values)
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.suppress(TEXT)
    window.type("abc")
    assert not window.feedback.pending
    window.close()
    assert window.signals == []


def test_switching_off_forgets_what_was_not_told() -> None:
    window = Window()
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.configure(recordSuggestions=False)
    window.close()
    assert window.signals == []


# ---- bad input, and memory ----


@pytest.mark.parametrize("identity", ["", "unknown"])
def test_a_client_that_speaks_of_unknown_suggestions_is_not_heard(identity: str) -> None:
    window = Window()
    window.offer(TEXT)
    window.feedback.shown(identity)
    window.feedback.partly(identity, 3)
    window.feedback.accepted(identity)
    window.feedback.dismissed(identity, "rejected")
    window.feedback.dismissed(window.ghost.id, "bored")
    window.feedback.partly(window.ghost.id, -1)
    assert window.close()[0].outcome == "unseen"


def test_pain_11_many_suggestions_leave_no_growing_memory() -> None:
    window = Window()
    for number in range(3 * MOST_FOLLOWED):
        window.suggestions.clear()
        window.offer(f"name_{number}")
        window.type("q")
    assert len(window.feedback._named) <= MOST_FOLLOWED
    (page,) = window.feedback._pages.values()
    assert len(page.follows) <= MOST_FOLLOWED
    assert len(window.feedback._rows) <= 2 * MOST_FOLLOWED


def test_following_costs_a_fraction_of_a_millisecond_per_key() -> None:
    lines = "    value = compute(name)\n" * 1000
    window = Window(lines + "x = ║\n" + lines)
    window.configure(recordTyping=True)
    times = []
    for number in range(200):
        window.suggestions.clear()
        window.offer(f"name_{number}")
        window.wait(1)
        window.tab()
        began = time.thread_time()
        window.type("q")
        times.append(time.thread_time() - began)
        window.type("\n")
    assert sorted(times)[190] < 0.001


def test_pain_11_a_told_suggestion_keeps_no_prompt() -> None:
    window = Window("x = ║\ny = \n")
    window.offer(TEXT)
    window.wait(1)
    window.tab()
    window.type("\nz")
    window.wait(20)
    ((_, follow),) = window.feedback._named.values()
    assert (follow.told, follow.made.request.prefix) == (True, "")
