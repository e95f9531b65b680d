"""The real base completes real code, at cursors inside words, after white space and after a newline."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import write_tiny
from habitab_engine.attention import BLOCK
from habitab_engine.config import EngineSettings
from habitab_engine.engine import SLOTS, Engine
from habitab_engine.errors import Cancelled
from habitab_engine.types import CompletionRequest

POINT = """class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def add(self, other):
        return Point(self.x + other.x, self.y + other.y)

    def subtract(self, other):
"""


def request(prefix: str, suffix: str = "\n", **fields: object) -> CompletionRequest:
    plain = CompletionRequest(
        document="file:///point.py", path="point.py", prefix=prefix, suffix=suffix, language="python"
    )
    return replace(plain, budget_ms=60_000, **fields)


def complete(engine: Engine, asked: CompletionRequest):
    return engine.complete(asked, threading.Event())


@pytest.mark.parametrize(
    "typed",
    ["        return Poi", "        return ", "        ", "", "        return Point(self.x - other.x, self."],
    ids=["inside a word", "after a space", "after the indentation", "after a newline", "after a dot"],
)
def test_a_line_that_follows_from_the_text_above_is_completed(base_engine: Engine, typed: str) -> None:
    line = "        return Point(self.x - other.x, self.y - other.y)"
    text = complete(base_engine, request(POINT + typed)).suggestions[0].text
    assert (typed + text).split("\n")[0] == line


def test_typing_in_one_place_reuses_nearly_all_of_the_prompt(base_engine: Engine) -> None:
    typed, reused, total = "        return Point(self.x -", 0, 0
    complete(base_engine, request(POINT))
    for end in range(1, len(typed)):
        done = complete(base_engine, request(POINT + typed[:end]))
        reused, total = reused + done.reused_tokens, total + done.prompt_tokens
    assert reused / total >= 0.95


def test_log_probabilities_cover_the_healed_and_the_suggested_tokens(base_engine: Engine) -> None:
    suggestion = complete(base_engine, request(POINT + "        ret")).suggestions[0]
    ids = base_engine.tokenizer.encode("\n        return " + suggestion.text)
    assert 1 <= len(suggestion.logprobs) <= len(ids) + 2
    assert all(p <= 0 for p in suggestion.logprobs)


def test_alternatives_are_different_texts_with_the_greedy_one_first(base_engine: Engine) -> None:
    asked = request(POINT + "        ")
    several = complete(base_engine, replace(asked, count=3)).suggestions
    assert several[0].text == complete(base_engine, asked).suggestions[0].text
    assert 1 < len({s.text for s in several}) == len(several) <= 3


def test_a_suggestion_extends_the_selected_menu_item(base_engine: Engine) -> None:
    done = complete(base_engine, request(POINT + "        return Point(self.", must_start="y"))
    assert all(s.text.startswith("y") for s in done.suggestions)


def test_a_cancelled_request_raises_and_the_next_one_is_served(base_engine: Engine) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        base_engine.complete(request(POINT + "        return "), stop)
    assert complete(base_engine, request(POINT + "        return ")).suggestions


def test_a_prefill_leaves_nothing_to_prefill(base_engine: Engine) -> None:
    asked = request("import os\n" + POINT + "        ret", document="file:///other.py")
    assert base_engine.prefill(asked, threading.Event()) > 50
    done = complete(base_engine, asked)
    assert done.reused_tokens == done.prompt_tokens


def test_pain_04_the_time_budget_bounds_a_completion(base_engine: Engine) -> None:
    asked = replace(request(POINT + "        return "), budget_ms=0.0)
    done = complete(base_engine, asked)
    assert done.suggestions == () and done.reason == "time budget"


def test_pain_11_memory_is_bounded_by_the_slots(tiny_engine: Engine) -> None:
    for i in range(3 * SLOTS):
        complete(tiny_engine, request(POINT, document=f"file:///{i}.py", max_tokens=2))
    full = tiny_engine.status()["cache_bytes"]
    assert tiny_engine.status()["slots"] == SLOTS
    complete(tiny_engine, request(POINT, document="file:///more.py", max_tokens=2))
    assert tiny_engine.status()["cache_bytes"] == full
    tiny_engine.forget("file:///more.py")
    assert tiny_engine.status()["slots"] == SLOTS - 1


def test_the_engine_says_what_it_is(base_engine: Engine) -> None:
    status = base_engine.status()
    assert status["base"] == "habitab-base-1" and status["template"] == "habitab"
    assert status["kernels"].keys() == {"prefill", "decode"}


def test_a_plain_engine_gives_the_same_completion(base_engine: Engine) -> None:
    plain = Engine.load(EngineSettings(kernel="float32"))
    asked = request(POINT + "        return Poi")
    assert complete(plain, asked).suggestions[0].text == complete(base_engine, asked).suggestions[0].text


@pytest.mark.parametrize("prefix", ["", "\ufeff", "x" * 40_000, "\t" * 300, "😀" * 500, "a\n" * 9_000])
def test_strange_text_never_breaks_the_engine(tiny_base: Path, tiny_engine: Engine, prefix: str) -> None:
    done = complete(tiny_engine, request(prefix, prefix, max_tokens=3))
    assert done.prompt_tokens <= tiny_engine.budget.total


def test_no_request_is_longer_than_its_cache(tiny_engine: Engine) -> None:
    done = complete(tiny_engine, request("x = 1\n" * 3000, "y = 2\n" * 900, max_tokens=10_000, multiline=True))
    slot = tiny_engine.slot("file:///point.py")
    assert done.prompt_tokens > 300 and len(slot.tokens) <= slot.cache.shape[1] * BLOCK


def test_a_base_with_fewer_positions_gets_a_shorter_prompt(tmp_path: Path) -> None:
    short = Engine.load(EngineSettings(base=str(write_tiny(tmp_path / "short", max_position_embeddings=512))))
    done = complete(short, request("x = 1\n" * 3000, max_tokens=3))
    assert 100 < done.prompt_tokens <= 512 - 192
