"""What an adapter costs on strangers' code, as the engine would serve it: `strangers.py` says on which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from habitab_adapters.registry import Registry
from habitab_engine.config import EngineSettings
from habitab_engine.errors import AdapterError
from habitab_engine.worker import prepare_environment

if TYPE_CHECKING:
    from habitab_engine.home import Home

# What a person reads, by the keys of the JSON; the base's figure where it has one.
_FIGURES = {
    "bits per token": ("bits_per_token", "bits_per_token_delta"),
    "lines right at a random cursor": ("exact_match", "exact_match_delta"),
    "KL divergence of the next token, nats": (None, "kl_nats"),
}


def measure(home: Home, base: Path | None, version: str | None) -> dict[str, Any]:
    """The JSON of `bench forgetting`, of the active adapter unless another `version` is named.

    Raises AdapterError where no adapter is active, or that one cannot be used.
    """
    registry = Registry(home, base)
    name = version or registry.active
    if not name:
        raise AdapterError("No adapter is active: name a version with --adapter (`habitab adapters list` shows them).")
    # With more threads each waits for the slowest where anything else runs: here that took twice as long.
    settings = EngineSettings(threads=1)
    prepare_environment(settings)  # as the engine process does, before torch is imported
    from habitab_adapters.strangers import compare
    from habitab_engine.checkpoint import load_checkpoint
    from habitab_engine.merging import merged

    checkpoint = load_checkpoint(base)
    new = merged(checkpoint, registry.load(name))
    with _progress() as tell:
        found = compare(checkpoint, new, tell, settings=settings)
    return {key: round(value, 5) for key, value in asdict(found).items()} | {"version": name}


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar on standard error with the time left; what it gives is told the share that is done."""
    columns = TextColumn("Reading"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=1.0)
    with bar:
        yield lambda done: bar.update(task, completed=done)


def title(result: dict[str, Any]) -> str:
    return f"{result['version']} on {result['tokens']:,} tokens of strangers' code, {result['cursors']} cursors in it"


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The table: each figure of the base, and by how much the adapter changes it."""
    return [
        [name, f"{result[base]:.4f}" if base else "", f"{result[delta]:+.4f}"]
        for name, (base, delta) in _FIGURES.items()
    ]
