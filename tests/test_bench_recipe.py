"""Recipes of an adapter side by side: each is what was written, all are asked the same lines, a killed run goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from habitab_adapters import evaluate, learn, library
from habitab_adapters.training import Course
from habitab_engine.errors import InputError
from habitab_server import bench_recipe
from habitab_server.bench_recipe import HEAD, measure, recipes, table
from histories import History

pytestmark = pytest.mark.usefixtures("plain_cpu")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, text = History(tmp_path_factory.mktemp("recipes") / "ann"), ""
    for i in range(30):
        text += f"def scaled_{i}(value):\n    factor = {i}\n    return value * factor\n\n\n"
        made.commit({"scales.py": text}, author="ann@x.org")
    return made.folder


def test_a_recipe_differs_from_the_usual_one_in_what_was_written() -> None:
    found = recipes(["rate=5e-4, batch=4", "rank=8"], 60.0)
    usual = Course(seconds=60.0)
    assert list(found) == ["default", "rate=5e-4, batch=4", "rank=8"]
    assert found["default"] == usual
    assert (found["rate=5e-4, batch=4"].rate, found["rate=5e-4, batch=4"].batch) == (5e-4, 4)
    assert found["rank=8"].rank == 8 and found["rank=8"].rate == usual.rate


@pytest.mark.parametrize("text", ["speed=3", "", "rank", "rank=big", "rate=0.1,rank=1.5"])
def test_what_is_no_setting_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"^There is no setting|is no value of"):
        recipes([text], 60.0)


def test_all_recipes_are_asked_the_same_lines_and_nothing_is_done_twice(
    repo: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "TOKENS", 3_000)
    for name, number in (("MOST_PASSAGES", 4), ("MOST_STRETCHES", 8), ("MOST_SELECTING", 2), ("REHEARSED", 4)):
        monkeypatch.setattr(learn, name, number)

    def run(tries: list[str]) -> dict[str, object]:
        return measure(tiny_base, repo, tries, 8, 600.0, tmp_path, lambda *_: None)

    first = run(["rate=0.05"])
    usual, fast = first["recipes"]  # type: ignore[misc]
    assert usual["recipe"] == "default" and fast["recipe"] == "rate=0.05"
    assert usual["positions"] == fast["positions"] == 8
    assert usual["bits_before"] == fast["bits_before"] and usual["bits_after"] != fast["bits_after"]
    assert usual["tokens"] == fast["tokens"] > 0
    assert all(math.isfinite(row["strangers_bits_per_token"]) for row in (usual, fast))
    assert all(len(row) == len(HEAD) for row in table(first))
    assert "factor" not in (tmp_path / "ann" / "lines.jsonl").read_text()
    monkeypatch.setattr(evaluate, "Engine", None)
    for name in ("Training", "Strangers"):
        monkeypatch.setattr(bench_recipe, name, None)
    assert run(["rate=0.05"]) == first
    assert run([])["recipes"] == [usual]
