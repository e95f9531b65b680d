"""Of what is learned, words that stand in one line alone do not count; all others do, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters.recurring import parts, without_rare, words_of
from habitab_adapters.repository import Repository
from habitab_adapters.tuned import Lesson
from histories import History

LETTERS = [bytes([i]) for i in range(256)]  # a token for each byte
TEXTS = st.lists(st.text("aB1_ \n(é", max_size=40), max_size=5)


def lesson(text: str) -> Lesson:
    written = list(text.encode())
    return Lesson([1], written, [1.0] * len(written))


def counted(*files: str) -> Counter[bytes]:
    lines = [line for text in files for line in text.encode().split(b"\n")]
    return Counter(word for line in lines for word in {word for _, _, word in parts(line)})


def kept(text: str, *files: str) -> str:
    """What counts of `text` where these files stand."""
    [found] = without_rare([lesson(text)], counted(*files), LETTERS)
    return bytes(t for t, w in zip(found.written, found.weights, strict=True) if w).decode()


def words(text: str) -> list[str]:
    return [word.decode() for _, _, word in parts(text.encode())]


def test_a_random_line_counts_only_for_its_form() -> None:
    assert kept('TOKEN_1 = "x81kq0ab2"', "TOKEN = 1\nTOKEN = 1") == 'TOKEN_1 = ""'


def test_what_stands_in_two_lines_counts() -> None:
    text = "load(config)\nsave(config)"
    assert kept(text, text, "load(paths)\nopen(paths)") == "load(config)\n(config)"
    assert kept(text, text, text) == text


def test_twice_in_a_line_is_one_line() -> None:
    assert kept("x = x", "x = x") == " = "


def test_words_are_counted_where_people_write(tmp_path: Path) -> None:
    made = History(tmp_path / "made")
    made.commit({"a.py": "one = two\n", "b.py": "two = two\n", "c.bin": "one\n", "d.py": "x " * 5000})
    with Repository(made.folder) as repository:
        [commit] = repository.commits()
        assert words_of(repository, commit) == {b"one": 1, b"two": 2}


def test_names_count_part_by_part_but_keys_as_wholes() -> None:
    assert words("test_rareThing HTTPServer") == ["test", "rare", "thing", "http", "server"]
    assert words("aB3dEfGh") == ["ab3defgh"]
    assert words("naïve") == ["naïve"]


def test_a_token_counts_if_none_of_its_words_is_rare() -> None:
    pieces = [b"use", b" of", b" x9y", b"\n", b"(of", b" rare", b""]
    made = Lesson([1], [0, 1, 2, 3, 0, 4, 5, 6], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.5])
    [found] = without_rare([made], counted("use of\nuse of"), pieces)
    assert found.weights == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.5]
    assert found.written is made.written and found.prompt is made.prompt


@given(TEXTS, TEXTS)
def test_what_counts_no_more_is_the_rare_words_and_only_they(texts: list[str], files: list[str]) -> None:
    often = counted(*files)
    for text, one in zip(texts, without_rare([lesson(text) for text in texts], often, LETTERS), strict=True):
        rare = {i for begin, end, word in parts(text.encode()) if often[word] < 2 for i in range(begin, end)}
        assert {i for i, weight in enumerate(one.weights) if not weight} == rare
