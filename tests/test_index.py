from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine import index as index_module
from habitab_engine.index import CHUNK_LINES, WORD, Index, spans

SHOP = "def total(prices):\n    return sum(prices)\n\n\nclass Cart:\n    def add(self, item):\n        pass\n"


def put(index: Index, path: str, text: str, language: str = "python") -> None:
    index.put(path, text, language, language)


def found(index: Index, *words: str, family: str = "python") -> list[str]:
    return [chunk.path for chunk in index.search(dict.fromkeys(words, 1.0), family).best(20)]


@given(st.lists(st.sampled_from(["", "  ", "x = 1", "def f():", "    return 2", "class A:", "# said"]), max_size=80))
def test_chunks_are_short_in_order_and_leave_out_blank_lines_only(lines: list[str]) -> None:
    covered: list[int] = []
    for first, last in spans(lines):
        assert 0 < last - first <= CHUNK_LINES
        covered += range(first, last)
    assert covered == sorted(set(covered))
    assert all(not lines[i].strip() for i in set(range(len(lines))) - set(covered))


def test_a_chunk_is_found_by_its_words() -> None:
    index = Index()
    put(index, "shop.py", SHOP)
    put(index, "other.py", "unrelated = words_only()\n")
    assert found(index, "prices", "total") == ["shop.py"]


def test_the_rarer_word_decides() -> None:
    index = Index()
    for i in range(30):
        put(index, f"{i}.py", f"common = thing_{i}()\n")
    put(index, "rare.py", "seldom = nothing()\n")
    assert found(index, "common", "seldom")[0] == "rare.py"


def test_languages_are_kept_apart() -> None:
    index = Index()
    put(index, "a.py", SHOP)
    assert found(index, "prices", family="go") == []


def test_what_replaced_a_text_is_found_and_the_text_is_not() -> None:
    index = Index()
    put(index, "a.py", SHOP)
    put(index, "a.py", "def weigh(parcel): pass\n")
    assert found(index, "prices") == []
    assert found(index, "parcel") == ["a.py"]
    assert index.defining("total") == []
    assert index.defining("weigh") == ["a.py"]


def test_nothing_is_left_of_a_dropped_text() -> None:
    index = Index()
    put(index, "a.py", SHOP)
    index.drop("a.py")
    index.drop("never.py")
    assert (found(index, "prices"), index.defining("total"), index.text("a.py"), index.heads("a.py", "total")) == (
        [],
        [],
        "",
        [],
    )
    assert (len(index), index.chunks) == (0, 0)


def test_a_class_is_shown_with_its_members() -> None:
    index = Index()
    put(index, "a.py", SHOP)
    assert index.heads("a.py", "Cart") == [[(4, 4), (5, 5)]]
    assert index.heads("a.py", "add") == []


def test_the_score_of_a_text_is_that_of_the_same_chunk() -> None:
    index = Index()
    put(index, "a.py", "alpha = beta(gamma)\n")
    put(index, "b.py", "other = words(here)\nmore = words\n")
    search = index.search({"alpha": 1.0, "gamma": 0.5, "absent": 1.0}, "python")
    assert search.share("alpha = beta(gamma)\n") == pytest.approx(search.best(1)[0].score)


def test_a_million_identical_lines_are_one_chunk() -> None:
    index = Index()
    put(index, "a.py", "x = compute(y)\n" * 1_000_000)
    assert index.chunks <= 2


def test_an_empty_index_finds_nothing() -> None:
    assert found(Index(), "x", "y") == []
    index = Index()
    put(index, "a.py", "")
    assert found(index, "x1") == []
    assert index.search({}, "python").best(5) == []


TEXTS = st.lists(st.sampled_from(["apple", "pear", "plum", "fig", "\n", "\n\n", " "]), max_size=30).map("".join)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | TEXTS), max_size=25))
def test_after_any_changes_it_finds_what_a_new_index_finds(changes: list[tuple[str, str | None]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_DEAD", 4)
        index, texts = Index(), dict[str, str]()
        for path, text in changes:
            if text is None:
                index.drop(path)
                texts.pop(path, None)
            else:
                put(index, path, text)
                texts[path] = text
    assert {path: index.text(path) for path in index.paths()} == texts
    for word in ("apple", "pear", "applepear", "fig"):
        chunks = index.search({word: 1.0}, "python").best(100)
        expected = {p for p, text in texts.items() if word in WORD.findall(text)}
        assert {chunk.path for chunk in chunks} == expected
        assert all(word in "\n".join(texts[c.path].split("\n")[c.first : c.last]) for c in chunks)


def test_a_word_that_stands_everywhere_costs_little_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_MOST_POSTINGS", 3)
    index = Index()
    for i in range(10):
        put(index, f"{i}.py", "common = 1\n" + ("seldom = 2\n" if i == 7 else ""))
    assert found(index, "common", "seldom") == ["7.py"]
