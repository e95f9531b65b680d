"""A copy is the rest of a line that stands in the workspace, agrees with what was typed, and is judged as a whole."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.copying import Copy, copied, own_probability, weighed
from habitab_engine.decode import Generated, Task, _at_best, _is_beaten, _trusted, generate, prefill
from habitab_engine.decode import complete as complete_best
from habitab_engine.engine import Engine, _repeats
from habitab_engine.kv_cache import Slot
from habitab_engine.memory import Memory
from habitab_engine.types import CompletionRequest, OpenText

LONG = "raise SettingsError(f'{name} must be one of {allowed}, not {value!r}: see the list of all of them')"
TEXT = f"def check(value):\n    if value not in allowed:\n        {LONG}\n    return value\n"


def memory_of(engine: Engine, *texts: str) -> Memory:
    memory = Memory(engine.tokenizer.encode, engine.model.config.vocab)
    for number, text in enumerate(texts):
        memory.update(str(number), text)
    return memory


def copy_at(engine: Engine, memory: Memory, before: str, healed: str = "") -> Copy | None:
    tokens = engine.tokenizer.encode(before)
    return copied(memory, engine.tokenizer.pieces, tokens, healed.encode(), len(healed.lstrip()))


@pytest.mark.parametrize("typed", ["", " if", " if va"])
def test_the_rest_of_a_known_line_is_found_behind_what_was_typed(typed: str, tiny_engine: Engine) -> None:
    memory = memory_of(tiny_engine, TEXT)
    found = copy_at(tiny_engine, memory, "def check(value):\n   ", typed)
    assert found is not None and typed + found.text == " if value not in allowed:"
    assert found.matched == len("def check(value):\n   ") + len(typed)
    written = b"".join(tiny_engine.tokenizer.pieces[i] for i in found.ids)
    assert written.startswith((typed + found.text).encode()) and b"\n" in written[len(typed) :]


def test_a_line_that_is_longer_than_a_window_is_found_to_its_end(tiny_engine: Engine) -> None:
    found = copy_at(tiny_engine, memory_of(tiny_engine, TEXT), "    if value not in allowed:\n       ", " raise")
    assert found is not None and found.text == LONG.removeprefix("raise")


def test_a_shorter_match_counts_where_the_longest_disagrees_with_what_was_typed(tiny_engine: Engine) -> None:
    memory = memory_of(tiny_engine, "    one = first(alpha)\n    two = second(beta)\n    two = third(beta)\n")
    found = copy_at(tiny_engine, memory, "    one = first(alpha)\n    two =", " third")
    assert found is not None and found.text == "(beta)"
    assert copy_at(tiny_engine, memory, "    one = first(alpha)\n    two =", " fourth") is None


def test_the_share_of_places_that_go_on_alike_is_told(tiny_engine: Engine) -> None:
    memory = memory_of(tiny_engine, "key = alpha\n", "key = alpha\n", "key = beta\n", "key = alpha\n")
    found = copy_at(tiny_engine, memory, "key =")
    assert found is not None and found.text == " alpha"
    assert (found.share, found.places) == (pytest.approx(0.75), 4)


def test_a_line_without_an_end_is_no_copy(tiny_engine: Engine) -> None:
    assert copy_at(tiny_engine, memory_of(tiny_engine, "alpha = beta + gamma"), "alpha =") is None
    assert copy_at(tiny_engine, memory_of(tiny_engine, ""), "alpha =") is None


@given(st.integers(2, 200), st.floats(0.05, 0.95), st.integers(1, 64), st.integers(0, 80))
def test_more_agreement_is_never_less_trusted(matched: int, share: float, places: int, typed: int) -> None:
    copy = Copy((1,), "value", matched, share, places, typed)
    assert 0 < copy.trust < replace(copy, share=share + 0.05).trust < 1


@given(st.lists(st.floats(-8, 0), min_size=1, max_size=40))
def test_the_model_is_right_rather_where_it_is_sure(logprobs: list[float]) -> None:
    assert 0 <= own_probability(logprobs) <= own_probability([p / 2 for p in logprobs]) + 0.05 <= 1.05
    assert own_probability([]) == 0.0


COPY = Copy((1, 2), "value)", 20, 0.5, 4, 3)


@given(st.floats(0.02, 0.9), st.floats(0.05, 0.9))
def test_a_line_is_likelier_the_surer_its_source_and_the_less_sure_the_other(own: float, share: float) -> None:
    copy, surer = replace(COPY, share=share), replace(COPY, share=share + 0.05)
    mine, other = weighed(own, "values)", copy)
    assert 0 < mine < weighed(own + 0.05, "values)", copy)[0] < 1 and mine > weighed(own, "values)", surer)[0]
    assert 0 < other < weighed(own, "values)", surer)[1] < 1 and other > weighed(own + 0.05, "values)", copy)[1]
    assert 0 < weighed(own, "values)", None)[0] < weighed(own + 0.05, "values)", None)[0] < 1


@given(st.lists(st.floats(-40, 0), max_size=200), st.floats(0.001, 1.0))
def test_no_line_is_certain_and_a_surer_one_is_hardly_less_likely(logprobs: list[float], share: float) -> None:
    for text, copy in (("values)", None), ("values)", replace(COPY, share=share)), (COPY.text, COPY)):
        mine, other = weighed(own_probability(logprobs), text, copy)
        assert 0 <= mine < 1 and 0 <= other < 1
        assert weighed(own_probability([p / 2 for p in logprobs]), text, copy)[0] >= mine - 0.05


@given(st.floats(0.05, 0.95))
def test_a_line_that_a_trusted_copy_has_too_is_likelier_than_either_alone(own: float) -> None:
    copy = replace(COPY, matched=60, share=1.0)
    alike, other = weighed(own, copy.text, copy)
    assert other == 0.0 and alike > max(weighed(own, "values)", copy)) and alike > weighed(own, copy.text, None)[0]


def test_what_is_not_there_is_never_right() -> None:
    assert weighed(0.0, "", None) == (0.0, 0.0)
    assert weighed(0.0, "", COPY)[0] == 0.0 < weighed(0.0, "", COPY)[1]


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.floats(0, 0.99))
def test_the_tokens_of_a_copy_make_the_probability_of_the_line(probabilities: list[float], trust: float) -> None:
    """(1 − λ)·p_model + λ: what each token tells of whether it is a copy is kept for the next."""
    total, left = 0.0, trust
    for probability in probabilities:
        logprob, left = _trusted(math.log(probability), left)
        total += logprob
    assert total == pytest.approx(math.log((1 - trust) * math.prod(probabilities) + trust), abs=1e-6)


@given(st.lists(st.floats(-8, 0), min_size=1, max_size=40), st.integers(0, 40), st.integers(1, 60))
def test_a_line_given_up_could_not_have_become_likelier(logprobs: list[float], done: int, tokens: int) -> None:
    """With no more tokens than the copy has, and none of them unlikelier than the line's worst so far."""
    begun, rest = logprobs[:done], logprobs[done:tokens]
    if begun and done <= tokens:
        rest = [max(p, min(begun)) for p in rest]
        assert own_probability(begun + rest) <= _at_best(begun, tokens) + 1e-9


