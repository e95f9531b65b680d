"""A git history typed again by a simulated typist: how much of it would habitab have written?

The tree at the split is the past. Of the lines added later a sample is typed, key by key and in order, in a workspace
on disk that follows the commits; `lines.py` says what stands around a line. At each cursor from a line's first
character on the typist sees what the server would show with its default settings: a suggestion that what was typed
since agrees with, else a new one from the engine. It is taken when its first line is the rest of the line, and all of
it, blanks at the end apart; the typist never takes a part, never errs and never types on what it took. Only single
lines are asked for, since only lines are counted, with time enough that a slow machine changes nothing.

Exact match, edit similarity and second use (of names of several words that were typed once today: is the rest
suggested after three characters?) are of what the engine suggests, shown or not, and where it is not asked (say in an
empty comment) that is nothing. Every column is a typist with an engine of its own, for what is accepted changes what is
asked next, and what one column typed must not be another's memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import habitab_adapters
from habitab_adapters.handwork import content_of
from habitab_adapters.ledger import Ledger
from habitab_adapters.lines import SEED, Line, Plan, make_plan
from habitab_adapters.registry import Registry
from habitab_adapters.repository import Checkout, Repository
from habitab_adapters.workbench import Observing, Workbench
from habitab_engine import __version__, gate
from habitab_engine.config import EngineSettings, Settings
from habitab_engine.copying import first_line
from habitab_engine.home import Home, private_folder
from habitab_engine.likeness import similarity
from habitab_engine.syntax import language_of
from habitab_engine.types import SOURCES, Completion, CompletionRequest
from habitab_server.bench_figures import Typed, summary
from habitab_server.documents import Document, Place, Snapshot
from habitab_server.suggestions import Entry, Spot, Suggestions

if TYPE_CHECKING:
    from habitab_engine.lora import Lora

PATIENCE_MS = 60_000.0


@dataclass(frozen=True, slots=True)
class Column:
    """What habitab may use besides the file itself. `adapter` is the sha256 of one that is merged into the base."""

    name: str
    sources: tuple[str, ...] = ()
    memory: bool = False
    adapter: str = ""

    @property
    def key(self) -> str:
        """What a ledger calls it: another adapter is another column."""
        return f"{self.name} {self.adapter}".rstrip()

    @property
    def looks_around(self) -> bool:
        """Whether anything outside of the file matters."""
        return bool(self.sources) or self.memory


COLUMNS = (Column("base"), Column("context", SOURCES), Column("memory", SOURCES, memory=True))
ADAPTER = Column("adapter", SOURCES, memory=True)  # where there is one


class Serving(Observing, Protocol):
    """The engine as a replay sees it."""

    def complete(self, request: CompletionRequest, stop: threading.Event) -> Completion: ...

    def close(self) -> None: ...


Result = dict[str, Any]
# The bits of a text behind a request's cursor, and how many bytes of it they are of.
Bits = Callable[[CompletionRequest, str], tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The engine's suggestion at one cursor, "" if it has none, and whether the server would show it."""

    text: str = ""
    shown: bool = False


class Desk:
    """One line being typed: what the engine says at a cursor, and what is on the screen there."""

    def __init__(self, engine: Serving, column: Column, bench: Workbench, line: Line) -> None:
        self._engine, self._column, self._bench, self._line = engine, column, bench, line
        text = "\n".join([*line.above, line.text, *line.below])
        self._document = Document(bench.uri(line.path), language_of(line.path), 1, text)
        self._suggestions = Suggestions()
        self._answers: dict[int, Answer] = {}

    def screen(self, cursor: int) -> tuple[str, bool]:
        """The suggestion on the screen, "" if there is none, and whether it appeared just now."""
        snapshot = self._snapshot(cursor)
        if fits := self._suggestions.find(snapshot):
            return fits[0].text, False
        answer = self.answer(cursor)
        if not answer.shown:
            return "", False
        self._suggestions.add(Entry(Spot.at(snapshot), ((uuid4().hex, answer.text),)))
        return answer.text, True

    def answer(self, cursor: int) -> Answer:
        """What the engine says at a cursor, as if nothing were on the screen; asked once."""
        if cursor not in self._answers:
            self._answers[cursor] = self._ask(self.request(cursor))
        return self._answers[cursor]

    def _ask(self, request: CompletionRequest) -> Answer:
        if gate.why_not(request):
            return Answer()
        found = self._engine.complete(request, threading.Event()).suggestions
        if not found:
            return Answer()
        shown = gate.worth_showing(found[0].text, found[0].probability, Settings().show_threshold)
        return Answer(found[0].text, shown)

    def request(self, cursor: int) -> CompletionRequest:
        snapshot, path = self._snapshot(cursor), self._line.path
        return CompletionRequest(
            document=snapshot.uri,
            path=path,
            prefix=snapshot.prefix,
            suffix=snapshot.suffix,
            offset=snapshot.offset,
            language=self._document.language,
            multiline=False,
            budget_ms=PATIENCE_MS,
            root=str(self._bench.root),
            file=str(self._bench.root / path),
            sources=self._column.sources,
            memory=self._column.memory,
        )

    def _snapshot(self, cursor: int) -> Snapshot:
        """The document with the line typed up to the cursor."""
        row = len(self._line.above)
        return self._document.snapshot(Place(row, cursor), Place(row, len(self._line.text)))


