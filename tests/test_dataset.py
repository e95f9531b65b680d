"""What is learned from a history is what a person wrote, asked for in the engine's own prompt, and no secret."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters import dataset
from habitab_adapters.dataset import Stretch, own_passages, own_stretches
from habitab_adapters.handwork import content_of
from habitab_adapters.learn import written
from habitab_adapters.repository import Repository
from habitab_adapters.tuned import Lesson
from habitab_engine.base_files import load_vocabulary
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.families import detect
from habitab_engine.tokenizer import Tokenizer
from histories import History

HELPER = "def halve(number):\n    return number / 2\n"
FIRST = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n"
LATER = FIRST + "\n\ndef half(path):\n    whole = size(path)\n    return halve(whole)\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    checkpoint = load_checkpoint(None)
    return Tokenizer(checkpoint.folder, detect(load_vocabulary(checkpoint.folder, checkpoint.config)).tokens)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


def lessons(history: History, tokenizer: Tokenizer, author: str = "ada@x.org") -> list[tuple[str, Lesson]]:
    """The last commit's lessons, with the text of their prompts."""
    with Repository(history.folder) as repository:
        commits = [commit for commit in repository.commits() if commit.author == author]
        found = written(repository, tokenizer, list(own_stretches(repository, commits[-1:])), 512, lambda *_: None)
        return [(text(tokenizer, lesson.prompt), lesson) for lesson in found]


def text(tokenizer: Tokenizer, ids: Iterator[int]) -> str:
    names = {i: name for name, i in tokenizer.special_ids.items()}
    return "".join(names.get(i) or tokenizer.pieces[i].decode("utf-8", "replace") for i in ids)


def stretches_of(history: History) -> list[Stretch]:
    with Repository(history.folder) as repository:
        return list(own_stretches(repository, repository.commits()[-1:]))


def test_a_lesson_is_the_prompt_where_the_lines_go_then_the_lines_then_the_end(
    history: History, tokenizer: Tokenizer
) -> None:
    history.commit({"a.py": FIRST + "\n\nprint(size('a'))\n", "helper.py": HELPER})
    history.commit({"a.py": LATER + "\n\nprint(size('a'))\n"})
    [(prompt, lesson)] = lessons(history, tokenizer)
    head, _, tail = prompt.partition("<fim_middle>")
    assert "print(size('a'))" in head and "whole" not in prompt
    assert tail.startswith("import os")
    whole = tail + text(tokenizer, lesson.written)
    assert whole == LATER.rstrip("\n") + "<|endoftext|>"
    assert len(lesson.weights) == len(lesson.written)


def test_what_other_files_say_stands_in_the_prompt_as_it_was_then(history: History, tokenizer: Tokenizer) -> None:
    using = "from helper import halve\n\n\ndef half(number):\n    return halve(number)\n"
    history.commit({"a.py": using, "helper.py": HELPER})
    history.commit({"a.py": using + "\n\ndef quarter(number):\n    return halve(halve(number))\n", "helper.py": None})
    [(prompt, _)] = lessons(history, tokenizer)
    assert "<file_sep>helper.py\ndef halve(number)" in prompt


def test_lines_of_others_between_ones_own_count_for_nothing(history: History, tokenizer: Tokenizer) -> None:
    history.commit({"a.py": "one = 1\ntwo = 2\nthree = 3\n"})
    history.commit({"a.py": "one = 1\nmine = 10\ntwo = 2\nmy_other = 20\nthree = 3\n"})
    [(_, lesson)] = lessons(history, tokenizer)
    counted = text(tokenizer, [t for t, w in zip(lesson.written, lesson.weights, strict=True) if w])
    assert "mine" in counted and "my_other" in counted and "two" not in counted


def test_places_far_apart_are_lessons_of_their_own(history: History) -> None:
    lines = [f"line_{i} = {i}" for i in range(30)]
    history.commit({"a.py": "\n".join(lines) + "\n"})
    changed = [*lines[:5], "first_new = 1", *lines[5:25], "second_new = 2", *lines[25:]]
    history.commit({"a.py": "\n".join(changed) + "\n"})
    assert [(s.first, s.last) for s in stretches_of(history)] == [(5, 6), (26, 27)]


def test_moved_lines_are_not_learned(history: History) -> None:
    history.commit({"a.py": FIRST + "\n\n" + HELPER})
    history.commit({"a.py": FIRST, "b.py": HELPER})
    assert stretches_of(history) == []


