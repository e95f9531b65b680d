"""Measurements: each prints a table for a person and returns the object that the command prints as JSON."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from habitab_engine.home import Home


def run_latency(home: Home, base: Path | None, path: Path | None = None, keystrokes: int = 400) -> dict[str, Any]:
    """Type real code key by key into the real server and time its replies (`bench_latency.py`).

    Raises InputError where there is no code to type.
    """
    from habitab_server import bench_latency

    folder = path or bench_latency.unseen_packages(home.path / "bench" / "packages")
    result = asyncio.run(bench_latency.measure(folder, base, keystrokes))
    print_table("Latency through the language server", ["figure", "value"], _plain_rows(result))
    return result


def run_engine(home: Home, base: Path | None, rounds: int = 5) -> dict[str, Any]:
    """Our engine, llama.cpp with the same weights, and our plain path, in turn (`bench_engine.py`).

    Raises MissingExtraError without the extra `bench`.
    """
    from habitab_server import bench_engine

    result = bench_engine.measure(base, rounds)
    columns = ["", "prefill tok/s", "decode tok/s", "completion ms"]
    rows = [[name, *(f"{value:.1f}" for value in result[name].values())] for name in bench_engine.CONTESTANTS]
    for name in ("ratio", "ratio_plain"):
        spread = result["spread"][name]
        rows.append([name, *(f"{v:.2f} ({spread[k][0]:.2f}–{spread[k][1]:.2f})" for k, v in result[name].items())])
    print_table("Engine (ratios above 1: habitab is faster)", columns, rows)
    print_table("Beside it", ["figure", "value"], _plain_rows(result, bench_engine.BESIDE))
    return result


def run_replay(
    home: Home,
    base: Path | None,
    repo: Path,
    split: float,
    events: int | None,
    author: str | None,
    adapter: str | None = None,
) -> dict[str, Any]:
    """Type the newer lines of a git history again: how much of them would have been completed (`bench_replay.py`).

    Raises InputError for what is no repository, and where nothing is left to type; AdapterError for an adapter that
    cannot be used.
    """
    from habitab_server import bench_replay

    result = bench_replay.measure(home, base, repo, split, events, author, adapter)
    print(bench_replay.sentence(result))
    print_table(bench_replay.title(result), ["figure", *result["columns"]], bench_replay.rows(result))
    return result


def run_forgetting(home: Home, base: Path | None, version: str | None = None) -> dict[str, Any]:
    """What the active adapter, or another `version`, costs on strangers' code (`bench_forgetting.py`).

    Raises AdapterError where no adapter is active, or it cannot be used.
    """
    from habitab_server import bench_forgetting

    result = bench_forgetting.measure(home, base, version)
    columns = ["figure", "base", "change by the adapter"]
    print_table(bench_forgetting.title(result), columns, bench_forgetting.rows(result))
    return result


def run_training(base: Path | None, tokens: int) -> dict[str, Any]:
    """The training of an adapter and that of peft with transformers, in turn (`bench_training.py`).

    Raises MissingExtraError without them.
    """
    from habitab_server import bench_training

    result = bench_training.measure(base, tokens)
    print_table("Training (a ratio above 1: habitab is faster)", ["figure", "value"], _plain_rows(result))
    return result


def run_history(home: Home, package: str) -> dict[str, Any]:
    """A git repository of a package's releases, one commit each (`bench_history.py`).

    Raises InputError where the package index has none.
    """
    from habitab_server import bench_history

    result, rows = bench_history.make(home.path / "bench" / "histories", package)
    print_table(f"{package} in {result['repo']}", ["release", "uploaded", "files"], rows)
    return result


def run_personal(
    base: Path | None, paths: Sequence[Path], positions: int, seconds: float, folder: Path
) -> dict[str, Any]:
    """Whether adapters know what base, context and memory do not; prints a row for each developer."""
    with _learning() as tell:
        from habitab_server import bench_personal

        result: dict[str, Any] = bench_personal.measure(base, paths, positions, seconds, folder, tell)
    print_table("Personal adapters on later lines", bench_personal.HEAD, bench_personal.table(result))
    return result


def run_recipe(
    base: Path | None, path: Path, tries: Sequence[str], positions: int, seconds: float, folder: Path
) -> dict[str, Any]:
    """Which recipe makes the better adapter of one history (`bench_recipe.py`).

    Raises InputError for an unfit history or recipe.
    """
    with _learning() as tell:
        from habitab_server import bench_recipe

        result = bench_recipe.measure(base, path, tries, positions, seconds, folder, tell)
    print_table(bench_recipe.title(result), bench_recipe.HEAD, bench_recipe.table(result))
    return result


@contextmanager
def _learning() -> Iterator[Callable[[str, float], None]]:
    """Bars, and the threads that the engine has: said before torch is imported."""
    from habitab_engine.config import EngineSettings, thread_count
    from habitab_engine.worker import prepare_environment
    from habitab_server.bars import bars

    prepare_environment(EngineSettings(threads=thread_count(EngineSettings())), learning=True)
    with bars() as tell:
        yield tell


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)


def _plain_rows(result: dict[str, Any], names: Sequence[str] | None = None) -> list[list[str]]:
    return [[name, str(result[name])] for name in names or result]
