"""What was done with suggestions is what stands in `signals.db`, and no secret that was typed meanwhile does.

The real server and engine as processes; the client types as editors do and tells nothing but what a test says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from habitab_engine.config import EngineSettings
from habitab_engine.home import Home
from habitab_engine.link import EngineLink, with_engine
from hands import eventually
from planted import Planted, planted
from real_server import TEXT, Server, Wire, wire_of
from recorded import rows

GHOST = " + b"


class Writer:
    """One document of a session, with the cursor at its end."""

    def __init__(self, wire: Wire, name: str, text: str = TEXT) -> None:
        self.wire, self.uri, self.text, self.version = wire, f"untitled:{name}", text, 1
        wire.open(text, self.uri)

    @property
    def cursor(self) -> tuple[int, int]:
        return self.text.count("\n"), len(self.text.rpartition("\n")[2])

    def ask(self, seconds: float = 0.4) -> dict[str, Any] | None:
        """The item for this cursor, after it was looked at for so long."""
        items = self.wire.items(*self.cursor, self.uri)
        time.sleep(seconds if items else 0)
        return items[0] if items else None

    def put(self, text: str) -> None:
        """In one change."""
        self.version += 1
        self.wire.type(self.version, *self.cursor, text, self.uri)
        self.text += text

    def type(self, keys: str) -> None:
        for key in keys:
            self.put(key)

    def save(self) -> None:
        self.wire.notify("textDocument/didSave", {"textDocument": {"uri": self.uri}})

    def close(self) -> None:
        self.wire.notify("textDocument/didClose", {"textDocument": {"uri": self.uri}})


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home.locate(tmp_path)
    yield found
    with_engine(found, EngineSettings(), EngineLink.shutdown)


def begin(server: Server, **options: Any) -> Wire:
    wire = wire_of(server)
    wire.initialize(**options)
    wire.notify("initialized", {})
    return wire


def end(server: Server) -> None:
    """As an editor ends a server."""
    wire_of(server).request("shutdown")
    wire_of(server).notify("exit", None)
    assert server.finish()[0] == 0


def accept(writer: Writer, item: dict[str, Any]) -> None:
    writer.put(GHOST)
    writer.wire.request("workspace/executeCommand", item["command"])


def take_piece(writer: Writer, item: dict[str, Any]) -> None:
    writer.put(GHOST[:3])
    writer.wire.notify("textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": 3})


def reject(writer: Writer, item: dict[str, Any]) -> None:
    writer.wire.notify("habitab/didDismissCompletion", {"item": item, "reason": "rejected"})
    writer.type(" - b")


# What the person does, and the row: outcome, accepted, inserted, instead.
ACTIONS: dict[str, tuple[Callable[[Writer, dict[str, Any]], None], tuple[Any, ...]]] = {
    "tab": (accept, ("accepted", 4, GHOST, "")),
    "tab, nothing told": (lambda writer, _: writer.put(GHOST), ("accepted", 4, GHOST, "")),
    "a piece": (take_piece, ("partly_accepted", 3, " + ", "")),
    "a piece, nothing told": (lambda writer, _: writer.put(" + "), ("partly_accepted", 3, " + ", "")),
    "a piece, then other keys": (lambda w, _: (w.put(" + "), w.type("a")), ("partly_accepted", 3, " + ", "a")),
    "the same keys": (lambda writer, _: writer.type(GHOST), ("typed_through", 0, "", GHOST)),
    "other keys": (lambda writer, _: writer.type(" - b\nx"), ("typed_over", 0, "", " - b")),
    "escape": (reject, ("rejected", 0, "", " - b")),
    "away": (lambda writer, _: writer.wire.items(0, 3, writer.uri), ("ignored", 0, "", "")),
    "nothing": (lambda writer, _: None, ("ignored", 0, "", "")),
}  # fmt: skip


def test_the_rows_say_precisely_what_was_done(home: Home) -> None:
    with Server(home.path) as server:
        wire = begin(server, budgetMs=60_000)
        for name, (action, _) in ACTIONS.items():
            writer = Writer(wire, name)
            item = writer.ask()
            assert item is not None and item["insertText"] == GHOST
            action(writer, item)
            writer.close()
        hurried = Writer(wire, "at once")
        hurried.ask(0)
        hurried.type("q")
        hurried.close()
        wire.notify("workspace/didChangeConfiguration", {"settings": {"habitab": {"showThreshold": 1.0}}})
        hidden = Writer(wire, "hidden")
        assert hidden.ask() is None
        hidden.type(" - b\n")
        hidden.save()
        hidden.close()
        end(server)
    expected = {name: row for name, (_, row) in ACTIONS.items()}
    expected |= {"at once": ("unseen", 0, "", "q"), "hidden": ("suppressed", 0, "", " - b")}
    found = eventually(lambda: known if len(known := by_path(home)) == len(expected) else None, lambda: by_path(home))
    answers = {
        name: tuple(row[key] for key in ("outcome", "accepted", "inserted", "instead")) for name, row in found.items()
    }
    assert answers == expected
    for row in found.values():
        assert (row["text"], row["prefix"], row["language"], row["withheld"]) == (GHOST, TEXT, "python", 0)
        assert row["base"] and 0 < row["probability"] < 1 and row["latency_ms"] > 0
    assert found["hidden"]["reason"] == "too unlikely"
    measured = {(row["at"], row["text"]) for row in rows(home.signals_file, "survivals")}
    assert measured == {("close", GHOST), ("close", " + ")}
    (counted,) = rows(home.signals_file, "typed")
    assert counted["characters"] == sum(map(len, (GHOST, " - b\nx", " - b", "a", "q", " - b\n")))


def by_path(home: Home) -> dict[str, dict[str, Any]]:
    if not home.signals_file.exists():
        return {}
    return {row["path"]: row for row in rows(home.signals_file)}


def test_pain_10_no_secret_that_is_typed_key_by_key_reaches_the_disk(home: Home) -> None:
    secrets = planted(200)
    with Server(home.path) as server:
        wire = begin(server, recordTyping=True, budgetMs=60_000, multiline="never")
        for number, one in enumerate(secrets):
            # Some with suggestions; each of them is of another kind.
            type_secret(wire, f"{number}.py", one, asks=number % 7 == 0)
        plain = Writer(wire, "plain.py", "# nothing to hide\n")
        plain.type("an_ordinary_name = 1\n")
        plain.close()
        status = wire.request("workspace/executeCommand", {"command": "habitab.status"})["result"]
        assert status["kind"] == "Normal"
        end(server)
    with_engine(home, EngineSettings(), EngineLink.shutdown)
    written = b"".join(path.read_bytes() for path in home.path.rglob("*") if path.is_file())
    leaked = [one.kind for one in secrets if any(part.encode() in written for part in one.parts)]
    assert leaked == []
    # The session was recorded all the same.
    assert b"an_ordinary_name" in written
    assert len(rows(home.signals_file)) > 15
    assert sum(row["withheld"] for row in rows(home.signals_file, "spans")) >= 190


def type_secret(wire: Wire, name: str, one: Planted, asks: bool) -> None:
    """A few lines with a secret; a suggestion is asked for in its middle and behind it, and saved at both."""
    writer = Writer(wire, name, "import os\n\n\ndef connect(host):\n")
    last = one.secret.split("\n")[-1]
    middle = one.text.index(last) + 3 * len(last) // 4
    for piece in (one.text[:middle], one.text[middle:] + "\n    return "):
        writer.type(piece)
        if asks:
            writer.ask(0)
        writer.save()
    writer.type("1\n")
    writer.close()
