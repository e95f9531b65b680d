"""Slots are bounded, and a reused cache is as good as a cold run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine import kv_cache
from habitab_engine.decode import after, prefill
from habitab_engine.engine import Engine
from habitab_engine.kv_cache import KVCaches, Slot, common_prefix

ids = st.lists(st.integers(0, 3), max_size=12)
CODE = "def mean(values):\n    total = sum(values)\n    return total / len(values)\n\n\ndef median(values):\n    "


def go_on() -> bool:
    return False


@given(ids, ids)
def test_common_prefix_is_the_longest(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@given(ids, ids)
def test_reuse_leaves_the_common_prefix(a: list[int], b: list[int]) -> None:
    slot = Slot(torch.zeros(1), list(a))
    assert slot.tokens[: slot.reuse(b)] == slot.tokens == b[: len(slot.tokens)]


def test_the_least_recently_used_document_gives_way() -> None:
    caches = KVCaches(lambda: torch.zeros(4), most=2)
    a, b = caches.slot("a"), caches.slot("b")
    b.tokens = [1, 2]
    caches.slot("a")
    c = caches.slot("c")
    assert len(caches) == 2
    assert c.cache is b.cache and c.tokens == []
    assert caches.slot("a") is a
    assert caches.bytes == 2 * a.cache.nbytes


def test_a_forgotten_document_starts_anew() -> None:
    caches = KVCaches(lambda: torch.zeros(4), most=2)
    caches.slot("a").tokens = [1]
    caches.forget("a")
    assert len(caches) == 0 and caches.slot("a").tokens == []


def test_the_latest_document_is_the_one_used_last_unless_it_was_forgotten() -> None:
    caches = KVCaches(lambda: torch.zeros(4), most=2)
    assert caches.latest is None
    a, _ = caches.slot("a"), caches.slot("b")
    caches.slot("a")
    latest = caches.latest
    assert latest is not None and latest[0] == "a" and latest[1] is a
    caches.forget("a")
    assert caches.latest is None


def test_what_replaces_all_caches_is_all_there_is() -> None:
    caches, slot = KVCaches(lambda: torch.zeros(4), most=2), Slot(torch.zeros(4), [1])
    caches.slot("a"), caches.slot("b")
    caches.replace("b", slot)
    assert len(caches) == 1 and caches.slot("b") is slot and caches.slot("a").tokens == []
    caches.replace("b", None)
    assert len(caches) == 0


def test_a_reused_cache_gives_the_logits_of_a_cold_run(base_engine: Engine) -> None:
    model, tokens = base_engine.model, base_engine.tokenizer.encode(CODE)
    warm, cold = Slot(model.new_cache(256)), Slot(model.new_cache(256))
    prefill(model, warm, [*tokens[:-9], 50, 60, 70], go_on)
    for end in (len(tokens) - 5, len(tokens) - 4, len(tokens)):
        logits, reused = prefill(model, warm, tokens[:end], go_on)
    assert reused == len(tokens) - 4
    expected, none = prefill(model, cold, tokens, go_on)
    assert none == 0 and warm.tokens == cold.tokens == tokens
    assert (logits - expected).abs().max() <= model.kernels.tolerance


@given(st.lists(st.tuples(ids, st.integers(0, 3)), min_size=1, max_size=8), ids)
def test_a_slot_follows_what_it_holds_and_nothing_else(runs: list[tuple[list[int], int]], wanted: list[int]) -> None:
    """`held` is what the cache would hold, kept by hand; logits are named by the tokens that they follow."""
    slot, held = Slot(torch.zeros(1)), list[int]()
    for tokens, drafted in runs:
        n = slot.reuse(tokens)
        assert n == common_prefix(held, tokens) and slot.tokens + slot.rest == held
        slot.overwrite(n)
        slot.tokens += tokens[n:]
        slot.rest = [drafted] * drafted
        held = tokens + slot.rest
        for position in range(len(tokens), len(held) + 1):
            slot.learn(position, torch.tensor([len(held[:position]), *held[:position]]))
    slot.reuse([])
    for i, token in enumerate(wanted):
        logits = slot.follow(token)
        if logits is None:
            return
        assert logits.tolist() == [i + 1, *wanted[: i + 1]] and slot.tokens == wanted[: i + 1]


def test_a_slot_keeps_few_logits_and_those_still_to_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "MOST_KNOWN", 4)
    slot = Slot(torch.zeros(1), [7], rest=[7] * 20)
    for position in range(1, 20):
        slot.learn(position, torch.tensor(position))
        slot.tokens, slot.rest = [7] * position, [7] * (21 - position)
    slot.learn(20, torch.tensor(20))
    assert list(slot.known) == [1, 2, 19, 20] and slot.follow(7) is not None


def test_what_was_written_is_not_computed_again(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = tiny_engine.model, tiny_engine.tokenizer.encode(CODE)
    slot, passes = Slot(model.new_cache(256)), []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda *a: passes.append(1) or decode(*a))

    def write(prompt: list[int], ids: list[int]) -> list[torch.Tensor]:
        first, _ = prefill(model, slot, prompt, go_on)
        return [first, *(after(model, slot, token, None) for token in ids)]

    once = write(tokens, [10, 11, 12])
    passes.clear()
    again = write(tokens, [10, 11, 13])  # typed on inside a word: the prompt is the same
    assert len(passes) == 1 and all(a is b for a, b in zip(once[:3], again, strict=False))
    passes.clear()
    assert write([*tokens, 10], [11, 13])[1:] == again[2:] and not passes  # a word was finished as foreseen
    fresh = Slot(model.new_cache(256))
    expected, _ = prefill(model, fresh, [*tokens, 10, 11, 13], go_on)
    assert (again[-1] - expected).abs().max() <= model.kernels.tolerance


def test_the_same_prompt_again_computes_nothing(base_engine: Engine) -> None:
    model, tokens = base_engine.model, base_engine.tokenizer.encode(CODE)
    slot = Slot(model.new_cache(256))
    first, _ = prefill(model, slot, tokens, go_on)
    slot.tokens.append(99)  # something was generated after the prompt
    again, reused = prefill(model, slot, tokens, go_on)
    assert again is first and reused == len(tokens)
