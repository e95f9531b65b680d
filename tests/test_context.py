from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.context import (
    MOST_SNIPPETS,
    QUERY_LINES,
    Candidate,
    agreement,
    names_used,
    query,
    rank,
    visible,
)
from habitab_engine.symbols import Import

TEXT = "def total(prices):\n    return sum(prices)\n"


def test_the_nearer_a_word_the_more_it_counts() -> None:
    words = query("alpha\nbeta\ngamma")
    assert words["gamma"] == 1.0
    assert words["alpha"] < words["beta"] < words["gamma"]


def test_words_far_above_do_not_count() -> None:
    assert "alpha" not in query("alpha\n" + "x1\n" * QUERY_LINES)


@given(st.text())
def test_the_weights_of_any_text_lie_between_0_and_1(text: str) -> None:
    assert all(0 < weight <= 1 for weight in query(text).values())


def test_the_best_stands_last() -> None:
    found = rank([Candidate("similar", s, f"{s}.py", f"value_of_{s} = compute()\n") for s in (0.3, 0.9, 0.6)], "")
    assert [snippet.path for snippet in found] == ["0.3.py", "0.6.py", "0.9.py"]


def test_few_are_given_and_none_that_has_little_to_do_with_it() -> None:
    many = [Candidate("open", 0.9, f"{i}.py", f"name_number_{i} = {i}\n") for i in range(50)]
    assert len(rank(many, "")) == MOST_SNIPPETS
    assert rank([Candidate("open", 0.001, "a.py", TEXT)], "") == ()


def test_what_the_prompt_holds_anyway_is_not_given() -> None:
    assert rank([Candidate("similar", 1.0, "a.py", TEXT)], "x = 1\n" + TEXT) == ()


def test_nothing_is_given_twice() -> None:
    twice = [Candidate("similar", 1.0, "a.py", TEXT), Candidate("open", 0.9, "b.py", "\n" + TEXT)]
    assert [snippet.path for snippet in rank(twice, "")] == ["a.py"]


@given(
    st.lists(
        st.builds(
            Candidate,
            st.sampled_from(["open", "edits", "imports", "similar"]),
            st.floats(0, 2),
            st.sampled_from("abc"),
            st.text(alphabet="abcdef \n", max_size=120),
        ),
        max_size=12,
    )
)
def test_the_order_of_the_candidates_does_not_matter(candidates: list[Candidate]) -> None:
    assert rank(candidates, "") == rank(candidates[::-1], "")


def test_the_visible_text_is_around_the_cursor() -> None:
    around = visible("far\n" * 5_000 + "near", "next" + "\nfar away" * 5_000)
    assert "nearnext" in around
    assert len(around) < 10_000


IMPORTS = (
    Import("prices", "", ("shop", "prices")),
    Import("Cart", "Basket", ("shop", "cart")),
    Import("a.b", "", ("a", "b")),
)


def test_imported_names_near_the_cursor_are_found_by_their_own_names() -> None:
    used = names_used("cart = Cart()\nx = prices.total(cart)\na.b.run(", IMPORTS)
    assert [name for _, name in used] == ["run", "total", "Basket"]


def test_names_that_were_not_imported_are_not_found() -> None:
    assert names_used("cart = Shelf()\nprices = 3\n", IMPORTS[1:]) == []


def test_with_everything_imported_any_name_may_be_meant() -> None:
    used = names_used("x = total(y)", (Import("*", "*", ("shop", "prices")),))
    assert "total" in [name for _, name in used]


AGREEMENTS = [
    (Import("c", "c", ("shop", "cart")), "c", "main.py", "src/shop/cart.py", 3),
    (Import("c", "c", ("shop",)), "c", "main.py", "shop/__init__.py", 3),
    (Import("cart", "cart", ("shop",)), "total", "main.py", "shop/cart.py", 3),
    (Import("c", "c", ("shop",)), "c", "main.py", "shop/cart.py", 2),
    (Import("c", "c", ("cart",), 1), "c", "shop/main.py", "shop/cart.py", 3),
    (Import("c", "c", ("cart",), 1), "c", "shop/main.py", "other/cart.py", 0),
    (Import("c", "c", ("cart",), 2), "c", "shop/deep/main.py", "shop/cart.py", 3),
    (Import("x", "x", ("util", "x"), 1), "x", "src/main.ts", "src/util/x/index.ts", 3),
    (Import("pkg", "", ("ex.com", "mod", "pkg")), "Run", "main.go", "pkg/run.go", 1),
    (Import("C", "C", ("a", "b")), "C", "Main.java", "src/a/b/C.java", 3),
    (Import("*", "*", ("dir", "foo")), "f", "main.c", "src/dir/foo.c", 3),
    (Import("os", "", ("os",)), "path", "main.py", "shop/cart.py", 0),
]


@pytest.mark.parametrize(("imported", "name", "here", "path", "expected"), AGREEMENTS)
def test_a_module_is_recognised_by_its_path(imported: Import, name: str, here: str, path: str, expected: int) -> None:
    assert agreement(imported, name, here, path) == expected
