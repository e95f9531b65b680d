"""What each question of a quality test came to, and where that is kept while a long run goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from habitab_engine.errors import InputError
from habitab_engine.home import open_private


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question came to: the true text's bits and bytes (fewer than all where the cache has no room), and the
    suggestion beside it. `ends` says whether the end token is the likeliest behind the true text."""

    bits: float
    bytes: int
    exact: bool
    similarity: float
    ends: bool


Answers = dict[str, Answer]  # by task


class Ledger:
    """Finished places of one model on disk, one JSON object a line, without any code.

    Runs side by side may share it: each adds whole lines and sees those that were there when it began.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file cannot be written, or is none of ours."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
            self._done = dict(_read(row) for row in whole[0].splitlines())
            self._file = open_private(path, "ab")
            if whole[2]:  # what was being written when a run was killed
                self._file.truncate(len(whole[0]) + len(whole[1]))
        except OSError as error:
            raise self._unwritten(error) from error
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged: remove it and try again.") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __contains__(self, place: str) -> bool:
        return place in self._done

    def __getitem__(self, place: str) -> Answers:
        return self._done[place]

    def add(self, place: str, answers: Answers) -> None:
        """Raises InputError where the disk is full."""
        self._done[place] = answers
        row = {"place": place, "answers": {task: asdict(answer) for task, answer in answers.items()}}
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> InputError:
        return InputError(
            f"{self._path} cannot be written ({error.strerror}): make room there and try again; "
            "the run goes on where it stopped."
        )


def _read(row: bytes) -> tuple[str, Answers]:
    fields = json.loads(row)
    return fields["place"], {task: Answer(**answer) for task, answer in fields["answers"].items()}
