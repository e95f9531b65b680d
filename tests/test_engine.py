"""The real base completes real code, at cursors inside words, after white space and after a newline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import write_tiny
from habitab_adapters.registry import Registry
from habitab_engine.adapters import FACTS, POINTER, WEIGHTS, Worn
from habitab_engine.attention import BLOCK
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.config import EngineSettings, Settings
from habitab_engine.copying import own_probability, weighed
from habitab_engine.decode import Generated, prefill
from habitab_engine.engine import SLOTS, Engine
from habitab_engine.errors import AdapterError, Cancelled
from habitab_engine.home import Home
from habitab_engine.types import CompletionRequest
from loras import facts_of, random_lora

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


def test_what_follows_from_the_text_is_likelier_than_what_does_not(base_engine: Engine) -> None:
    sure = complete(base_engine, request(POINT + "        return Poi")).suggestions[0]
    unsure = complete(base_engine, request("import os\n\nzebra = os.", document="file:///other.py")).suggestions[0]
    assert 0 < unsure.probability < Settings().show_threshold < 0.5 < sure.probability < 1


def test_the_first_line_with_text_makes_the_probability_of_several(base_engine: Engine) -> None:
    first, rest = base_engine.tokenizer.encode("\n    one()"), base_engine.tokenizer.encode("\n    two()")
    asked = request(POINT)
    prompt = replace(base_engine.prompt(asked, base_engine.slot(asked.document)), healed="")
    likely, unlikely = [-0.1] * len(first), [-9.0] * len(rest)
    run = Generated(ids=first + rest, logprobs=likely + unlikely)
    made = base_engine._suggestion(run, prompt, "\n    one()\n    two()")
    assert made.logprobs == (*likely, *unlikely)
    assert made.probability == weighed(own_probability(likely), "", None)[0] > Settings().show_threshold
    assert base_engine._suggestion(replace(run, copied=0.9), prompt, "\n    one()\n    two()").probability == 0.9


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


@pytest.fixture
def registry(tiny_base: Path, tmp_path: Path) -> Registry:
    """Two versions for the tiny base, none active."""
    home, base = Home(tmp_path / "h", "ann"), load_checkpoint(tiny_base)
    home.prepare()
    registry = Registry(home, tiny_base)
    for seed in (1, 2):
        registry.add(random_lora(base, seed=seed), facts_of(base))
    return registry


def load(registry: Registry) -> Engine:
    return Engine.load(EngineSettings(base=str(registry.base), threads=1, kernel="float32"), registry.folder)


def logits(engine: Engine, asked: CompletionRequest) -> torch.Tensor:
    """After the prompt: a random model suggests nothing that could be compared."""
    slot = engine.slot(asked.document)
    return prefill(engine.model, slot, engine.prompt(asked, slot).tokens, bool)[0]


def swap(engine: Engine, registry: Registry, version: str) -> None:
    prepared = engine.prepare(registry.folder, version, lambda: None)
    assert engine.fill(prepared, lambda: None)
    engine.exchange(prepared)


def test_the_active_adapter_is_served_from_the_start(registry: Registry) -> None:
    base, asked = load(registry), request(POINT, max_tokens=8)
    assert complete(base, asked).adapter == base.status()["adapter"] == ""
    registry.activate("v1")
    engine = load(registry)
    assert engine.worn == Worn("v1", "v1")
    assert complete(engine, asked).adapter == engine.status()["adapter"] == "v1"
    assert (logits(engine, asked) - logits(base, asked)).abs().max() > 0.1


@pytest.mark.parametrize("version", ["v2", ""])
def test_after_a_swap_completions_are_those_of_an_engine_started_so(registry: Registry, version: str) -> None:
    registry.activate("v1")
    engine = load(registry)
    asked = [request(POINT + "        return Point(self.x - other.x"[:n], max_tokens=8) for n in (16, 20, 30)]
    for each in asked:
        complete(engine, each)
    swap(engine, registry, version)
    registry.activate(version or None)
    fresh = load(registry)
    for each in asked:
        swapped, started = complete(engine, each), complete(fresh, each)
        assert swapped.adapter == started.adapter == version
        assert [s.text for s in swapped.suggestions] == [s.text for s in started.suggestions]
        torch.testing.assert_close(logits(engine, each), logits(fresh, each), rtol=1e-3, atol=1e-3)


def test_a_swap_drops_every_cache_and_has_that_of_the_last_document_ready(registry: Registry) -> None:
    engine = load(registry)
    first, last = request(POINT, document="first", max_tokens=3), request(POINT, document="last", max_tokens=3)
    complete(engine, first), complete(engine, last)
    before = engine.slot("last").cache
    swap(engine, registry, "v1")
    assert engine.status()["slots"] == 1 and engine.slot("last").cache is not before
    done = complete(engine, last)
    assert done.reused_tokens >= done.prompt_tokens - 1
    assert complete(engine, first).reused_tokens == 0


def test_a_document_begun_while_the_cache_was_filled_gets_its_own(registry: Registry) -> None:
    engine, others = load(registry), iter(["other"])
    complete(engine, request(POINT, document="d", max_tokens=3))
    prepared = engine.prepare(registry.folder, "v1", lambda: None)

    def type_elsewhere() -> None:
        for document in others:
            complete(engine, request("import os\n" + 20 * POINT, document=document, max_tokens=3))

    assert not engine.fill(prepared, type_elsewhere)
    assert engine.fill(prepared, type_elsewhere) and prepared.document == "other"
    engine.exchange(prepared)
    assert complete(engine, request("import os\n" + 20 * POINT, document="other", max_tokens=3)).reused_tokens > 200


def test_a_swap_without_a_document_is_as_good(registry: Registry) -> None:
    engine = load(registry)
    swap(engine, registry, "v1")
    assert complete(engine, request(POINT, max_tokens=3)).adapter == "v1"


def spoil_pointer(registry: Registry) -> None:
    (registry.folder / POINTER).write_text('{"version": "../v1"}')


def spoil_weights(registry: Registry) -> None:
    with (registry.folder / "v1" / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")


def spoil_base(registry: Registry) -> None:
    path = registry.folder / "v1" / FACTS
    path.write_text(path.read_text().replace('"id": "tiny"', '"id": "habitab-base-9"'))


def lose(registry: Registry) -> None:
    (registry.folder / "v1" / FACTS).unlink()


FAULTS = {
    spoil_pointer: "names no adapter",
    spoil_weights: "damaged",
    spoil_base: "habitab-base-9",
    lose: "cannot be read",
}


@pytest.mark.parametrize("spoil", FAULTS)
def test_with_an_adapter_that_cannot_be_used_the_base_serves_and_says_why(
    registry: Registry, spoil: Callable[[Registry], None]
) -> None:
    registry.activate("v1")
    spoil(registry)
    engine = load(registry)
    assert engine.worn.version == complete(engine, request(POINT, max_tokens=3)).adapter == ""
    trouble = engine.worn.trouble
    assert FAULTS[spoil] in trouble and trouble.endswith(".") and "\n" not in trouble
    if spoil is not spoil_pointer:
        with pytest.raises(AdapterError):
            engine.prepare(registry.folder, "v1", lambda: None)


def test_an_adapter_for_other_weights_of_the_same_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.activate("v1")
    other = write_tiny(tmp_path / "other" / "tiny", rms_norm_eps=1e-6, intermediate_size=112)
    engine = Engine.load(EngineSettings(base=str(other), threads=1, kernel="int8"), registry.folder)
    assert "made for other weights of it" in engine.worn.trouble
