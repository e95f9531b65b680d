"""The workspace's files: matches as a naive search finds them, whatever comes, goes or is opened, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from habitab_engine import suffixes
from habitab_engine.base_files import EMBEDDED
from habitab_engine.suffixes import Files
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.units import Encoder
from habitab_engine.windows import AHEAD, OCCURRENCES, REACH
from test_windows import naive

BASE = Tokenizer(EMBEDDED)
ENCODER = Encoder(BASE.encode, len(BASE))
LETTERS = Encoder(lambda text: [ord(c) for c in text], 70_000)

texts = st.lists(st.sampled_from(["ab ", "b", "\n  ", "x.y(", ")", "name"]), max_size=30).map("".join)
paths = st.sampled_from(["a.py", "b.py", "c.py", "d.py", "e.py"])
steps = st.lists(
    st.tuples(st.just("add"), paths, texts)
    | st.tuples(st.sampled_from(["remove", "hide", "show"]), paths, st.just(""))
    | st.tuples(st.just("build"), st.just(""), st.just("")),
    max_size=20,
)


class Reference:
    """What counts, said in the simplest way."""

    def __init__(self) -> None:
        self.counting: dict[str, str] = {}
        self.waiting: dict[str, str] = {}
        self.hidden: dict[str, str] = {}

    def add(self, path: str, text: str) -> None:
        self.counting.pop(path, None)
        (self.hidden if path in self.hidden else self.waiting)[path] = text

    def remove(self, path: str) -> None:
        self.counting.pop(path, None)
        self.waiting.pop(path, None)
        if path in self.hidden:
            self.hidden[path] = ""

    def hide(self, path: str) -> None:
        if path not in self.hidden:
            waiting, counting = self.waiting.pop(path, ""), self.counting.pop(path, "")
            self.hidden[path] = waiting or counting

    def show(self, path: str) -> None:
        if path in self.hidden:
            self.counting[path] = self.hidden.pop(path)

    def build(self) -> None:
        self.counting |= self.waiting
        self.waiting = {}


def apply(files: Files | Reference, kind: str, path: str, text: str) -> None:
    arguments = {"add": (path, text), "build": ()}.get(kind, (path,))
    getattr(files, kind)(*arguments)


def agree(files: Files, encoder: Encoder, counting: dict[str, str], context: str) -> None:
    pattern = encoder.ids(encoder(context))[-REACH:]
    length, followers = files.longest(encoder.codes(pattern[::-1]), AHEAD, 0)
    expected, following = naive([encoder.ids(encoder(text)) for text in counting.values()], pattern)
    assert length == expected
    found = Counter(tuple(encoder.ids(codes)) for codes in followers)
    assert not found - Counter(following)
    if len(files._segments) == 1 and len(following) <= OCCURRENCES:
        assert found == Counter(following)


@pytest.mark.parametrize("encoder", [ENCODER, LETTERS])
@given(steps=steps, context=texts)
def test_matches_are_those_of_a_naive_search_whatever_comes_and_goes(encoder, steps, context) -> None:
    files, reference = Files(encoder, lambda: None), Reference()
    for step in steps:
        apply(files, *step)
        apply(reference, *step)
    agree(files, encoder, reference.counting, context)


@given(before=steps, during=steps, context=texts)
def test_what_happens_during_a_build_is_not_lost(before, during, context) -> None:
    """The builder pauses without its lock: whatever another thread does then must hold afterwards."""
    happening = [step for step in during if step[0] in ("remove", "hide", "show")]
    actions: list[Callable[[], None]] = []
    files, reference = Files(ENCODER, lambda: actions.pop(0)() if actions else None), Reference()
    for step in before:
        apply(files, *step)
        apply(reference, *step)
    actions += [lambda step=step: apply(files, *step) for step in happening]
    apply(files, "build", "", "")
    done = happening[: len(happening) - len(actions)]
    actions.clear()
    apply(reference, "build", "", "")
    for step in done:
        apply(reference, *step)
    agree(files, ENCODER, reference.counting, context)


@given(st.lists(texts, min_size=1, max_size=40))
@settings(max_examples=30)
def test_small_segments_grow_together(contents: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suffixes, "SEGMENT", 100)
        files = Files(ENCODER, lambda: None)
        for i, text in enumerate(contents):
            files.add(f"{i}.py", text)
            files.build()
        files.build()
        sizes = sorted(segment.live for segment in files._segments)
        assert len(sizes) <= sum(sizes) // 30 + 6
        agree(files, ENCODER, {str(i): text for i, text in enumerate(contents)}, contents[0])


def test_contexts_are_told_apart_at_every_length() -> None:
    files = Files(ENCODER, lambda: None)
    for n in range(REACH + 5):
        files.add(f"{n}.py", f"start{n}{' ab' * n} end{n}")
    files.build()
    for n in range(1, REACH - 3):
        pattern = BASE.encode(f"start{n}{' ab' * n}")
        length, followers = files.longest(ENCODER.codes(pattern[::-1]), 1, 0)
        assert length == len(pattern)
        assert [ENCODER.ids(codes) for codes in followers] == [BASE.encode(" end")]


def test_a_full_segment_is_built_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffixes, "SEGMENT", 50)
    files = Files(ENCODER, lambda: None)
    for i in range(10):
        files.add(f"{i}.py", f"value_{i} = other_{i} + third_{i}\n")
    assert files._segments and len(files._waiting) < 10


def test_what_is_thrown_away_gives_its_memory_back() -> None:
    files = Files(ENCODER, lambda: None)
    for i in range(20):
        files.add(f"{i}.py", f"value_{i} = other_{i} + third_{i}\n" * 20)
    files.build()
    held = sum(len(segment._codes) for segment in files._segments)
    for i in range(15):
        files.remove(f"{i}.py")
    files.build()
    assert sum(len(segment._codes) for segment in files._segments) < held / 2
    for i in range(15, 20):
        files.remove(f"{i}.py")
    files.build()
    assert not files._segments and len(files) == 0


def test_there_is_room_for_so_much_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffixes, "MOST", 100)
    files = Files(ENCODER, lambda: None)
    kept = [files.add(f"{i}.py", "value = other + third\n" * 3) for i in range(50)]
    files.build()
    assert kept[0] and not kept[-1] and len(files) <= 100
    assert files.add("0.py", "value = other + third\n" * 3)  # a new version takes its own room


def test_a_million_equal_lines_are_sorted_and_searched_like_others() -> None:
    files = Files(ENCODER, lambda: None)
    files.add("a.py", "x = 1\n" * 50_000)
    files.build()
    pattern = BASE.encode("x = 1\n" * 20)[-REACH:]
    length, followers = files.longest(ENCODER.codes(pattern[::-1]), 4, 0)
    assert length == REACH and OCCURRENCES <= len(followers) < 3 * OCCURRENCES
    expected = BASE.encode("x = 1\n" * 20)[:4]
    assert all(ENCODER.ids(codes) == expected[: len(codes) // 2] for codes in followers)


def test_names_are_counted_by_the_files_that_have_them() -> None:
    files = Files(ENCODER, lambda: None)
    files.add("a.py", "quarz_alpha quarz_beta quarz_alpha")
    files.build()
    files.add("b.py", "quarz_beta quarz_gamma")
    files.build()
    assert files.beginning("quarz_") == {"quarz_alpha": 1, "quarz_beta": 2, "quarz_gamma": 1}
    files.hide("b.py")
    assert files.beginning("quarz_") == {"quarz_alpha": 1, "quarz_beta": 1}
    files.show("b.py")
    files.remove("a.py")
    assert files.beginning("quarz_") == {"quarz_beta": 1, "quarz_gamma": 1}
