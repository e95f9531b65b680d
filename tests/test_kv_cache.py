"""Slots are bounded, and a reused cache is as good as a cold run."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.decode import prefill
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


def test_the_same_prompt_again_computes_nothing(base_engine: Engine) -> None:
    model, tokens = base_engine.model, base_engine.tokenizer.encode(CODE)
    slot = Slot(model.new_cache(256))
    first, _ = prefill(model, slot, tokens, go_on)
    slot.tokens.append(99)  # something was generated after the prompt
    again, reused = prefill(model, slot, tokens, go_on)
    assert again is first and reused == len(tokens)
