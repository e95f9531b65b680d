"""Strangers' code is the same in every run, asked as the engine asks, and every model is judged by the same tokens."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from habitab_adapters import library, strangers
from habitab_adapters.library import judged
from habitab_adapters.strangers import Forgetting, Strangers, _costs, compare
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.decode import decode_one_token, prefill
from habitab_engine.engine import Engine
from habitab_engine.errors import Cancelled
from habitab_engine.merging import merged
from habitab_engine.model import Model
from loras import random_lora

SETTINGS = EngineSettings(threads=1, kernel="float32")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Checkpoint:
    return load_checkpoint(tiny_base)


@pytest.fixture(scope="module")
def changed(base: Checkpoint) -> Checkpoint:
    return merged(base, random_lora(base))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of a few places; the number that ships has a test of its own."""
    monkeypatch.setattr(library, "TOKENS", 700)


def test_against_itself_nothing_changes(base: Checkpoint) -> None:
    found = compare(base, base, settings=SETTINGS)
    assert (found.bits_per_token_delta, found.kl_nats, found.exact_match_delta) == (0.0, 0.0, 0.0)
    assert found.tokens >= 700 and found.cursors >= 2


def test_another_model_is_farther_the_more_it_differs(base: Checkpoint) -> None:
    weak, strong = (compare(base, merged(base, random_lora(base).scaled(by)), settings=SETTINGS) for by in (0.1, 1.0))
    assert 0 < weak.kl_nats < strong.kl_nats
    assert weak.bits_per_token == strong.bits_per_token > 0


def test_bits_and_divergence_are_those_of_token_by_token_decoding(base: Checkpoint, changed: Checkpoint) -> None:
    found = compare(base, changed, settings=SETTINGS)
    engine = Engine(base, SETTINGS)
    models = engine.model, Model(changed, engine.model.kernels)
    costs, divergence, counted = [0.0, 0.0], 0.0, 0
    for place in judged(engine):
        rows = [[], []]
        for model, kept in zip(models, rows, strict=True):
            slot = engine.slot(f"{len(kept)} {place.request.document}")
            slot.overwrite(0)
            logits, _ = prefill(model, slot, place.tokens[: place.given], bool)
            for token in place.tokens[place.given :]:
                kept.append(logits.log_softmax(0))
                logits = decode_one_token(model, slot, token)
        counted += len(rows[0])
        for token, old, new in zip(place.tokens[place.given :], *rows, strict=True):
            costs = [costs[0] - float(old[token]), costs[1] - float(new[token])]
            divergence += float((old.exp() * (old - new)).sum())
    engine.close()
    assert found.tokens == counted
    assert found.bits_per_token == pytest.approx(costs[0] / counted / math.log(2), rel=1e-4)
    assert found.bits_per_token_delta == pytest.approx((costs[1] - costs[0]) / counted / math.log(2), rel=1e-2)
    assert found.kl_nats == pytest.approx(divergence / counted, rel=1e-3)


def test_a_line_is_right_when_the_engine_would_suggest_it(base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache that the tokens leave behind changes nothing about the suggestion."""
    engine = Engine(base, SETTINGS)
    found = list(judged(engine))
    suggested = []
    for place in found:
        texts = [s.text for s in engine.complete(place.request, threading.Event()).suggestions]
        suggested.append(texts[0].partition("\n")[0].rstrip() if texts else "")
    engine.close()
    truth = [replace(place, rest=text) for place, text in zip(found, suggested, strict=True)]
    monkeypatch.setattr(strangers, "judged", lambda engine: iter(truth))
    assert compare(base, base, settings=SETTINGS).exact_match == 1.0
    wrong = [replace(place, rest=place.rest + "!") for place in truth]
    monkeypatch.setattr(strangers, "judged", lambda engine: iter(wrong))
    assert compare(base, base, settings=SETTINGS).exact_match == 0.0


@pytest.fixture
def opened(base: Checkpoint) -> Iterator[Strangers]:
    strangers = Strangers(base, SETTINGS)
    yield strangers
    strangers.close()


def test_the_base_is_asked_once_and_every_comparison_is_the_same(
    opened: Strangers, base: Checkpoint, changed: Checkpoint
) -> None:
    told: list[list[float]] = [[], [], []]
    found: list[Forgetting] = [
        opened.compare(new, tell.append) for new, tell in zip((changed, base, changed), told, strict=True)
    ]
    assert found[0] == found[2] and found[1].kl_nats == 0.0
    assert [len(shares) for shares in told] == [2 * found[0].cursors, found[0].cursors, found[0].cursors]
    assert all(shares == sorted(shares) and shares[-1] == 1.0 for shares in told)


def test_what_the_base_answered_stands_on_the_disk(
    base: Checkpoint, changed: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Strangers(base, SETTINGS, tmp_path)) as first:
        first.ask_base()
        right = first.compare(changed)
    with closing(Strangers(base, SETTINGS, tmp_path)) as second:
        told: list[float] = []
        assert second.compare(changed, told.append) == right
        assert len(told) == right.cursors  # the base was not asked again
        monkeypatch.setattr(second, "_look", None)
        second.ask_base()


def test_damaged_answers_are_asked_for_again(base: Checkpoint, changed: Checkpoint, tmp_path: Path) -> None:
    with closing(Strangers(base, SETTINGS, tmp_path)) as first:
        first.ask_base()
        right = first.compare(changed)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"half of it")
    with closing(Strangers(base, SETTINGS, tmp_path)) as second:
        told: list[float] = []
        second.ask_base(told.append)
        assert len(told) == right.cursors and told[-1] == 1.0
        assert second.compare(changed) == right


def test_answers_about_another_library_are_not_taken(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Strangers(base, SETTINGS, tmp_path)) as first:
        first.ask_base()
    monkeypatch.setattr(library, "SEED", 1)
    with closing(Strangers(base, SETTINGS, tmp_path)) as second:
        told: list[float] = []
        second.ask_base(told.append)
        assert told


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_comparison_ends_when_it_is_told_to_and_can_begin_again(
    opened: Strangers, changed: Checkpoint, share: float
) -> None:
    stop = threading.Event()

    def tell(done: float) -> None:
        if done >= share:
            stop.set()

    with pytest.raises(Cancelled):
        opened.compare(changed, tell, stop)
    assert opened.compare(changed).kl_nats > 0


def test_the_divergence_is_of_the_base_from_the_new() -> None:
    """A model whose hidden states are its logits; nats of two of three tokens against all alike, by hand."""
    model = cast(Model, SimpleNamespace(logits=lambda hidden: hidden))
    sure, even = torch.tensor([[0.0, 0.0, -1e4]]), torch.zeros(1, 3)
    assert _costs(model, sure, model, even, [0]).tolist() == pytest.approx([math.log(2), math.log(3), math.log(1.5)])
    assert float(_costs(model, even, model, sure, [0])[2]) > 1_000
