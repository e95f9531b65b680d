"""A gap begins where a person may write and ends where the engine would stop."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from habitab_adapters.pretrain.cursors import KINDS, MOST_CHARACTERS, Page, draw, to_line_end

PYTHON = """import math


class Circle:
    def __init__(self, radius):
        self.radius = radius
        self.name = str(radius)

    def area(self):
        if self.radius > 0:
            return math.pi * self.radius ** 2
        return print("none", [1, 2])
"""
SCRIPT = """function area(circle) {
  const square = circle.radius ** 2;
  return Math.PI * square;
}

export { area };
"""


def gaps(kind: str, text: str, path: str = "a.py") -> list[tuple[str, str, str]]:
    """Before, middle and after of many gaps, each once."""
    page, rng = Page.of(text, path), Random(1)
    drawn = filter(None, (draw(kind, page, rng) for _ in range(600)))
    return sorted({(text[: gap.start], text[gap.start : gap.end], text[gap.end :]) for gap in drawn})


@pytest.mark.parametrize("text", [PYTHON, SCRIPT])
def test_the_rest_of_a_line_ends_before_its_line_break(text: str) -> None:
    for _, middle, after in gaps("rest", text):
        assert "\n" not in middle
        assert after.partition("\n")[0].strip(")]}\"'`;:, ") == ""


def test_a_cursor_stands_in_the_middle_of_words_and_after_the_indentation() -> None:
    drawn = gaps("rest", PYTHON)
    assert any(before.endswith("self.rad") and middle.startswith("ius") for before, middle, _ in drawn)
    assert any(before.endswith("\n        ") and middle == "self.radius = radius" for before, middle, _ in drawn)


def test_no_cursor_stands_inside_the_indentation() -> None:
    for kind in ("rest", "lines", "block"):
        assert not any(middle[0] in " \t" and before[-1:] in ("", "\n") for before, middle, _ in gaps(kind, PYTHON))


def test_the_brackets_that_an_editor_closed_stay_behind_the_gap_at_times() -> None:
    ends = {(middle, after.partition("\n")[0]) for before, middle, after in gaps("rest", PYTHON) if "print(" in before}
    assert {('"none", [1, 2])', ""), ('"none", [1, 2]', ")")} <= ends


def test_a_bracket_that_the_gap_itself_opened_is_closed_in_it() -> None:
    for before, middle, _ in gaps("rest", "total = sum(prices)\n"):
        assert middle.endswith(")") or "sum(" in before


def test_white_space_at_the_end_of_a_line_is_not_written() -> None:
    for kind in ("rest", "lines", "block"):
        assert all(middle == middle.rstrip() for _, middle, _ in gaps(kind, "if x:  \n    y = 1  \n    z = 2\t\n"))


def test_lines_are_whole_and_at_most_six() -> None:
    drawn = gaps("lines", "".join(f"value_{i} = {i}\n" for i in range(20)))
    sizes = {len(middle.strip("\n").split("\n")) for _, middle, _ in drawn}
    assert sizes == {1, 2, 3, 4, 5, 6}
    assert all(after == "" or after.startswith("\n") for *_, after in drawn)
    assert {middle[0] == "\n" for _, middle, _ in drawn} == {True, False}


@pytest.mark.parametrize("kind", ["lines", "block"])
@pytest.mark.parametrize("text", [PYTHON, SCRIPT])
def test_whole_lines_end_at_a_blank_line(kind: str, text: str) -> None:
    assert all("\n\n" not in middle for _, middle, _ in gaps(kind, text))


def test_a_block_is_what_stands_deeper_than_the_line_above_it() -> None:
    blocks = {middle.strip() for _, middle, _ in gaps("block", PYTHON)}
    assert "self.radius = radius\n        self.name = str(radius)" in blocks
    assert "return math.pi * self.radius ** 2" in blocks


def test_a_block_with_a_closing_bracket_has_it_at_times() -> None:
    ends = {middle.endswith("}") for _, middle, _ in gaps("block", SCRIPT, "a.js") if "square" in middle}
    assert ends == {True, False}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80)
@given(text=st.text(alphabet="ab({[)]}:'\"# \t\n\x0c\x85é", max_size=400), seed=st.integers(0, 9))
def test_a_gap_lies_in_any_text_and_holds_something(kind: str, text: str, seed: int) -> None:
    gap = draw(kind, Page.of(text, "a.py"), Random(seed))
    if gap is not None:
        assert 0 <= gap.start < gap.end <= len(text)
        assert gap.end - gap.start <= MOST_CHARACTERS
        assert text[gap.start : gap.end].strip()


@settings(max_examples=80)
@given(text=st.text(alphabet="ab() \n", max_size=200), seed=st.integers(0, 9))
def test_with_nothing_behind_it_a_gap_ends_with_a_line(text: str, seed: int) -> None:
    page = Page.of(text, "a.py")
    gap = draw("span", page, Random(seed))
    if gap is not None:
        longer = to_line_end(page, gap)
        middle = text[longer.start : longer.end]
        assert longer.start == gap.start
        assert middle == middle.rstrip() != ""
        assert text[longer.end :].partition("\n")[0].strip() == ""


@given(st.text(alphabet="ab \n\x0c", max_size=80))
def test_a_page_is_its_lines(text: str) -> None:
    page = Page.of(text, "a.py")
    assert "\n".join(page.line(i) for i in range(len(page))) == text
    assert all(page.line_at(page.starts[i]) == i for i in range(len(page)))
