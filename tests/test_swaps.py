"""What is served follows the pointer, whatever becomes of it meanwhile; the engine is a stand-in."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from habitab_engine.adapters import POINTER, Worn
from habitab_engine.errors import AdapterError, EngineError, HabitabError
from habitab_engine.jobs import Job
from habitab_engine.swaps import FILLS, Swaps


class StandIn:
    """Prepares a version's name; "v9" does not verify, "v8" meets a fault, others wait while they are held up."""

    def __init__(self) -> None:
        self.worn = Worn()
        self.prepared: list[str] = []
        self.fills = 0
        self.enough = True
        self.free = threading.Event()
        self.free.set()

    def prepare(self, adapters: Path, version: str, pause: Callable[[], None]) -> str:
        self.prepared.append(version)
        if version == "v9":
            raise AdapterError("The adapter v9 is no good.")
        if version == "v8":
            raise MemoryError
        while not self.free.wait(0.002):
            pause()
        return version

    def fill(self, prepared: str, pause: Callable[[], None]) -> bool:
        self.fills += 1
        return self.enough

    def give_way(self) -> None:
        """Nobody is served here."""

    def exchange(self, job: Job) -> None:
        """As the worker has it, in the calling thread."""
        self.worn = replace(self.worn, version=job.prepared)
        job.client.reply(job.number, object())


def point(folder: Path, version: object) -> None:
    (folder / "draft").write_text(json.dumps({"version": version}))
    (folder / "draft").replace(folder / POINTER)


def fault(act: str, error: Exception) -> HabitabError:
    return EngineError(f"The engine failed while {act} ({type(error).__name__}).")


def swaps_of(engine: StandIn, folder: Path, submit: Callable[[Job], object] | None = None) -> Swaps:
    return Swaps(folder, engine, submit or engine.exchange, fault, logging.getLogger("habitab.test"))


def settled(swaps: Swaps) -> None:
    deadline = time.monotonic() + 5
    while swaps.busy:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def follow(swaps: Swaps, folder: Path, version: object) -> None:
    point(folder, version)
    swaps.look()
    settled(swaps)


def test_what_the_pointer_names_is_served(tmp_path: Path) -> None:
    engine = StandIn()
    swaps = swaps_of(engine, tmp_path)
    for version in ("v1", "v2", None, "v1"):
        follow(swaps, tmp_path, version)
        assert engine.worn == Worn(version or "", version or "") and swaps.trouble == ""


def test_an_unchanged_pointer_costs_a_look_only(tmp_path: Path) -> None:
    engine = StandIn()
    swaps = swaps_of(engine, tmp_path)
    swaps.look()
    assert not swaps.busy
    for _ in range(3):
        follow(swaps, tmp_path, "v1")
    assert engine.prepared == ["v1"]


def test_a_pointer_that_is_rewritten_meanwhile_ends_at_the_last(tmp_path: Path) -> None:
    engine = StandIn()
    swaps = swaps_of(engine, tmp_path)
    engine.free.clear()
    point(tmp_path, "v1")
    swaps.look()
    for version in ("v2", "v3"):
        point(tmp_path, version)
        swaps.look()
    engine.free.set()
    settled(swaps)
    assert engine.worn == Worn("v3", "v3") and engine.prepared[-1] == "v3" and "v2" not in engine.prepared


@pytest.mark.parametrize(("version", "words"), [("v9", "v9 is no good"), ("v8", "MemoryError"), ("../x", "no adapter")])
def test_what_cannot_be_prepared_leaves_what_served_and_is_tried_once(
    version: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = StandIn()
    swaps = swaps_of(engine, tmp_path)
    follow(swaps, tmp_path, "v1")
    for _ in range(3):
        follow(swaps, tmp_path, version)
    assert engine.worn.version == "v1" and words in swaps.trouble and swaps.trouble.endswith(".")
    assert engine.prepared.count(version) <= 1 and caplog.text.count(words) == 1
    follow(swaps, tmp_path, "v1")
    assert engine.worn == Worn("v1", "v1") and engine.prepared.count("v1") == 1


def test_when_told_it_tries_again(tmp_path: Path) -> None:
    engine = StandIn()
    swaps = swaps_of(engine, tmp_path)
    follow(swaps, tmp_path, "v9")
    swaps.look(again=True)
    settled(swaps)
    assert engine.prepared == ["v9", "v9"]


def test_trouble_at_the_start_is_told_and_not_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = StandIn()
    engine.worn = Worn("", "v9", "The adapter v9 is no good.")
    point(tmp_path, "v9")
    swaps = swaps_of(engine, tmp_path)
    swaps.look()
    assert not swaps.busy and not engine.prepared
    assert "v9 is no good" in swaps.trouble and "v9 is no good" in caplog.text


def test_a_person_who_never_rests_in_a_document_is_not_waited_for(tmp_path: Path) -> None:
    engine = StandIn()
    engine.enough = False
    follow(swaps_of(engine, tmp_path), tmp_path, "v1")
    assert engine.fills == FILLS and engine.worn.version == "v1"


@pytest.mark.parametrize("held", ["preparing", "waiting for its turn"])
def test_the_end_comes_at_once_and_nothing_is_exchanged_any_more(held: str, tmp_path: Path) -> None:
    engine, jobs = StandIn(), list[Job]()
    swaps = swaps_of(engine, tmp_path, jobs.append)
    if held == "preparing":
        engine.free.clear()
    point(tmp_path, "v1")
    swaps.look()
    deadline = time.monotonic() + 5
    while not (jobs or (held == "preparing" and engine.prepared)):
        assert time.monotonic() < deadline
    began = time.monotonic()
    swaps.close()
    assert not swaps.busy and time.monotonic() - began < 1
    swaps.look(again=True)
    assert not swaps.busy and engine.worn.version == ""
