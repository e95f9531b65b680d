"""Models are asked what the engine would be asked, once for each place, about lines that are newer than the date"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from habitab_adapters.pretrain import asking
from habitab_adapters.pretrain.answers import Answer
from habitab_adapters.pretrain.asking import ask
from habitab_adapters.pretrain.positions import Place, Question
from habitab_adapters.pretrain.quality import FIGURES, HEAD, Result, choose, evaluate, table
from habitab_adapters.repository import Repository
from habitab_engine.engine import Engine
from habitab_engine.errors import InputError
from histories import History

OLD = "def area(width, height):\n    return width * height\n"
NEW = OLD + "\n\ndef volume(width, height, depth):\n    base = area(width, height)\n    return base * depth\n"
BEGIN, SINCE = date(2023, 1, 1), date(2023, 11, 15)  # the tests' histories begin on the evening before


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "repo")
    made.commit({"a.py": OLD, "lib/vendor/b.py": NEW, "data.json": "{}\n"})
    made._minutes += 1_000
    made.commit({"a.py": NEW})
    return made


def test_only_lines_of_code_that_are_new_since_the_date_are_chosen(history: History) -> None:
    with Repository(history.folder) as repository:
        histories = {"one": repository}
        assert {p.change.path for p in choose(histories, {"python": 99}, BEGIN)} == {"a.py"}
        new = choose(histories, {"python": 99}, SINCE)
        assert sorted(p.number for p in new) == [4, 5, 6]
        assert [p.id for p in choose(histories, {"python": 2}, SINCE)] == [p.id for p in new[:2]]
        with pytest.raises(InputError, match="No rust was added"):
            choose(histories, {"rust": 1}, BEGIN)


def test_a_language_of_which_nothing_is_wanted_may_be_missing(history: History) -> None:
    with Repository(history.folder) as repository:
        histories = {"one": repository}
        assert choose(histories, {"go": 0, "python": 1}, SINCE)
        with pytest.raises(InputError, match="No go was added"):
            choose(histories, {"go": 1, "python": 1}, SINCE)
        with pytest.raises(InputError, match="nothing to ask"):
            choose(histories, {"python": 0}, SINCE)


def test_a_run_goes_on_where_it_stopped(
    history: History, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, shown = list[str](), list[tuple[int, int]]()

    def counted(engine: Engine, place: Place, question: Question) -> Answer:
        asked.append(f"{place.id} {question.task} {question.suffix}")
        if len(asked) == 10:
            raise KeyboardInterrupt
        return ask(engine, place, question)

    monkeypatch.setattr(asking, "ask", counted)
    run = lambda: evaluate(  # noqa: E731 (the same call twice)
        [history.folder],
        {"one": tiny_base, "two": tiny_base},
        tmp_path / "done",
        per_language={"python": 3},
        since=SINCE,
        progress=lambda done, total: shown.append((done, total)),
    )
    with pytest.raises(KeyboardInterrupt):
        run()
    (ledger,) = (tmp_path / "done").iterdir()
    ledger.write_bytes(ledger.read_bytes() + b'{"place": "cut o')
    result = run()
    assert all(asked.count(question) == 1 for question in asked[:6]) and shown[-1] == (6, 6)
    assert "volume" not in ledger.read_text() and "depth" not in ledger.read_text()
    assert run() == result
    _check(result)


def _check(result: Result) -> None:
    rows = result["rows"]
    assert {row["task"].partition(",")[0] for row in rows} >= {"rest of line", "inside a line", "next line"}
    assert {(row["model"], row["task"].partition(", ")[2]) for row in rows} == {
        (model, given) for model in ("one", "two") for given in ("prefix", "prefix and suffix")
    }
    for row in rows:
        assert {"model", "language", "task", "n", *FIGURES} <= row.keys()
        low, high = row["intervals"]["bits_per_byte"]
        assert 0 < low <= row["bits_per_byte"] <= high
        if row["task"].endswith(", prefix"):
            assert row["ratio"] == {"to": "one", "bits_per_byte": 1.0, "interval": [1.0, 1.0]}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {len(cells) for cells in table(result)} == {len(HEAD)}
