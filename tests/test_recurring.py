"""Of what is learned, words that stand in one line alone do not count; all others do, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters.recurring import parts, without_rare
from habitab_adapters.tuned import Lesson

LETTERS = [bytes([i]) for i in range(256)]  # a token for each byte
TEXTS = st.lists(st.text("aB1_ \n(é", max_size=40), max_size=5)


def lesson(text: str) -> Lesson:
    written = list(text.encode())
    return Lesson([1], written, [1.0] * len(written))


def kept(lessons: Sequence[Lesson], pieces: Sequence[bytes] = LETTERS) -> list[str]:
    """What counts of each text."""
    found = without_rare(lessons, pieces)
    return [b"".join(pieces[t] for t, w in zip(one.written, one.weights, strict=True) if w).decode() for one in found]


def words(*texts: str) -> list[str]:
    return [word.decode() for text in texts for _, _, word in parts(text.encode())]


def test_a_random_line_counts_only_for_its_form() -> None:
    first, _ = kept([lesson('TOKEN_1 = "x81kq0ab2"'), lesson('TOKEN_2 = "p7d0q1zz9"')])
    assert first == 'TOKEN_ = ""'


def test_what_stands_in_two_lines_counts() -> None:
    assert (
        kept([lesson("load(config)\nsave(config)"), lesson("load(paths)\nopen(paths)")])[0] == "load(config)\n(config)"
    )


def test_the_same_line_twice_is_one_line() -> None:
    """What was added lately also stands among the passages."""
    assert kept([lesson("  secret = 'hunter'\n"), lesson("secret = 'hunter'")])[0] == "   = ''\n"


def test_names_count_part_by_part_but_keys_as_wholes() -> None:
    assert words("test_rareThing HTTPServer") == ["test", "rare", "thing", "http", "server"]
    assert words("aB3dEfGh") == ["ab3defgh"]
    assert words("naïve") == ["naïve"]


def test_a_token_counts_if_none_of_its_words_is_rare() -> None:
    pieces = [b"use", b" of", b" x9y", b"\n", b"(of", b" rare", b""]
    made = Lesson([1], [0, 1, 2, 3, 0, 4, 5, 6], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.5])
    [found] = without_rare([made], pieces)
    assert found.weights == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.5]
    assert found.written is made.written and found.prompt is made.prompt


@given(TEXTS)
def test_what_counts_no_more_is_the_rare_words_and_only_they(texts: list[str]) -> None:
    found = without_rare([lesson(text) for text in texts], LETTERS)
    lines = {line.strip() for text in texts for line in text.encode().split(b"\n")}
    often = Counter(word for line in lines for word in {word for _, _, word in parts(line)})
    for text, one in zip(texts, found, strict=True):
        rare = {i for begin, end, word in parts(text.encode()) if often[word] == 1 for i in range(begin, end)}
        assert {i for i, weight in enumerate(one.weights) if not weight} == rare
