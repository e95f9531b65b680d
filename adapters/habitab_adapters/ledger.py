"""Finished lines on disk, one JSON object a line, without any of their text; a killed run goes on behind them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from habitab_engine.errors import InputError
from habitab_engine.home import open_private

T = TypeVar("T")


class Ledger(Generic[T]):
    """By column and line what each came to, as dataclasses of one `kind`."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        """Raises InputError where `path` has lines of another kind."""
        whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        try:
            self._done = dict(_read(row, kind) for row in whole[0].splitlines())
        except (ValueError, TypeError, KeyError) as exc:
            why = "is damaged or of another version of habitab"
            raise InputError(f"{path} {why}: delete it, and all is done anew.") from exc
        self._file = open_private(path, "ab")
        self._file.truncate(len(whole[0]) + len(whole[1]))  # what was being written when a run was killed

    def __enter__(self) -> Ledger[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._done

    def __getitem__(self, key: tuple[str, str]) -> T:
        """What a line came to in a column, by the key of the column and the line's id."""
        return self._done[key]

    def add(self, column: str, line: str, found: T) -> None:
        """Keep it, on disk too."""
        self._done[column, line] = found
        row: dict[str, Any] = asdict(found)  # type: ignore[call-overload]
        self._file.write(json.dumps({"column": column, "line": line} | row).encode() + b"\n")
        self._file.flush()


def _read(row: bytes, kind: type[T]) -> tuple[tuple[str, str], T]:
    fields = json.loads(row)
    return (fields.pop("column"), fields.pop("line")), kind(**fields)
