"""Generation obeys its constraints and its stop flag on any model, a random one above all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from habitab_engine.decode import CHUNK, Generated, Sampling, Task, generate, prefill
from habitab_engine.engine import Engine
from habitab_engine.errors import Cancelled
from habitab_engine.kv_cache import Slot
from habitab_engine.memory import Memory
from habitab_engine.recall import Recall
from habitab_engine.stopping import Stop

CODE = "def area(width, height):\n    return width *"


def go_on() -> bool:
    return False


def task(engine: Engine, **fields: object) -> Task:
    plain = Task(
        healed=b"",
        must_start=b"",
        stop_at=lambda out: None,
        stops=engine._stops,
        mask=engine.mask,
        first_mask=engine.first_mask,
        most_tokens=6,
        deadline=math.inf,
    )
    return replace(plain, **fields)


def run(engine: Engine, wanted: Task, cancelled=go_on, text: str = CODE) -> Generated:
    slot = Slot(engine.model.new_cache(512))
    logits, _ = prefill(engine.model, slot, engine.tokenizer.encode(text), go_on)
    return generate(engine.model, slot, engine.tokenizer, logits, wanted, cancelled)


@settings(max_examples=25)
@given(
    st.sampled_from([b"", b"\n    ", b" ret", b"("]),
    st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=8),
)
def test_the_text_begins_with_what_it_must(tiny_engine: Engine, healed: bytes, must_start: str) -> None:
    out = run(
        tiny_engine,
        task(
            tiny_engine,
            healed=healed,
            must_start=must_start.encode(),
            most_tokens=40,
            stop_at=lambda o: Stop(len(o.text), "enough") if len(o.text) > len(must_start) else None,
        ),
    )
    assert out.text.startswith(must_start)
    written = b"".join(tiny_engine.tokenizer.pieces[i] for i in out.ids)
    assert written.startswith(healed + must_start.encode())


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(2.0, generator=torch.Generator().manual_seed(3))])
def test_no_special_token_is_ever_written(tiny_engine: Engine, sampling: Sampling) -> None:
    out = run(tiny_engine, task(tiny_engine, most_tokens=60, sampling=sampling))
    assert out.ids and all(tiny_engine.tokenizer.pieces[i] for i in out.ids)


def test_the_end_token_never_comes_first(tiny_engine: Engine) -> None:
    everything = frozenset(i for i, piece in enumerate(tiny_engine.tokenizer.pieces) if piece and piece != b"a")
    first_mask = tiny_engine.mask.clone()
    first_mask[list(everything)] = -math.inf
    out = run(tiny_engine, task(tiny_engine, stops=everything, first_mask=first_mask))
    assert out.text == "a" and out.stop == "end token"


def test_log_probabilities_are_those_of_the_unmasked_model(tiny_engine: Engine) -> None:
    out = run(tiny_engine, task(tiny_engine))
    slot = Slot(tiny_engine.model.new_cache(512))
    logits, _ = prefill(tiny_engine.model, slot, tiny_engine.tokenizer.encode(CODE), go_on)
    assert out.logprobs[0] == pytest.approx(float(logits.log_softmax(0)[out.ids[0]]), abs=1e-4)
    assert len(out.logprobs) == len(out.ids) == 6


def test_what_was_typed_counts_as_known(tiny_engine: Engine) -> None:
    """A token that must agree with the typed text is judged among those that do."""
    out = run(tiny_engine, task(tiny_engine, healed=b" re"))
    slot = Slot(tiny_engine.model.new_cache(512))
    logits, _ = prefill(tiny_engine.model, slot, tiny_engine.tokenizer.encode(CODE), go_on)
    allowed = tiny_engine.tokenizer.agreeing(b" re")
    among = logits[allowed].log_softmax(0)
    assert out.logprobs[0] == pytest.approx(float(among[allowed.index(out.ids[0])]), abs=1e-4)
    assert out.logprobs[0] > float(logits.log_softmax(0)[out.ids[0]]) + 1


def test_the_stop_flag_is_seen_at_the_next_token(tiny_engine: Engine) -> None:
    calls = []

    def third_time() -> bool:
        calls.append(1)
        return len(calls) == 3

    with pytest.raises(Cancelled):
        run(tiny_engine, task(tiny_engine), third_time)


def test_cancelling_a_prefill_keeps_the_chunks_that_were_done(tiny_engine: Engine) -> None:
    model, slot = tiny_engine.model, Slot(tiny_engine.model.new_cache(4 * CHUNK))
    tokens = list(range(100, 100 + 3 * CHUNK))
    with pytest.raises(Cancelled):
        prefill(model, slot, tokens, lambda: len(slot.tokens) >= CHUNK)
    assert slot.tokens == tokens[:CHUNK]
    resumed, reused = prefill(model, slot, tokens, go_on)
    cold, _ = prefill(model, Slot(model.new_cache(4 * CHUNK)), tokens, go_on)
    assert reused == CHUNK
    torch.testing.assert_close(resumed, cold, rtol=1e-3, atol=1e-3)


def test_past_the_deadline_only_whole_lines_are_kept(tiny_engine: Engine) -> None:
    out = run(tiny_engine, task(tiny_engine, deadline=time.perf_counter() - 1, must_start=b"a = 1\nb = "))
    assert out.stop == "time budget" and "\n" not in out.text


def test_an_unlikely_word_ends_the_text_but_never_splits_a_word(tiny_engine: Engine) -> None:
    out = run(tiny_engine, task(tiny_engine, most_tokens=40, least_logprob=0.0))
    assert out.stop in ("low confidence", "length")
    assert len(out.ids) < 40


def test_greedy_decoding_repeats_itself_and_sampling_follows_its_seed(tiny_engine: Engine) -> None:
    assert run(tiny_engine, task(tiny_engine)).ids == run(tiny_engine, task(tiny_engine)).ids
    drawn = [
        run(
            tiny_engine,
            task(tiny_engine, sampling=Sampling(1.5, generator=torch.Generator().manual_seed(seed))),
        ).ids
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


class Drafts(Recall):
    """A memory that only drafts, and what the test says."""

    def __init__(self, draft: Callable[[Sequence[int]], list[int]]) -> None:
        super().__init__(Memory(lambda text: [], 100), None)
        self.draft = draft  # type: ignore[method-assign]


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 2), max_size=10), min_size=1, max_size=8), st.integers(1, 30))
def test_drafts_never_change_the_text(tiny_engine: Engine, wrongs: list[list[int]], most: int) -> None:
    """Drafts of the true tokens, of which some are wrong, at any place and of any length."""
    plain = run(tiny_engine, task(tiny_engine, most_tokens=most))
    begin, turns = len(tiny_engine.tokenizer.encode(CODE)), iter(wrongs * most)

    def draft(tokens: Sequence[int]) -> list[int]:
        true = plain.ids[len(tokens) - begin :]
        return [token if right else 5 for token, right in zip(true, next(turns), strict=False)]

    drafted = run(tiny_engine, task(tiny_engine, most_tokens=most, recall=lambda: Drafts(draft)))
    assert drafted.ids == plain.ids and drafted.text == plain.text
    assert drafted.logprobs == pytest.approx(plain.logprobs, abs=tiny_engine.model.kernels.tolerance)


def test_true_drafts_save_passes(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(tiny_engine, task(tiny_engine, most_tokens=24))
    begin, passes = len(tiny_engine.tokenizer.encode(CODE)), []
    verify = tiny_engine.model.verify
    monkeypatch.setattr(tiny_engine.model, "verify", lambda *a: passes.append(1) or verify(*a))
    ahead = lambda: Drafts(lambda tokens: plain.ids[len(tokens) - begin :])  # noqa: E731
    drafted = run(tiny_engine, task(tiny_engine, most_tokens=24, recall=ahead))
    assert drafted.ids == plain.ids and len(passes) == 3
