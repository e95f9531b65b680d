"""Strangers' code is the same in every run, asked as the engine asks, and every model is judged by the same tokens."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from habitab_adapters import strangers
from habitab_adapters.strangers import ABOVE, BELOW, TOKENS, WRITTEN, Forgetting, Strangers, _costs, compare, places
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.decode import decode_one_token, prefill
from habitab_engine.engine import Engine
from habitab_engine.errors import Cancelled, InputError
from habitab_engine.lora import merged
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
    monkeypatch.setattr(strangers, "TOKENS", 700)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(strangers.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def code(lines: int) -> str:
    return "".join(f"value_{i} = compute(value_{i - 1}, other)\n" for i in range(1, lines + 1))


def write(library: Path, *paths: str, text: str = code(60)) -> None:
    for path in paths:
        (library / path).parent.mkdir(parents=True, exist_ok=True)
        (library / path).write_text(text)


# ---- which places ----


def test_at_least_fifty_thousand_tokens_of_many_files_count(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "TOKENS", TOKENS)
    found = list(places(tiny_engine))
    assert sum(len(place.tokens) - place.given for place in found) >= TOKENS >= 50_000
    assert len({place.request.path for place in found}) == len(found) >= 100
    assert max(len(place.tokens) for place in found) <= 512


def test_every_run_takes_the_same_places(tiny_engine: Engine) -> None:
    assert list(places(tiny_engine)) == list(places(tiny_engine))


def test_a_place_is_what_the_engine_asks_and_the_text_that_stands_there(tiny_engine: Engine, library: Path) -> None:
    write(library, "a.py")
    place = next(places(tiny_engine))
    request, tokens = place.request, place.tokens
    prompt = tiny_engine.prompt(request, tiny_engine.slot("a place"))
    assert tokens[: len(prompt.tokens)] == prompt.tokens
    middle = tiny_engine.tokenizer.special_ids["<fim_middle>"]
    assert tokens[place.given - 1] == middle and middle not in tokens[place.given :]
    written = tiny_engine.tokenizer.decode(tokens[place.given :])[len(request.prefix) :]
    assert request.prefix + written + request.suffix in code(60)
    assert written.partition("\n")[0] == place.rest
    assert not request.sources and not request.memory
    sizes = [len(tiny_engine.tokenizer.encode(text)) for text in (request.prefix, written, request.suffix)]
    assert all(size <= most + 40 for size, most in zip(sizes, (ABOVE, WRITTEN, BELOW), strict=True))


def test_tests_tables_generated_files_and_packages_are_no_strangers(tiny_engine: Engine, library: Path) -> None:
    left_out = ["test/a.py", "json/tests/a.py", "idlelib/idle_test/a.py", "encodings/cp1.py", "pydoc_data/topics.py"]
    left_out += ["site-packages/a.py", "_sysconfigdata_linux.py", "pip/_vendor/a.py"]
    write(library, "json/decoder.py", *left_out)
    write(library, "made.py", text="# This file is auto-generated; do not edit.\n" + code(60))
    write(library, "table.py", text="t = [\n" + "".join(f"    {i}, {i}, {i},\n" for i in range(900)) + "]\n")
    assert {place.request.path for place in places(tiny_engine)} == {"json/decoder.py"}


def test_of_a_small_library_more_than_one_place_of_a_file_is_taken(tiny_engine: Engine, library: Path) -> None:
    write(library, "a.py", "b.py")
    found = list(places(tiny_engine))
    assert {place.request.path for place in found} == {"a.py", "b.py"} and len(found) > 2
    assert len({place.request.document for place in found}) > 2


def test_without_a_library_in_source_code_one_sentence_says_so(tiny_engine: Engine, library: Path) -> None:
    write(library, "zip.py", text="")
    with pytest.raises(InputError, match="standard library is not in"):
        list(places(tiny_engine))


# ---- the comparison ----


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
    for place in places(engine):
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
    found = list(places(engine))
    suggested = []
    for place in found:
        texts = [s.text for s in engine.complete(place.request, threading.Event()).suggestions]
        suggested.append(texts[0].partition("\n")[0].rstrip() if texts else "")
    engine.close()
    truth = [replace(place, rest=text) for place, text in zip(found, suggested, strict=True)]
    monkeypatch.setattr(strangers, "places", lambda engine: iter(truth))
    assert compare(base, base, settings=SETTINGS).exact_match == 1.0
    wrong = [replace(place, rest=place.rest + "!") for place in truth]
    monkeypatch.setattr(strangers, "places", lambda engine: iter(wrong))
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
