"""What an engine knows of lines that a person wrote: asked through the serving engine, so that what is judged ships.

Every line is asked at some cursors, before its first character and within it, in a workspace that follows the commits
as in the replay; nothing is typed there, so all engines are asked the same.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from habitab_adapters.bits import bits_of
from habitab_adapters.handwork import content_of
from habitab_adapters.ledger import Ledger
from habitab_adapters.lines import Line, Plan, net_characters
from habitab_adapters.repository import Checkout, Repository
from habitab_adapters.workbench import Workbench
from habitab_engine import gate
from habitab_engine.checkpoint import Checkpoint
from habitab_engine.config import EngineSettings, Settings
from habitab_engine.copying import first_line
from habitab_engine.engine import Engine
from habitab_engine.symbols import faults
from habitab_engine.syntax import language_of
from habitab_engine.types import SOURCES, CompletionRequest

CURSORS = 4  # of a line: one more costs a tenth of the first
PATIENCE_MS = 60_000.0  # a slow machine changes nothing


@dataclass(frozen=True, slots=True)
class View:
    """What an engine may use besides the document itself."""

    sources: tuple[str, ...] = SOURCES
    memory: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """One line: how many cursors were asked, and at how many the rest of the line was suggested to the letter; the net
    characters that a typist saves by what is shown there; the bits of all of it from its first character on, and its
    length in bytes of UTF-8; at how many anything was suggested, and how often the file could then be parsed no worse
    than with the true line."""

    asked: int
    exact: int
    net: float
    bits: float
    bytes: int
    suggested: int
    parsed: int


def ask(engine: Engine, bench: Workbench, line: Line, view: View) -> Known:
    """What `engine` knows of one line. The bits come first: they fill the KV cache that the suggestion then finds."""
    first = line.cursors[0]
    bits, size = bits_of(engine, _request(bench, line, first, view), line.rest(first))
    cursors = line.spread(CURSORS)
    found = {cursor: _suggested(engine, _request(bench, line, cursor, view)) for cursor in cursors}
    written = [line.text[:cursor] + rest for cursor, (rest, _) in found.items() if rest]
    return Known(
        asked=len(cursors),
        exact=sum(rest == line.rest(cursor) for cursor, (rest, _) in found.items()),
        net=net_characters(line, {cursor: rest if is_shown else "" for cursor, (rest, is_shown) in found.items()}),
        bits=bits,
        bytes=size,
        suggested=len(written),
        parsed=len(_as_sound(line, written)),
    )


def _as_sound(line: Line, written: Sequence[str]) -> list[str]:
    """Those with which in the line's place the file can be parsed as far as with the line itself."""
    language, true = language_of(line.path), line.text.rstrip()
    odd = set(written) - {true}  # several cursors of a line often lead to the same text, and files are long
    found = {
        text: faults("\n".join([*line.above, text, *line.below]), language) for text in (odd | {true} if odd else odd)
    }
    return [text for text in written if text == true or found[text] <= found[true]]


def _request(bench: Workbench, line: Line, cursor: int, view: View) -> CompletionRequest:
    return CompletionRequest(
        document=bench.uri(line.path),
        path=line.path,
        prefix="\n".join([*line.above, line.text[:cursor]]),
        suffix="".join(f"\n{text}" for text in line.below),
        multiline=False,
        budget_ms=PATIENCE_MS,
        root=str(bench.root),
        file=str(bench.root / line.path),
        sources=view.sources,
        memory=view.memory,
    )


def _suggested(engine: Engine, request: CompletionRequest) -> tuple[str, bool]:
    """The first line of what is suggested, "" if nothing is, and whether the server would show it."""
    found = engine.complete(request, threading.Event()).suggestions
    if not found:
        return "", False
    is_shown = gate.worth_showing(found[0].text, found[0].probability, Settings().show_threshold)
    return first_line(found[0].text), is_shown and not gate.why_not(request)


def ask_all(
    engine: Engine,
    views: Mapping[str, View],
    plan: Plan,
    repository: Repository,
    ledger: Ledger[Known],
    advance: Callable[[], object] = bool,
) -> dict[str, list[Known]]:
    """By column what `engine` knows of all lines of `plan`; it is asked only where the ledger does not know that yet.

    `views` are those of the columns: some with the same sources share their prompts, and so the work for them.
    """
    looks_around = any(view.sources or view.memory for view in views.values())
    with tempfile.TemporaryDirectory(prefix="habitab-judge-") as folder:
        bench = Workbench(engine, Checkout(repository, Path(folder)), looks_around)
        for visit in plan.visits:
            content = content_of(repository, visit.commit.id, visit.path)
            bench.go_to(visit.commit)
            for line in visit.lines(content):
                bench.show(line.path, line.opened)
                for column in [name for name in views if (name, line.id) not in ledger]:
                    bench.settle()
                    ledger.add(column, line.id, ask(engine, bench, line, views[column]))
                advance()
            bench.show(visit.path, "\n".join(content))
    return {column: [ledger[column, line] for line in plan.lines] for column in views}


def known_of(
    weights: Callable[[], Checkpoint],
    views: Mapping[str, View],
    plans: Sequence[tuple[Repository, Plan]],
    ledger: Ledger[Known],
    tell: Callable[[float], object],
) -> dict[str, list[Known]]:
    """As `ask_all`, of several repositories, by an engine of `weights` that is made only where the ledger lacks
    something; `tell` is told the share that is done."""
    lines = [line for _, plan in plans for line in plan.lines]
    if not all((name, line) in ledger for name in views for line in lines):
        done = count(1)
        with closing(Engine(weights(), EngineSettings())) as engine:
            for repository, plan in plans:
                ask_all(engine, views, plan, repository, ledger, lambda: tell(next(done) / len(lines)))
    return {name: [ledger[name, line] for line in lines] for name in views}
