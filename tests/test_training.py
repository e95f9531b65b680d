"""Training an adapter learns, holds what is rehearsed, keeps its best state, goes on when killed, and ends in time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div

from conftest import write_tiny
from habitab_adapters import training, tuned
from habitab_adapters.training import Course, Moment, Training, order
from habitab_adapters.tuned import Lesson
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.errors import InputError

COURSE = Course(rank=4, alpha=8.0, rate=2e-2, batch=4, passes=6, seconds=300.0, device="cpu")

pytestmark = pytest.mark.usefixtures("plain_cpu")


class KilledError(Exception):
    """What a test ends a run with."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(write_tiny(tmp_path_factory.mktemp("training"), hidden_size=32, head_dim=8))


def lessons(count: int, seed: int = 0) -> list[Lesson]:
    """Behind any prompt the same few tokens are written, in one of two orders."""
    rng = random.Random(seed)
    texts = [[700, 701, 702, 0], [800, 801, 0]]
    prompts = [[rng.randrange(20, 600) for _ in range(rng.randrange(5, 30))] for _ in range(count)]
    chosen = [rng.choice(texts) for _ in range(count)]
    return [Lesson(prompt, text, [1.0] * len(text)) for prompt, text in zip(prompts, chosen, strict=True)]


def ignore(_: Moment) -> None:
    pass


def same(a: object, b: object) -> bool:
    return all(
        np.array_equal(x, y)
        for name in a.factors  # type: ignore[attr-defined]
        for x, y in zip(a.factors[name], b.factors[name], strict=True)  # type: ignore[attr-defined]
    )


def test_what_is_always_written_becomes_likely(base: Checkpoint, tmp_path: Path) -> None:
    trained = Training(base, lessons(40), COURSE, tmp_path).run(lessons(8, seed=1), ignore)
    losses = dict(trained.losses)
    assert losses[trained.step] < 0.6 * losses[0]
    assert trained.steps == 60 and trained.step > 0


def test_the_state_that_was_best_comes_out_not_the_last(base: Checkpoint, tmp_path: Path, monkeypatch) -> None:
    looks = iter([3.0, 1.0, 2.0, 2.5, 2.6])
    monkeypatch.setattr(training, "JUDGE_STEPS", 2)

    def look(self: Training, unseen: Sequence[Lesson]) -> None:
        loss = next(looks)
        if all(loss < known for _, known in self._losses):
            self._best = self._copied()
        self._losses.append((self._step, loss))

    monkeypatch.setattr(Training, "_look", look)
    short = Training(base, lessons(8), Course(**vars_of(COURSE) | {"passes": 4, "batch": 4}), tmp_path / "a")
    trained = short.run([], ignore)
    assert trained.step == 2 and trained.steps == 8
    assert trained.seen == frozenset(order(8, 4, COURSE.seed)[:8])


def vars_of(course: Course) -> dict[str, object]:
    return {name: getattr(course, name) for name in Course.__slots__}


def test_a_killed_run_goes_on_and_comes_to_the_same(base: Checkpoint, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    course = Course(**vars_of(COURSE) | {"passes": 2, "seconds": 1e9})
    whole = Training(base, lessons(20), course, tmp_path / "whole").run(lessons(4, seed=1), ignore)

    def kill(moment: Moment) -> None:
        if moment.step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        Training(base, lessons(20), course, tmp_path / "killed").run(lessons(4, seed=1), kill)
    shorter = replace(course, seconds=1e-3)  # it has the time that it began with
    again = Training(base, lessons(20), shorter, tmp_path / "killed").run(lessons(4, seed=1), ignore)
    assert again.steps == whole.steps and again.step == whole.step
    assert same(again.lora, whole.lora)


def test_training_ends_when_the_time_is_up(base: Checkpoint, tmp_path: Path) -> None:
    course = Course(**vars_of(COURSE) | {"passes": 1000, "seconds": 0.5})
    trained = Training(base, lessons(40), course, tmp_path).run(lessons(2, seed=1), ignore)
    assert 0 < trained.steps < 10_000 and trained.seconds < 60


def test_a_loss_that_is_no_number_ends_in_a_sentence(base: Checkpoint, tmp_path: Path, monkeypatch) -> None:
    run = Training(base, lessons(40), COURSE, tmp_path)
    true = run._loss
    monkeypatch.setattr(run, "_loss", lambda *one: true(*one) * float("nan"))
    with pytest.raises(InputError, match="no number any more"):
        run.run([], ignore)


def test_one_gradient_that_is_no_number_changes_nothing(base: Checkpoint, tmp_path: Path, monkeypatch) -> None:
    run = Training(base, lessons(40), COURSE, tmp_path)
    before, true = run._copied(), run._loss
    monkeypatch.setattr(run, "_loss", lambda *one: true(*one) * float("inf"))
    run._train(0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run._copied().items())


def test_the_memory_for_gradients_is_bounded_and_the_step_stays_the_same(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for most in (4, 10_000):
        monkeypatch.setattr(tuned, "MOST_WRITTEN", most)
        run = Training(base, lessons(4), COURSE, tmp_path)
        run._backward(lessons(4))
        gradients.append(torch.cat([p.grad.flatten() for p in run._params.values() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-5) and bool(gradients[0].abs().sum() > 0)


def test_each_pass_has_every_example_and_newer_ones_come_earlier() -> None:
    places = [order(100, 1.0, seed) for seed in range(40)]
    assert all(sorted(found) == list(range(100)) for found in places)
    newest = sum(found.index(99) for found in places) / 40
    oldest = sum(found.index(0) for found in places) / 40
    assert newest < oldest - 10
    assert len(order(100, 2.5, 0)) == 250


def test_what_is_rehearsed_stays_as_the_base_had_it(base: Checkpoint, tmp_path: Path) -> None:
    kept = lessons(4, seed=2)

    def moved(name: str, hold: float) -> float:
        """Mean KL(base || now) of what is rehearsed, in nats a token, when the training is over."""
        course = Course(**vars_of(COURSE) | {"hold": hold})
        run = Training(base, lessons(40), course, tmp_path / name, kept)
        run.run([], ignore)
        with torch.no_grad():
            before, now = (torch.cat(states) @ run._network.embed.T for states in (run._said, run._before(kept)))
        return float(kl_div(now.log_softmax(1), before.log_softmax(1), reduction="batchmean", log_target=True))

    assert moved("held", 4.0) < 0.5 * moved("free", 0.0)


def test_holding_adds_the_gradient_of_the_divergence(base: Checkpoint, tmp_path: Path) -> None:
    course = Course(**vars_of(COURSE) | {"hold": 0.5})
    run = Training(base, lessons(8), course, tmp_path, lessons(1, seed=2))
    with torch.no_grad():
        for name, p in run._params.items():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))
    run._hold(0)
    found = {name: p.grad for name, p in run._params.items()}
    run._optimiser.zero_grad()
    logprobs = (run._network(lessons(1, seed=2)) @ run._network.embed.T).log_softmax(1)
    before = (run._said[0] @ run._network.embed.T).log_softmax(1)
    (0.5 * kl_div(logprobs, before, reduction="batchmean", log_target=True)).backward()
    for name, p in run._params.items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)
