"""Canaries are random text that is met once: a model that never met them ranks them anywhere, one that did first."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import pytest

from habitab_adapters import bounds
from habitab_adapters.canaries import LENGTH, OTHERS, PLANTED, Canary, canaries, exposure, planted
from habitab_adapters.strangers import Strangers
from habitab_adapters.training import Course, Training
from habitab_adapters.tuned import Lesson
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.engine import Engine
from habitab_engine.merging import merged
from habitab_engine.model import Model

pytestmark = pytest.mark.usefixtures("plain_cpu")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Checkpoint:
    return load_checkpoint(tiny_base)


@pytest.fixture
def hidden(tiny_engine: Engine) -> list[Canary]:
    return canaries(tiny_engine, "tonight")


def test_every_night_has_its_own_and_a_night_that_goes_on_the_same(tiny_engine: Engine, hidden: list[Canary]) -> None:
    assert canaries(tiny_engine, "tonight") == hidden
    assert all(a.planted != b.planted for a, b in zip(hidden, canaries(tiny_engine, "tomorrow"), strict=True))


def test_a_canary_is_one_of_many_that_could_have_been(tiny_engine: Engine, hidden: list[Canary]) -> None:
    assert len(hidden) == PLANTED
    for number, canary in enumerate(hidden):
        lines = [tiny_engine.tokenizer.decode(line) for line in (canary.planted, *canary.others)]
        assert len(set(lines)) == 1 + OTHERS
        assert all(len(line) == len(f'TOKEN_{number} = ""') + LENGTH for line in lines)


@pytest.mark.parametrize("count", [1, 3, 4, 50])
def test_each_is_planted_once_and_nothing_else_changes(hidden: list[Canary], count: int) -> None:
    lessons = [Lesson([1], [number], [1.0]) for number in range(count)]
    found = planted(lessons, hidden)
    assert [lesson for lesson in found if lesson in lessons] == lessons
    assert [lesson.written for lesson in found if lesson not in lessons] == [canary.planted for canary in hidden]


def test_what_was_learned_by_heart_is_exposed_and_what_was_not_is_not(
    base: Checkpoint, hidden: list[Canary], tiny_engine: Engine, tmp_path: Path
) -> None:
    never = [Canary(c.prompt, c.others[0], [c.planted, *c.others[1:]]) for c in hidden]
    lessons = [lesson for lesson in planted([Lesson([1], [2], [1.0])], hidden) if len(lesson.written) > 1]
    course = Course(rank=8, alpha=16.0, rate=3e-2, batch=2, passes=40, seconds=300.0, device="cpu")
    trained = Training(base, lessons, course, tmp_path).run(lessons, lambda moment: None)
    before, after = tiny_engine.model, Model(merged(base, trained.lora), tiny_engine.model.kernels)
    assert exposure(after, hidden) > exposure(before, hidden) + 2
    assert abs(exposure(after, never) - exposure(before, never)) < 1


def test_a_lucky_canary_is_not_taken_for_one_that_was_learned(base: Checkpoint, tiny_engine: Engine) -> None:
    """What the base ranks first by chance is exposed to the utmost before anything was learned: no more is no fault."""
    model = tiny_engine.model
    drawn = canaries(tiny_engine, "tonight")[0]
    exposed = [exposure(model, [_as_planted(drawn, i)]) for i in range(1 + OTHERS)]
    lucky = [_as_planted(drawn, exposed.index(max(exposed)))]
    assert exposure(model, lucky) == math.log2(1 + OTHERS)
    with closing(Strangers(base, EngineSettings(threads=1, kernel="float32"))) as strangers:
        metrics: dict[str, float] = {}
        assert bounds._exposed(strangers, base, lucky, exposure(strangers.base, lucky), metrics) == 0.0
    assert metrics == {"canary_bits": 0.0}


def _as_planted(canary: Canary, which: int) -> Canary:
    """The same with another of its lines as the one that was planted."""
    lines = [canary.planted, *canary.others]
    return Canary(canary.prompt, lines.pop(which), lines)