def type_line(line: Line, desk: Desk, bits_of: Bits) -> Typed:
    """Type one line and count. The engine is asked in the order of the cursors."""
    first = line.cursors[0]
    suggested = first_line(desk.answer(first).text)
    bits, size = bits_of(desk.request(first), line.rest(first))
    typed = Typed(
        exact=suggested == line.rest(first),
        similarity=similarity(suggested, line.rest(first)),
        inner=line.inner_cursor is not None,
        characters=len(line.text),
        bits=bits,
        bytes=size,
    )
    inner, names = line.inner_cursor, line.second_uses
    for cursor in line.cursors:
        if cursor == inner or cursor in names:
            desk.answer(cursor)
        if _is_taken(line, desk, cursor, typed):
            break
    if inner is not None:
        typed.inner_exact = first_line(desk.answer(inner).text) == line.rest(inner)
    typed.names, typed.named = len(names), sum(_has(desk.answer(cursor).text, rest) for cursor, rest in names.items())
    return typed


def _is_taken(line: Line, desk: Desk, cursor: int, typed: Typed) -> bool:
    """One opportunity: whether the typist takes what is on the screen."""
    text, is_new = desk.screen(cursor)
    typed.opportunities += 1
    typed.shown += bool(text)
    if text and first_line(text) == line.rest(cursor):
        typed.accepts, typed.accepted = 1, len(line.rest(cursor))
        return True
    typed.unaccepted += len(text) if is_new else 0
    return False


def _has(text: str, name: str) -> bool:
    """Whether a suggestion writes a name to its end, and then something else."""
    return re.match(re.escape(name) + r"(?!\w)", text) is not None


def measure(
    home: Home,
    base: Path | None,
    path: Path,
    split: float,
    events: int | None,
    author: str | None,
    adapter: str | None = None,
) -> Result:
    """The JSON of `bench replay`, with a column for the active adapter or the version `adapter`.

    Raises InputError where there is nothing to replay, AdapterError for an adapter that cannot be used.
    """
    from habitab_engine.worker import prepare_environment

    # With more threads each waits for the slowest: where anything else runs, a line took a hundred times as long.
    settings = EngineSettings(base=str(base) if base else "", threads=1)
    prepare_environment(settings)  # as the engine process does, before torch is imported
    with Repository(path) as repository:
        plan = make_plan(repository, split, events, author)
        version, lora, columns = _adapter(Registry(home, base), adapter)
        facts = [repository.head(), split, events, (author or "").casefold(), SEED, asdict(settings)]
        with Ledger(_ledger_file(home, base, facts), Typed) as ledger, progress(plan, ledger, columns) as advance:
            for column in columns:
                if not all((column.key, line) in ledger for line in plan.lines):
                    engine = functools.partial(load, settings, lora if column.adapter else None)
                    _replay(column, plan, repository, ledger, engine, advance)
            return _result(plan, ledger, columns) | {"head": repository.head(), "split": split} | version


def _adapter(registry: Registry, version: str | None) -> tuple[Result, Lora | None, tuple[Column, ...]]:
    """What the JSON says of the adapter, its tensors, and all columns. Raises AdapterError."""
    version = version or registry.active
    if not version:
        return {}, None, COLUMNS
    lora, facts = registry.load(version), registry.verified(version).facts
    return {"adapter": version}, lora, (*COLUMNS, replace(ADAPTER, adapter=facts["sha256"]))


