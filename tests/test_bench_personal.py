"""The verdict over developers: all columns ask the same lines, what was kept is no gain, a killed run goes on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from habitab_adapters import evaluate, learn
from habitab_adapters.learn import Outcome
from habitab_adapters.repository import Repository
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.errors import InputError
from habitab_engine.lora import Lora
from habitab_server.bench_personal import HEAD, _beside, developers, measure, summary, table
from histories import History
from loras import random_lora


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two developers; a colleague writes now and then."""
    folders = []
    for name in ("ann", "bob"):
        made, text = History(tmp_path_factory.mktemp("people") / name), ""
        for i in range(14):
            text += f"def {name}_{i}(value):\n    return value + {i}\n\n\n"
            made.commit({f"{name}.py": text}, author="eve@x.org" if i % 5 == 4 else f"{name}@x.org")
        folders.append(made.folder)
    return folders


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> None:
    """Adapters that are random, and promoted for the first developer alone: training has tests of its own."""
    checkpoint = load_checkpoint(tiny_base)
    verdicts = iter(["promoted", "kept"])

    def attempt(*_: object) -> tuple[Lora, Outcome]:
        return random_lora(checkpoint), Outcome(next(verdicts), (), {"strangers_bits_per_token": 0.01}, "")

    monkeypatch.setattr(learn, "attempt", attempt)


def test_every_column_is_asked_the_same_lines_and_nothing_is_asked_twice(
    paths: list[Path], tiny_base: Path, tmp_path: Path, taught: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = measure(tiny_base, paths, 8, 60.0, tmp_path, lambda *_: None)
    first, second = result["developers"]
    assert [first["name"], second["name"]] == ["ann", "bob"]
    assert [first["verdict"], second["verdict"]] == ["promoted", "kept"]
    assert list(first["columns"]) == ["base", "context", "memory", "adapter", "other"]
    assert first["positions"] == 8 and result["promoted"] == 1
    assert first["columns"]["adapter"] != first["columns"]["memory"]
    assert all(len(row) == len(HEAD) for row in table(result))
    assert "ann" in (tmp_path / "verdict.svg").read_text()
    assert "return" not in (tmp_path / "ann" / "lines.jsonl").read_text()
    monkeypatch.setattr(evaluate, "Engine", None)
    assert measure(tiny_base, paths, 8, 60.0, tmp_path, lambda *_: None) == result


def test_one_person_has_no_other(paths: list[Path], tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two people"):
        measure(tiny_base, paths[:1], 8, 60.0, tmp_path, lambda *_: None)


def test_histories_with_the_same_main_author_are_one_person_s(paths: list[Path], tmp_path: Path) -> None:
    """What is asked is newer than all that is learned, wherever it stands."""
    second = History(tmp_path / "second")
    for i in range(10):
        second.commit({f"second_{i}.py": f"def second_{i}(value):\n    return value * {i}\n"}, author="ann@x.org")
    with ExitStack() as stack:
        repositories = [stack.enter_context(Repository(path)) for path in (*paths, second.folder)]
        ann, bob = developers(repositories, 8)
        everything = {commit.id: commit.written for one in repositories for commit in one.commits()}
    assert (ann.name, bob.name) == ("ann+1", "bob")
    assert [len(known.histories) for known in (ann, bob)] == [2, 1]
    learned = [c.written for h in ann.histories for part in (h.past, h.selecting, h.deciding) for c in part]
    assert max(learned) <= min(everything[commit] for commit in ann.commits)


def test_each_is_tried_with_another_and_pairs_stay_pairs_among_more() -> None:
    assert [_beside(i, 4) for i in range(4)] == [1, 0, 3, 2]
    assert [_beside(i, 5) for i in range(5)] == [1, 0, 3, 2, 3]


def row(verdict: str, points: float, worse: float) -> dict[str, Any]:
    columns = {
        "memory": {"exact_match": 0.2, "bits_per_byte": 1.0},
        "adapter": {"exact_match": 0.2 + points / 100, "bits_per_byte": 0.9},
    }
    return {"verdict": verdict, "columns": columns, "worse": worse}


def test_what_was_kept_counts_as_no_gain() -> None:
    found = summary([row("promoted", 4, 1.0), row("kept", -8, 0.0), row("promoted", 2, 1.0)])
    assert found["median_points"] == 2 and found["promoted"] == 2 and found["worse"] == 0
    assert found["median_bits_saved"] == pytest.approx(0.1)


def test_worse_is_what_is_worse_among_so_many() -> None:
    """Holm: the smallest of three must stay below 0.05 / 3, the next below 0.05 / 2."""
    assert summary([row("promoted", 0, p) for p in (0.01, 0.02, 0.9)])["worse"] == 2
    assert summary([row("promoted", 0, p) for p in (0.02, 0.02, 0.9)])["worse"] == 0
    assert summary([row("kept", 0, 0.0)])["worse"] == 0
