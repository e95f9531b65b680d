"""Names: counted exactly, found by their beginning, ranked by what is near and what stood before them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine import words
from habitab_engine.words import CANDIDATES, LEAST, MOST, NEAR, Table, Today, names_of, packed, ranked

names = st.sampled_from(
    ["alpha", "alphabet", "alpine", "beta", "betatron", "name_1", "name_12", "été_", "ab", "漢字漢字"]
)
texts = st.lists(names, max_size=12).map(" + ".join)
beginnings = st.sampled_from(["", "a", "al", "alpha", "alphabet", "b", "name_", "é", "漢", "zz"])


def test_what_is_worth_keeping() -> None:
    kept = names_of(f"if x1 == _abc: self.value_1 = 12abcd + ok + {'n' * (MOST + 1)} + größe")
    assert kept == ["_abc", "self", "value_1", "abcd", "größe"]
    assert min(map(len, kept)) >= LEAST


@given(st.lists(st.tuples(st.integers(0, 2), texts), max_size=12), beginnings)
def test_todays_names_are_those_of_todays_texts(edits: list[tuple[int, str]], typed: str) -> None:
    today, documents = Today(), ["", "", ""]
    for which, text in edits:
        today.exchange(documents[which], text)
        documents[which] = text
    expected = Counter(name for text in documents for name in names_of(text) if name.startswith(typed))
    assert today.beginning(typed) == expected
    assert today._sorted == sorted(today._counts)


def test_many_new_names_are_kept_in_order() -> None:
    today = Today()
    today.exchange("", " ".join(f"name_{i}" for i in range(3 * CANDIDATES)))
    today.exchange("name_7", "name_8 other")
    assert today.beginning("oth") == {"other": 1}
    assert len(today.beginning("name_")) == CANDIDATES and today.beginning("name_")["name_8"] == 2
    assert today.beginning("name_7") == {f"name_7{i}": 1 for i in range(10)}


@given(st.dictionaries(st.sampled_from("abcdef"), texts, max_size=6), st.sets(st.sampled_from("abcdef")), beginnings)
def test_a_table_counts_the_files_that_have_a_name(files: dict[str, str], gone: set[str], typed: str) -> None:
    table = Table({path: packed(set(names_of(text))) for path, text in files.items()})
    for path in gone & files.keys():
        table.remove(path)
    left = {path: set(names_of(text)) for path, text in files.items() if path not in gone}
    expected = Counter(name for found in left.values() for name in found if name.startswith(typed))
    assert table.beginning(typed) == expected
    assert all(set(table.names(path).decode().split()) == found for path, found in left.items())


def test_of_many_names_in_files_the_most_frequent_are_given() -> None:
    files = {str(i): packed({f"name_{j}" for j in range(i, 100)}) for i in range(100)}
    found = Table(files).beginning("name_")
    assert len(found) == CANDIDATES and min(found.values()) == 101 - CANDIDATES


@given(texts, beginnings.filter(bool), texts)
def test_shares_add_up_and_every_name_begins_as_typed(before: str, typed: str, after: str) -> None:
    found = ranked(before + " ", typed, " " + after, {}, {typed + "_x": 3})
    assert sum(share for _, share in found) == pytest.approx(1)
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)
    assert all(name.startswith(typed) for name, _ in found)
    assert len({name for name, _ in found}) == len(found)


def best(before: str, typed: str, after: str = "") -> str:
    return ranked(before, typed, after, {}, {})[0][0]


def test_nothing_typed_says_nothing() -> None:
    assert ranked("alpha = ", "", "", {}, {}) == []


def test_the_nearer_of_two_names_comes_first() -> None:
    assert best("index_a = 1\n" + "x = 2\n" * 40 + "index_b = 1\ny = ", "ind") == "index_b"


def test_what_stands_before_a_name_says_more_than_nearness() -> None:
    assert best("job.status()\nstarted = 1\nstarted = 2\nx = job.", "sta") == "status"


def test_a_name_below_the_cursor_counts() -> None:
    assert best("x = ", "tot", "\nprint(total_size)\n") == "total_size"


def test_the_word_itself_is_among_the_names() -> None:
    assert {name for name, _ in ranked("task = task_name\nx = ", "task", "", {}, {})} == {"task", "task_name"}


def test_a_name_begins_where_a_word_begins() -> None:
    assert ranked("restart = 1\nx = ", "start", "", {}, {}) == []


def test_far_text_is_not_read_anew() -> None:
    far = "distant_name = 1\n" + " " * (NEAR[0] + 10)
    assert ranked(far, "dist", "", {}, {}) == []
    assert ranked(far, "dist", "", {"distant_name": 1}, {})[0][0] == "distant_name"


def test_every_figure_of_the_score_helps() -> None:
    sight = words._Sight(distance=100, after=True, left=5)
    score = words._score(sight, 2, 2)
    worse = [
        words._score(words._Sight(distance=1000, after=True, left=5), 2, 2),
        words._score(words._Sight(distance=100, after=False, left=5), 2, 2),
        words._score(words._Sight(distance=100, after=True, left=1), 2, 2),
        words._score(sight, 1, 2),
        words._score(sight, 2, 1),
    ]
    assert all(score > other for other in worse)