def test_a_line_is_not_given_up_while_it_is_the_copys() -> None:
    hopeless = [-9.0, -9.0]
    assert not _is_beaten(Generated("val", [1], hopeless), COPY) and not _is_beaten(Generated("", [1], hopeless), COPY)
    assert _is_beaten(Generated("valid", [1], hopeless), COPY)
    assert not _is_beaten(Generated("valid", [1], [-0.01, -0.01]), replace(COPY, share=0.01, places=64))


def complete(engine: Engine, prefix: str) -> str:
    request = CompletionRequest("copying", "check.py", prefix, "\n", sources=(), budget_ms=60_000, multiline=False)
    done = engine.complete(request, threading.Event())
    engine.forget("copying")
    return done.suggestions[0].text if done.suggestions else ""


def test_a_line_of_another_document_is_copied_whole(base_engine: Engine) -> None:
    prefix = "def check(value):\n    if value not in allowed:\n        raise Sett"
    assert complete(base_engine, prefix) != LONG.removeprefix("raise Sett")
    base_engine.observe(OpenText("other", TEXT))
    try:
        assert complete(base_engine, prefix) == LONG.removeprefix("raise Sett")
    finally:
        base_engine.forget("other")


def test_a_line_that_stands_just_above_is_not_copied(base_engine: Engine) -> None:
    prefix = "import os\n\n\nos.environ['FIRST_NAME'] = 'one'\nos.environ['"
    assert not complete(base_engine, prefix).startswith("FIRST_NAME'] = 'one'")


def test_only_the_two_lines_above_are_not_to_be_repeated() -> None:
    assert _repeats("    first()\n    second()\n    fir", "st()")
    assert _repeats("    first()\n    second()\n    second", "()")
    assert not _repeats("    first()\n    second()\n    third()\n    fir", "st()")


def generated(engine: Engine, share: float) -> tuple[Generated, Generated, Copy]:
    """The model's own text beside a copy that stands at such a share of the places, and what is written of both."""
    tokens = engine.tokenizer.encode("def check(value):\n    if value not in")
    copy = Copy(tuple(engine.tokenizer.encode(" allowed:\n")), " allowed:", 30, share, 1, 12)
    task = Task(
        healed=b"",
        must_start=b"",
        stop_at=lambda out: None,
        stops=engine._stops,
        mask=engine.mask,
        first_mask=engine.first_mask,
        most_tokens=12,
        deadline=math.inf,
        copy=copy,
    )
    slot = Slot(engine.model.new_cache(128))
    logits, _ = prefill(engine.model, slot, tokens, bool)
    own = generate(engine.model, slot, engine.tokenizer, logits, task, bool)
    slot.reuse(tokens)
    return own, complete_best(engine.model, slot, engine.tokenizer, logits, task, bool), copy


def test_the_models_line_is_given_up_at_once_where_a_copy_is_likelier(tiny_engine: Engine) -> None:
    own, best, copy = generated(tiny_engine, 1.0)
    assert own.stop == "a copy is likelier" and len(own.ids) == 1 and not own.copied
    assert tuple(best.ids[: len(copy.ids)]) == copy.ids and best.copied > 0.15


def test_the_models_line_is_kept_where_a_copy_cannot_be_right(tiny_engine: Engine) -> None:
    own, best, _ = generated(tiny_engine, -40.0)
    assert own == best and own.stop == "length"
