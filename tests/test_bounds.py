"""An adapter is weakened until strangers pay hardly more and canaries are forgotten, or given up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from habitab_adapters import bounds
from habitab_adapters.bounds import CAUTION, LEAST_SCALE, MOST_BITS, weakened
from habitab_adapters.strangers import Forgetting
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from loras import random_lora


class ByScale:
    """Strangers who pay with the square of the scale; what they are shown is the scale alone."""

    def __init__(self, cost: float) -> None:
        self.cost, self.scales = cost, list[float]()

    def compare(self, scale: float, tell: object, stride: int) -> Forgetting:
        self.scales.append(scale)
        return Forgetting(self.cost * scale**2, 0.0, 0.0, 1.0, 0.0, 50_000, 100)

    def close(self) -> None:
        pass


@pytest.fixture
def base(tiny_base: Path) -> Checkpoint:
    return load_checkpoint(tiny_base)


def weaken(
    base: Checkpoint, monkeypatch: pytest.MonkeyPatch, cost: float, exposed: Callable[[float], float] = lambda _: 0.0
) -> tuple[list[float], float, dict[str, float], str]:
    """The scales that were tried, the one that came out, its figures, and what speaks against it."""
    strangers, lora = ByScale(cost), random_lora(base)
    monkeypatch.setattr(bounds, "Strangers", lambda *_: strangers)
    monkeypatch.setattr(bounds, "merged", lambda _, weak: weak.alpha / lora.alpha)
    monkeypatch.setattr(bounds, "_exposed", lambda strangers, scale, hidden, control, metrics: exposed(scale))
    found, metrics, fault = weakened(base, lora, [], Path(), lambda *_: None)
    return strangers.scales, found.alpha / lora.alpha, metrics, fault


def test_what_is_harmless_keeps_its_strength(base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weaken(base, monkeypatch, MOST_BITS) == ([1.0, 1.0], 1.0, {"scale": 1.0, **figures(MOST_BITS)}, "")


def figures(bits: float) -> dict[str, float]:
    return {"strangers_bits_per_token": bits, "strangers_kl_nats": 0.0, "strangers_exact_match": 0.0}


def test_what_harms_strangers_is_made_as_weak_as_it_has_to_be(base: Checkpoint, monkeypatch) -> None:
    scales, scale, metrics, fault = weaken(base, monkeypatch, 4 * MOST_BITS)
    enough = CAUTION / 2  # a quarter of the cost
    assert scales == pytest.approx([1.0, enough, enough]) and scale == pytest.approx(enough)
    assert metrics["scale"] == pytest.approx(enough, abs=1e-4)
    assert metrics["strangers_bits_per_token"] <= MOST_BITS and not fault


def test_what_remembers_canaries_is_made_weaker(base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    _, scale, _, fault = weaken(base, monkeypatch, 0.0, exposed=lambda scale: 3.0 * scale)
    assert LEAST_SCALE < scale <= 1 / 3 and not fault


def test_what_remembers_nearly_too_much_is_weakened_until_it_holds(
    base: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered falls slower than the scale where an adapter is strong."""
    for most in (1.7, 2.5, 4.0):
        _, scale, _, fault = weaken(base, monkeypatch, 0.0, exposed=lambda scale, most=most: most * scale**0.7)
        assert scale > LEAST_SCALE and most * scale**0.7 <= 1 and not fault


def test_what_cannot_be_made_harmless_is_given_up(base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    scales, _, _, fault = weaken(base, monkeypatch, 1000.0)
    assert scales[-1] == LEAST_SCALE and "strangers" in fault
