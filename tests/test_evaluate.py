"""The judge counts what the engine suggests and what the truth costs, asks the same twice, and goes on when killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from habitab_adapters.evaluate import CURSORS, Known, View, _as_sound, _suggested, ask_all
from habitab_adapters.ledger import Ledger
from habitab_adapters.lines import SHOWN_COST, Line, net_characters, plan_of
from habitab_adapters.repository import Repository
from habitab_engine.config import EngineSettings
from habitab_engine.engine import Engine
from habitab_engine.errors import InputError
from habitab_engine.types import Completion, CompletionRequest, Suggestion
from histories import History

SHAPE = """class Shape:
    def __init__(self, width, height):
        self.width = width
        self.height = height

    def area(self):
        return self.width * self.height
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    made = History(tmp_path_factory.mktemp("judged") / "history")
    made.commit({"shape.py": SHAPE})
    more = SHAPE + "\n    def perimeter(self):\n        return 2 * (self.width + self.height)\n"
    made.commit({"shape.py": more})
    made.commit({"shape.py": more + "\n    def half_perimeter(self):\n        return self.width + self.height\n"})
    return made


def asked(history: History, path: Path, view: View) -> list[Known]:
    """By a new engine: what one was shown it remembers."""
    engine = Engine.load(EngineSettings(threads=1, kernel="int8"))
    try:
        with Repository(history.folder) as repository, Ledger(path, Known) as ledger:
            plan = plan_of(repository, repository.commits()[1:], None)
            return ask_all(engine, {"own": view}, plan, repository, ledger)["own"]
    finally:
        engine.close()


def test_lines_are_asked_at_several_cursors_and_a_killed_run_comes_to_the_same(
    history: History, tmp_path: Path
) -> None:
    path = tmp_path / "lines.jsonl"
    found = asked(history, path, View())
    assert len(found) == 4 and all(known.asked == CURSORS and known.bits > 0 and known.bytes > 3 for known in found)
    assert all(known.exact <= known.parsed <= known.suggested <= known.asked for known in found)
    assert any(known.exact for known in found) and all(known.exact or known.net <= 0 for known in found)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])  # killed while the last line was written
    again = asked(history, path, View())
    assert again[:3] == found[:3] and again[3].exact == found[3].exact
    assert again[3].bits == pytest.approx(found[3].bits, rel=0.01)  # a reused cache is a cold one within a tolerance
    assert b"perimeter" not in whole


def test_lines_of_another_version_are_refused_in_one_sentence_and_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"column": "own", "line": "1", "asked": 2}\n')
    with pytest.raises(InputError, match="another version of habitab: delete it"):
        Ledger(path, Known)
    assert path.read_text().count("\n") == 1


def test_an_engine_that_may_not_look_around_is_shown_nothing(history: History, tmp_path: Path) -> None:
    alone, around = (asked(history, tmp_path / f"{view.memory}.jsonl", view) for view in (View((), False), View()))
    assert sum(known.bits for known in alone) > sum(known.bits for known in around)


def test_columns_that_share_their_prompts_come_to_what_each_comes_to_alone(history: History, tmp_path: Path) -> None:
    engine = Engine.load(EngineSettings(threads=1, kernel="int8"))
    views = {"context": View(memory=False), "memory": View()}
    try:
        with Repository(history.folder) as repository, Ledger(tmp_path / "both.jsonl", Known) as ledger:
            plan = plan_of(repository, repository.commits()[1:], None)
            both = ask_all(engine, views, plan, repository, ledger)
    finally:
        engine.close()
    for name, view in views.items():
        alone = asked(history, tmp_path / f"{name}.jsonl", view)
        assert [k.bits for k in both[name]] == pytest.approx([k.bits for k in alone], rel=0.01)
        assert [k.exact for k in both[name]] == [k.exact for k in alone]


@pytest.mark.parametrize(
    ("shown", "net"),
    [
        ({4: "return width", 7: "urn width"}, 11),  # taken at once, by one key
        ({4: "", 7: "urn width"}, 8),
        ({4: "pass", 7: "urn width"}, 8 - 4 * SHOWN_COST),
        ({4: "return height", 7: "urn width", 12: "idth"}, 3 - 13 * SHOWN_COST),  # typed through until it is wrong
        ({4: "pass", 7: "", 12: "height"}, -10 * SHOWN_COST),
        ({4: "", 7: ""}, 0),
    ],
)
def test_net_characters_are_what_is_accepted_less_keys_and_what_is_shown_in_vain(
    shown: dict[int, str], net: float
) -> None:
    line = Line("1", "shape.py", [], "    return width", [], [])
    assert net_characters(line, shown) == pytest.approx(net)


def test_a_suggestion_is_as_sound_as_the_true_line_or_breaks_the_file() -> None:
    line = Line("1", "shape.py", ["def area(self):"], "    return self.width", ["", "print(area)"], [])
    assert _as_sound(line, ["    return self.width"])
    assert _as_sound(line, ["    return (self.height)"])
    assert not _as_sound(line, ["    return (self.height"])
    assert not _as_sound(line, ["    return self.'width"])


def test_where_the_true_line_leaves_something_open_a_suggestion_may_too() -> None:
    line = Line("1", "shape.py", ["def area(self):"], "    return self.scaled(", [], [])
    assert _as_sound(line, ["    return self.doubled("])


@pytest.mark.parametrize("text", ["x", "    ab", "    return self.width  "])
def test_the_cursors_of_a_line_are_its_first_and_others_the_same_every_time(text: str) -> None:
    line = Line("1", "shape.py", [], text, [], [])
    found = line.spread(4)
    assert found == sorted(set(found)) and found[0] == line.cursors[0] and set(found) <= set(line.cursors)
    assert len(found) == min(4, max(1, len(line.cursors) - 1)) and found == line.spread(4)
    assert line.spread(1) == found[:1]
    assert all(len(line.rest(cursor)) >= 2 for cursor in found[1:])  # a single character is never shown


@pytest.mark.parametrize(
    ("prefix", "probability", "is_shown"),
    [
        ("def area(self):\n    return ", 0.9, True),
        ("def area(self):\n    return ", 0.05, False),
        ("a = ", 0.9, False),
    ],
)
def test_shown_is_what_the_server_would_ask_for_and_is_sure_enough(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, prefix: str, probability: float, is_shown: bool
) -> None:
    said = Completion((Suggestion("self.width\n", (-0.1, -0.1), "line", probability),), "", 1.0, 9, 0, 2)
    monkeypatch.setattr(tiny_engine, "complete", lambda *_: said)
    request = CompletionRequest("d", "shape.py", prefix, "\n")
    assert _suggested(tiny_engine, request) == ("self.width", is_shown)
