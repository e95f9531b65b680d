"""A simulated typist counts as the protocol says, never sees the future, and goes on where it was killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from habitab_adapters import workbench
from habitab_adapters.ledger import Ledger
from habitab_adapters.lines import Line
from habitab_adapters.registry import Registry
from habitab_adapters.repository import Checkout
from habitab_adapters.workbench import Workbench
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.errors import AdapterError, EngineError
from habitab_engine.home import Home
from habitab_engine.lora import Lora
from habitab_engine.types import SOURCES, Completion, CompletionRequest, Folder, OpenText, Suggestion
from habitab_server import bench, bench_replay, cli
from habitab_server.bench_figures import Typed
from habitab_server.bench_replay import ADAPTER, COLUMNS, Column, Desk, type_line
from histories import History
from loras import facts_of, random_lora

FIRST = "import os\n\n\ndef first(path):\n    return os.stat(path)\n"
LATER = FIRST + "\n\ndef second(path):\n    return os.path.getsize(path)\n"
LAST = LATER.replace("return os.stat(path)", "size = os.stat(path)\n    return size.st_size")

Answer = Callable[[CompletionRequest], str]


def right(request: CompletionRequest) -> str:
    """The rest of the line: above it the file is as the commit leaves it."""
    lines = (LAST if "second" in request.suffix else LATER).split("\n")
    row, line = request.prefix.count("\n"), request.prefix.rpartition("\n")[2]
    return lines[row][len(line) :]


class Spy:
    """Stands for the engine; keeps what it was told and gives the answers that the test sets."""

    def __init__(self, answer: Answer, probability: float = 0.9) -> None:
        self._answer, self._probability = answer, probability
        self.requests: list[CompletionRequest] = []
        self.folders: list[str] = []
        self.refreshed: list[Path] = []
        self.open: dict[str, str] = {}
        self.settled = self.closed = 0

    def complete(self, request: CompletionRequest, stop: threading.Event) -> Completion:
        self.requests.append(request)
        text = self._answer(request)
        suggestions = (Suggestion(text, (-0.1,), "end of line", self._probability),) if text else ()
        return Completion(suggestions, "" if text else "nothing", 1.0, 1, 1, 1)

    def open_folder(self, folder: Folder) -> None:
        self.folders.append(folder.root)

    def observe(self, text: OpenText) -> None:
        self.open[text.document] = text.text

    def refresh(self, root: str, paths: Iterable[Path]) -> None:
        assert root == self.folders[-1]
        self.refreshed += paths

    def settle(self, timeout: float) -> bool:
        self.settled += 1
        return True

    def forget(self, document: str) -> None:
        del self.open[document]

    def close(self) -> None:
        self.closed += 1


def eight_bits(request: CompletionRequest, text: str) -> tuple[float, int]:
    return 8.0, len(text.encode())


class Player:
    """Runs the bench with spies, one for each engine that is loaded."""

    def __init__(self, folder: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.history, self.home, self.base = History(folder / "repo"), Home.locate(folder / "home"), tiny_base
        self.make: Callable[[], Spy] = lambda: Spy(right)
        self.spies: list[Spy] = []
        self.loras: list[Lora | None] = []
        monkeypatch.setattr(bench_replay, "load", self._load)

    @property
    def registry(self) -> Registry:
        return Registry(self.home, self.base)

    def learn(self, seed: int = 0) -> str:
        """Another version of an adapter."""
        base = load_checkpoint(self.base)
        return self.registry.add(random_lora(base, seed=seed), facts_of(base))

    def _load(self, settings: object, lora: Lora | None) -> tuple[Spy, bench_replay.Bits]:
        self.spies.append(self.make())
        self.loras.append(lora)
        return self.spies[-1], eight_bits

    def run(
        self, split: float = 0.34, events: int | None = None, author: str | None = None, adapter: str | None = None
    ) -> bench_replay.Result:
        return bench_replay.measure(self.home, self.base, self.history.folder, split, events, author, adapter)


@pytest.fixture
def player(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Player:
    player = Player(tmp_path, tiny_base, monkeypatch)
    for text in (FIRST, LATER, LAST):
        player.history.commit({"pkg/a.py": text})
    return player


# ---- one line ----


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Callable[[str, Spy], Typed]]:
    def typed(text: str, spy: Spy) -> Typed:
        line = Line("c:a.py:4", "a.py", ["import os", "", "def size(path):"], text, ["", "print(size('a'))", ""], [])
        bench = Workbench(spy, Checkout(SimpleNamespace(empty_tree=""), tmp_path), looks_around=False)  # type: ignore[arg-type]
        return type_line(line, Desk(spy, COLUMNS[0], bench, line), eight_bits)

    yield typed


LINE = "    return abcdef(path)"
REST = "return abcdef(path)"


def rest_of_line(request: CompletionRequest) -> str:
    return LINE[len(request.prefix.rpartition("\n")[2]) :]


def test_a_right_suggestion_is_taken_at_the_first_opportunity(typed: Callable[[str, Spy], Typed]) -> None:
    found = typed(LINE, Spy(rest_of_line))
    assert found == Typed(
        *(1, True, 1.0, True, True),
        **{"characters": len(LINE), "accepted": len(REST), "accepts": 1, "opportunities": 1, "shown": 1},
        **{"bits": 8.0, "bytes": len(REST)},
    )


def test_blanks_at_the_end_and_lines_below_do_not_matter(typed: Callable[[str, Spy], Typed]) -> None:
    found = typed(LINE + "  ", Spy(lambda request: rest_of_line(request) + " \nand more"))
    assert found.accepted == len(REST) and found.exact and found.opportunities == 1


def test_without_suggestions_every_character_is_an_opportunity(typed: Callable[[str, Spy], Typed]) -> None:
    spy = Spy(lambda request: "")
    found = typed(LINE, spy)
    assert (found.opportunities, found.shown, found.accepted, found.unaccepted) == (len(REST), 0, 0, 0)
    assert not found.exact and found.similarity == 0.0
    cursors = [len(request.prefix.rpartition("\n")[2]) for request in spy.requests]
    assert cursors == list(range(4, len(LINE)))
    assert all(request.prefix.endswith(LINE[:cursor]) for request, cursor in zip(spy.requests, cursors, strict=True))
    assert {request.suffix for request in spy.requests} == {"\n\nprint(size('a'))\n"}


def test_what_is_not_worth_showing_is_right_but_never_taken(typed: Callable[[str, Spy], Typed]) -> None:
    found = typed(LINE, Spy(rest_of_line, probability=0.01))
    assert found.exact and found.inner_exact and found.similarity == 1.0
    assert (found.shown, found.accepted, found.unaccepted) == (0, 0, 0)


def test_a_suggestion_is_kept_while_it_agrees_and_counted_once(typed: Callable[[str, Spy], Typed]) -> None:
    def answer(request: CompletionRequest) -> str:
        return "return abcXYZ" if request.prefix.endswith("\n    ") else ""

    spy = Spy(answer)
    found = typed(LINE, spy)
    assert found.shown == 1 + len("return abc") and found.unaccepted == len("return abcXYZ")
    asked = {len(request.prefix.rpartition("\n")[2]) - 4 for request in spy.requests}
    kept = set(range(1, 1 + len("return abc")))
    assert len(asked & kept) <= 1  # the inner cursor's own question
    assert asked | kept == set(range(len(REST)))


def test_a_suggestion_that_ends_too_early_is_not_taken(typed: Callable[[str, Spy], Typed]) -> None:
    found = typed(LINE, Spy(lambda request: rest_of_line(request)[:-1]))
    assert found.accepted == 0 and not found.exact and 0.9 < found.similarity < 1


def test_the_inner_cursor_is_asked_even_behind_an_accept(typed: Callable[[str, Spy], Typed]) -> None:
    spy = Spy(rest_of_line)
    assert typed(LINE, spy).inner_exact and len(spy.requests) == 2


def test_an_engine_is_not_asked_where_the_server_would_not(typed: Callable[[str, Spy], Typed]) -> None:
    spy = Spy(lambda request: "!")
    found = typed("    # Done. x", spy)
    assert found.opportunities > len(spy.requests)


@pytest.mark.parametrize(("answer", "named"), [("_name = 1", 1), ("_name", 1), ("_names = 1", 0), ("", 0)])
def test_a_name_is_completed_when_all_of_it_and_no_more_is_suggested(tmp_path: Path, answer: str, named: int) -> None:
    above, spy = ["def run(new_name, old_name):", "    pass", ""], Spy(lambda request: answer)
    line = Line("c:a.py:4", "a.py", above, "old_name = new_name", ["old_name"], above)
    bench = Workbench(spy, Checkout(SimpleNamespace(empty_tree=""), tmp_path), looks_around=False)  # type: ignore[arg-type]
    found = type_line(line, Desk(spy, COLUMNS[0], bench, line), eight_bits)
    assert (found.names, found.named) == (1, named)
    assert any(request.prefix.endswith("old_name = new") for request in spy.requests)


# ---- a history ----


def test_the_result_has_the_protocol_s_keys_and_is_json(player: Player) -> None:
    result = player.run()
    json.dumps(result, allow_nan=False)
    assert result["events"] == 4 and list(result["columns"]) == ["base", "context", "memory"]
    keys = "exact_match exact_match_inner edit_similarity completed_ratio net_chars_per_opportunity bits_per_byte"
    for figures in result["columns"].values():
        assert list(figures) == [*keys.split(), "show_rate", "second_use"]


def test_an_engine_that_knows_everything_completes_all_but_the_indentation(player: Player) -> None:
    result = player.run()
    added = ["def second(path):", *("    " + text for text in ("return os.path.getsize(path)", "size = os.stat(path)"))]
    added.append("    return size.st_size")
    characters = sum(map(len, added))
    for column in result["columns"].values():
        assert column["completed_ratio"] == round((characters - 12) / characters, 4)
        assert column["exact_match"] == column["exact_match_inner"] == column["show_rate"] == 1.0
        assert column["net_chars_per_opportunity"] == round((characters - 12 - 4) / 4, 4)
    assert result["characters"] == characters


def test_columns_differ_in_their_switches_alone(player: Player) -> None:
    player.make = lambda: Spy(lambda request: "")
    player.run()
    assert len(player.spies) == len(COLUMNS) and [spy.closed for spy in player.spies] == [1, 1, 1]
    asked = [[(request.path, request.prefix, request.suffix) for request in spy.requests] for spy in player.spies]
    assert asked[0] == asked[1] == asked[2]
    switches = [{(request.sources, request.memory) for request in spy.requests} for spy in player.spies]
    assert switches == [{((), False)}, {(SOURCES, False)}, {(SOURCES, True)}]
    assert [len(spy.folders) for spy in player.spies] == [0, 1, 1]
    assert player.spies[1].folders != player.spies[2].folders


def test_with_an_adapter_there_is_one_more_column_which_is_memory_and_adapter(player: Player) -> None:
    without = player.run()
    assert player.loras == [None, None, None] and "adapter" not in without
    player.registry.activate(player.learn())
    result = player.run()
    assert list(result["columns"]) == ["base", "context", "memory", "adapter"] and result["adapter"] == "v1"
    assert {key: result["columns"][key] for key in without["columns"]} == without["columns"]
    assert list(result["ratios"]) == ["context/base", "memory/context", "adapter/memory"]
    assert len(player.spies) == 4 and player.loras[3] is not None  # the other columns were in the ledger
    assert {(request.sources, request.memory) for request in player.spies[3].requests} == {(SOURCES, True)}


def test_another_adapter_is_typed_with_again_and_a_known_one_is_not(player: Player) -> None:
    for seed in (0, 1):
        player.learn(seed)
    player.registry.activate("v1")
    for version in (None, "v2", "v1", "v2", None):
        assert player.run(adapter=version)["adapter"] == (version or "v1")
    assert [lora is not None for lora in player.loras] == [False, False, False, True, True]
    (ledger,) = (player.home.user_folder / "bench").iterdir()
    columns = {json.loads(line)["column"] for line in ledger.read_text().splitlines()}
    digests = {str(player.registry.info(version).facts["sha256"]) for version in ("v1", "v2")}
    assert columns == {"base", "context", "memory", *(f"adapter {digest}" for digest in digests)}


def test_an_adapter_that_cannot_be_used_is_a_fault(player: Player) -> None:
    with pytest.raises(AdapterError, match="no version v1"):
        player.run(adapter="v1")
    assert not player.spies


def test_requests_are_those_of_a_server_with_the_folder_open(player: Player) -> None:
    player.run()
    request, root = player.spies[2].requests[0], Path(player.spies[2].folders[0])
    assert request.root == str(root) and request.file == str(root / "pkg/a.py")
    assert request.document == (root / "pkg/a.py").as_uri() and request.path == "pkg/a.py"
    assert request.language == "python" and request.offset == 0
    assert not root.exists()


def test_no_engine_ever_sees_a_line_before_it_is_typed(player: Player) -> None:
    """Every added line is a mark; what is on disk, open or in the request is searched for later ones each time."""
    marks = [f"mark_{i:03} = 1" for i in range(48)]
    for i in range(6):
        for file, own in (("one.py", marks[8 * i : 8 * i + 4]), ("two.py", marks[8 * i + 4 : 8 * i + 8])):
            path = player.history.folder / file
            old = path.read_text() if path.exists() else "bottom\n"
            path.write_text(old.replace("bottom", "".join(f"{mark}\n" for mark in own) + "bottom"))
        player.history.commit({})
    looked = {"one.py": 0, "two.py": 0}

    def answer(request: CompletionRequest) -> str:
        commit, place = divmod(request.prefix.count("\n"), 4)
        if request.path not in looked or "bottom" not in request.suffix:
            return ""
        later = marks[8 * commit + place + 4 * (request.path == "two.py") :]
        seen = [request.prefix, request.suffix, *player.spies[-1].open.values()]
        seen += [file.read_text() for file in Path(request.root or ".").rglob("*.py")]
        looked[request.path] += 1
        assert not [mark for mark in later for text in seen if mark in text]
        return ""

    player.make = lambda: Spy(answer)
    assert player.run(split=0.0)["events"] > len(marks) and min(looked.values()) > 100


def test_the_workspace_on_disk_follows_the_commits(player: Player) -> None:
    texts: list[str] = []

    def answer(request: CompletionRequest) -> str:
        texts.append(Path(request.file).read_text() if Path(request.file).exists() else "")
        return ""

    player.make = lambda: Spy(answer)
    player.run()
    assert set(texts) == {"", FIRST, LATER}  # nothing of it for the base
    assert Path(player.spies[1].folders[0], "pkg/a.py") in player.spies[1].refreshed and player.spies[1].settled


def test_an_index_that_never_settles_is_a_fault(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spy, "settle", lambda self, timeout: False)
    with pytest.raises(EngineError, match="indexed"):
        player.run()
    assert player.spies[-1].closed


def test_documents_stay_open_until_others_take_their_place(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "OPEN_DOCUMENTS", 2)
    for i in range(4):
        player.history.commit({f"b{i}.py": f"value = {i}\n"})
    player.history.commit({"b3.py": None, "pkg/a.py": FIRST})
    player.history.commit({"c.py": "value = 9\n"})
    player.run()
    assert [Path(uri).name for uri in player.spies[1].open] == ["c.py"] or len(player.spies[1].open) == 2
    assert all(not uri.endswith("b3.py") for uri in player.spies[1].open)
    assert not player.spies[0].open


def test_a_killed_run_goes_on_behind_its_last_finished_line(player: Player) -> None:
    whole = player.run()
    everything = [len(spy.requests) for spy in player.spies]
    player.home = Home.locate(player.home.path.with_name("other"))
    player.spies.clear()
    countdown = iter(range(5))

    def until_killed(request: CompletionRequest) -> str:
        if next(countdown, None) is None:
            raise KeyboardInterrupt
        return right(request)

    player.make = lambda: Spy(until_killed)
    with pytest.raises(KeyboardInterrupt):
        player.run()
    assert player.spies[-1].closed
    (ledger,) = (player.home.user_folder / "bench").iterdir()
    finished = ledger.read_bytes().count(b"\n")
    with ledger.open("ab") as file:
        file.write(b'{"column": "base", "li')
    player.make = lambda: Spy(right)
    player.spies.clear()
    assert player.run() == whole
    assert 0 < finished < 4 and sum(len(spy.requests) for spy in player.spies) == sum(everything) - 2 * finished
    player.spies.clear()
    assert player.run() == whole and not player.spies


def test_another_split_base_or_choice_is_another_run(player: Player, tmp_path: Path) -> None:
    player.run()
    player.run(events=2)
    player.run(split=0.6)
    player.history.commit({"b.py": "value = 1\n"})
    player.run()
    files = list((player.home.user_folder / "bench").iterdir())
    assert len(files) == 4 and all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_the_ledger_holds_no_code(player: Player) -> None:
    player.run()
    (ledger,) = (player.home.user_folder / "bench").iterdir()
    assert "stat" not in ledger.read_text()


def test_a_ledger_gives_back_what_was_put_in(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l", Typed) as ledger:
        ledger.add("base", "c:a.py:1", Typed(bits=0.125, exact=1))
    with Ledger(tmp_path / "l", Typed) as ledger:
        assert ("base", "c:a.py:1") in ledger and ("base", "c:a.py:2") not in ledger
        assert ledger["base", "c:a.py:1"] == Typed(bits=0.125, exact=1)


def test_a_person_reads_one_plain_sentence_first(player: Player, capsys: pytest.CaptureFixture[str]) -> None:
    bench.run_replay(player.home, player.base, player.history.folder, 0.34, None, None)
    out, err = capsys.readouterr()
    assert out.startswith("A simulated typist would have had 88 % ") and "4 added lines" in out.splitlines()[0]
    assert "completed_ratio" in out and "12/12" in err


def test_the_command_prints_json_last_and_one_sentence_for_a_fault(
    player: Player, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--home", str(player.home.path), "--base", str(player.base), "bench", "replay"]
    assert cli.run([*options, str(player.history.folder), "--split", "0.34", "--events", "2"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["events"] == 2
    for arguments in ([str(tmp_path)], [str(player.history.folder), "--author", "eve@x.org"]):
        assert cli.run([*options, *arguments]) == 1
        out, err = capfd.readouterr()
        assert not out and err.startswith("habitab: ") and err.count("\n") == 1


def test_a_real_engine_replays_a_history(tmp_path: Path, tiny_base: Path) -> None:
    history = History(tmp_path / "repo")
    for text in (FIRST, LATER, LAST):
        history.commit({"pkg/a.py": text})
    home, base = Home.locate(tmp_path / "home"), load_checkpoint(tiny_base)
    Registry(home, tiny_base).add(random_lora(base), facts_of(base))
    result = bench_replay.measure(home, tiny_base, history.folder, 0.34, 3, None, "v1")
    assert result["events"] == 3
    bits = [column["bits_per_byte"] for column in result["columns"].values()]
    assert len(bits) == 4 and min(bits) > 0 and bits[3] != bits[2]


def test_a_column_looks_around_only_where_it_may() -> None:
    assert [column.looks_around for column in (*COLUMNS, ADAPTER)] == [False, True, True, True]
    assert Column("recall", memory=True).looks_around
