"""Progress of long work on standard error: one bar for each phase, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextmanager
def bars() -> Iterator[Callable[[str, float], None]]:
    """What it gives is told a phase and the share of it that is done."""
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    shown = Progress(*columns, console=Console(stderr=True))

    def tell(phase: str, done: float) -> None:
        if phase not in tasks:
            shown.start()  # not before there is something to show: a refusal is one sentence alone
            tasks[phase] = shown.add_task(phase, total=1.0)
        shown.update(tasks[phase], completed=done)

    try:
        yield tell
    finally:
        if tasks:
            shown.stop()
