"""What a text costs is what the engine would have had to be told to write it, healing and memory included."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from habitab_adapters.bits import bits_of
from habitab_engine.engine import Engine
from habitab_engine.types import CompletionRequest


def asked(prefix: str, document: str = "file:///bits.py") -> CompletionRequest:
    return CompletionRequest(document, "bits.py", prefix, "\n", sources=(), memory=False)


def test_bits_are_those_of_the_tokens_that_agree_with_what_was_typed(tiny_engine: Engine) -> None:
    """All ways to go on behind `ret` share one probability, as many as the healed token allows."""
    request = asked("def f():\n    ret")
    slot = tiny_engine.slot(request.document)
    prompt = tiny_engine.prompt(request, slot)
    healed = prompt.healed.encode()
    pieces = [tiny_engine.tokenizer.pieces[i] for i in tiny_engine.tokenizer.agreeing(healed)]
    longer = [piece[len(healed) :].decode() for piece in pieces if piece.startswith(healed) and piece != healed]
    total = sum(2 ** -bits_of(tiny_engine, request, text)[0] for text in longer if text)
    assert "urn" in longer and 0 < total <= 1.0001


def test_bits_do_not_depend_on_what_is_in_the_cache(tiny_engine: Engine) -> None:
    request = asked("def f(path):\n    return os.path.")
    cold = bits_of(tiny_engine, request, "getsize(path)")
    tiny_engine.complete(request, threading.Event())
    assert bits_of(tiny_engine, request, "getsize(path)") == pytest.approx(cold)
    assert cold[1] == len("getsize(path)") and cold[0] > 0


@pytest.mark.parametrize("prefix", ["", "x = 1\n", "def f():\n    ", "name", "é = '"])
def test_every_byte_of_the_rest_is_paid_for(tiny_engine: Engine, prefix: str) -> None:
    text = "größe = 1  # 𝄞"
    assert bits_of(tiny_engine, asked(prefix), text)[1] == len(text.encode())
    assert bits_of(tiny_engine, asked(prefix), "")[1] == 0


def test_what_the_memory_knows_costs_less(tiny_engine: Engine) -> None:
    seen = asked("total = alpha(beta, gamma)\nother = 1\ntotal = alph", "file:///seen.py")
    plain, _ = bits_of(tiny_engine, seen, "a(beta, gamma)")
    known, size = bits_of(tiny_engine, replace(seen, memory=True), "a(beta, gamma)")
    assert known < plain / 2 and size == len("a(beta, gamma)")


def test_a_rest_without_room_is_paid_for_as_far_as_there_is_room(tiny_engine: Engine) -> None:
    bits, size = bits_of(tiny_engine, asked("x = 1\n" * 2_000), "𝄞" * 200)
    assert 0 < size < 800 and bits > 0