def test_a_stretch_with_a_secret_is_left_out_as_a_whole(history: History, tokenizer: Tokenizer) -> None:
    history.commit({"a.py": FIRST})
    history.commit({"a.py": FIRST + "\n\nAWS = 'AKIAIOSFODNN7EXAMPLQ'\npassword = 'hunter22x9'\n"})
    assert stretches_of(history) and lessons(history, tokenizer) == []


def test_long_stretches_are_cut_and_what_was_written_stands_above_the_next(
    history: History, tokenizer: Tokenizer
) -> None:
    history.commit({"a.py": FIRST})
    new = "\n".join(f"value_{i} = compute_something_long({i}, 'text {i}')" for i in range(160))
    history.commit({"a.py": FIRST + new + "\n"})
    found = lessons(history, tokenizer)
    assert len(found) > 2
    assert all(len(lesson.written) <= dataset.LONGEST_STRETCH + 1 for _, lesson in found)
    first = text(tokenizer, found[0][1].written).removesuffix("<|endoftext|>")
    assert first.splitlines()[-1] in found[1][0] and first.splitlines()[-1] not in found[0][0]


def test_binary_and_generated_files_are_passed_over(history: History) -> None:
    history.commit({"a.py": FIRST})
    history.commit({"a.py": b"\xff\xfe\x00binary", "vendor/x.py": LATER, "b.min.js": "var a=1;\n"})
    assert [s for s in stretches_of(history) if s.path != "a.py"] == []


def passages_of(history: History, author: str) -> list[Stretch]:
    with Repository(history.folder) as repository:
        return own_passages(repository, [one for one in repository.commits() if one.author == author])


def lines_of(history: History, passages: list[Stretch]) -> list[str]:
    with Repository(history.folder) as repository:
        return [
            content_of(repository, passage.commit.id, passage.path)[number]
            for passage in passages
            for number in sorted(passage.own)
        ]


def test_passages_are_what_a_person_wrote_and_still_stands_the_newest_last(history: History) -> None:
    history.commit({"a.py": FIRST + "\n\ndef gone():\n    return 'gone'\n"})
    history.commit({"b.py": HELPER}, author="eve@x.org")
    history.commit({"c.py": LATER.replace("half", "newer")})
    history.commit({"a.py": FIRST})
    passages = passages_of(history, "ada@x.org")
    assert [passage.path for passage in passages] == ["a.py", "c.py"]
    assert lines_of(history, passages[:1]) == FIRST.rstrip("\n").split("\n")
    assert [passage.path for passage in passages_of(history, "eve@x.org")] == ["b.py"]


def test_who_wrote_nothing_has_no_passages(history: History) -> None:
    history.commit({"a.py": FIRST})
    assert passages_of(history, "nobody@x.org") == []


def test_a_passage_is_written_between_what_stands_around_it(history: History, tokenizer: Tokenizer) -> None:
    functions = [f"def step_{i}(value):\n    return value * {i} + {i}\n\n\n" for i in range(300)]
    history.commit({"a.py": "".join(functions)})
    passages = passages_of(history, "ada@x.org")
    assert len(passages) > 2
    with Repository(history.folder) as repository:
        found = list(written(repository, tokenizer, passages, 512, lambda *_: None))
    middle = min(found[1:-1], key=lambda lesson: len(lesson.written))
    head, _, tail = text(tokenizer, middle.prompt).partition("<fim_middle>")
    told = tail + text(tokenizer, middle.written).removesuffix("<|endoftext|>")
    shown = head.partition("<fim_suffix>")[2].partition("<fim_prefix>")[0]
    assert shown.strip() and told.strip() and told + shown in "".join(functions)


@given(st.lists(st.sampled_from(["", "  ", "x = 1", "y" * 400]), max_size=60), st.integers(0, 5))
def test_pieces_hold_every_line_that_is_not_blank_once(content: list[str], seed: int) -> None:
    pieces = list(dataset._pieces(content, random.Random(seed)))
    held = [number for first, last in pieces for number in range(first, last)]
    assert held == sorted(set(held))
    assert {number for number, line in enumerate(content) if line.strip()} <= set(held)
    assert all(content[first].strip() and content[last - 1].strip() for first, last in pieces)


def test_where_a_person_ends_may_count_for_nothing(history: History, tokenizer: Tokenizer) -> None:
    history.commit({"a.py": FIRST})
    with Repository(history.folder) as repository:
        found = list(own_stretches(repository, repository.commits()))
        [lesson] = written(repository, tokenizer, found, 512, lambda *_: None, end_weight=0.0)
    assert lesson.weights[-1] == 0 and all(lesson.weights[:-1])