def load(settings: EngineSettings, lora: Lora | None) -> tuple[Serving, Bits]:
    """A new engine of the base with an adapter, or without, and what tells the bits under it."""
    from habitab_adapters.bits import bits_of
    from habitab_engine.checkpoint import load_checkpoint
    from habitab_engine.engine import Engine
    from habitab_engine.merging import merged

    checkpoint = load_checkpoint(Path(settings.base) if settings.base else None)
    engine = Engine(merged(checkpoint, lora) if lora else checkpoint, settings)
    return engine, functools.partial(bits_of, engine)


def _ledger_file(home: Home, base: Path | None, facts: list[Any]) -> Path:
    """Another file for every other history, choice of lines, base or state of this code."""
    from habitab_engine.checkpoint import describe

    home.prepare()
    folder = home.user_folder / "bench"
    private_folder(folder)
    code = hashlib.sha256()
    here, adapters, engine = (Path(file).parent for file in (__file__, habitab_adapters.__file__, gate.__file__))
    own = [here / f"{name}.py" for name in ("documents", "suggestions")]
    own += [adapters / f"{name}.py" for name in ("bits", "handwork", "ledger", "lines", "repository", "workbench")]
    for file in [Path(__file__), *own, *sorted(engine.glob("*.py"))]:
        code.update(file.read_bytes())
    key = json.dumps([__version__, code.hexdigest(), describe(base)["sha256"], *facts])
    return folder / f"replay-{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl"


def _replay(
    column: Column,
    plan: Plan,
    repository: Repository,
    ledger: Ledger[Typed],
    load: Callable[[], tuple[Serving, Bits]],
    advance: Callable[[], None],
) -> None:
    """Type all lines for one column; those that are done already are only shown to the engine."""
    with tempfile.TemporaryDirectory(prefix="habitab-replay-") as folder:
        engine, bits_of = load()
        try:
            bench = Workbench(engine, Checkout(repository, Path(folder)), column.looks_around)
            for visit in plan.visits:
                content = content_of(repository, visit.commit.id, visit.path)
                bench.go_to(visit.commit)
                for line in visit.lines(content):
                    bench.show(line.path, line.opened)
                    if (column.key, line.id) not in ledger:
                        bench.settle()
                        ledger.add(column.key, line.id, type_line(line, Desk(engine, column, bench, line), bits_of))
                        advance()
                bench.show(visit.path, "\n".join(content))
        finally:
            engine.close()


def _result(plan: Plan, ledger: Ledger[Typed], columns: Sequence[Column]) -> Result:
    done = {column.name: [ledger[column.key, line] for line in plan.lines] for column in columns}
    figures = summary(done, [line.partition(":")[0] for line in plan.lines])
    counts = {"past_commits": plan.past, "commits": plan.replayed, "available": plan.available}
    characters = sum(typed.characters for typed in done[COLUMNS[0].name])
    return {"events": len(plan.lines), "characters": characters} | figures | counts


@contextmanager
def progress(plan: Plan, ledger: Ledger[Typed], columns: Sequence[Column]) -> Iterator[Callable[[], None]]:
    """A bar on standard error with the time left; what it gives is called after each line."""
    bar = Progress(
        TextColumn("Typing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    done = sum((column.key, line) in ledger for column in columns for line in plan.lines)
    task = bar.add_task("", total=len(plan.lines) * len(columns), completed=done)
    with bar:
        yield lambda: bar.advance(task)


def sentence(result: Result) -> str:
    """What it comes to, for a person."""
    best = list(result["columns"])[-1]
    share, spread = result["columns"][best]["completed_ratio"], result["intervals"][best]["completed_ratio"]
    low, high = (f"{100 * bound:.0f}" for bound in spread)
    return (
        f"A simulated typist would have had {100 * share:.0f} % ({low} to {high}) of the {result['characters']:,} "
        f"characters of {result['events']:,} added lines completed."
    )


def title(result: Result) -> str:
    chosen = f"{result['events']:,} of {result['available']:,} lines that {result['commits']:,} commits added"
    return f"Replay of {chosen} (in brackets 95 % intervals over {result['resampled']})"


def rows(result: Result) -> list[list[str]]:
    """The table: each figure in each column, then how often as much each column completed as the one before it."""
    names = list(result["columns"])
    table = [
        [figure, *(_cell(result["columns"][name][figure], result["intervals"][name][figure]) for name in names)]
        for figure in result["columns"][names[0]]
    ]
    ratios = [_cell(found["completed_ratio"], found["interval"]) for found in result["ratios"].values()]
    return [*table, ["ratio to the column before", "", *ratios]]


def _cell(value: float | None, spread: list[float] | None) -> str:
    return "" if value is None or spread is None else f"{value:.3f} ({spread[0]:.3f}–{spread[1]:.3f})"
