"""Shards of training examples: written whole or not at all, gone on with where they ended, read without copying."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from habitab_engine.errors import InputError

# A shard is closed with the first unit of examples that makes it as large.
SHARD_BYTES = 16 * 2**20
_NUMPY = {"U8": np.uint8, "U16": np.uint16, "I32": np.int32, "I64": np.int64}


@dataclass(frozen=True, slots=True)
class Made:
    """The examples of a unit of the corpus, one after the other; `number` is the unit's.

    `tokens` `[N]` (uint16 or int32), `weights` `[N]` in sixteenths, `lengths` `[E]`, and what was made in numbers.
    """

    number: int
    tokens: NDArray[Any]
    weights: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    counts: Counter[str]


class Shards:
    """The shards of a folder, to be added to; `done` is the first unit that they do not hold.

    `about` says what they are made of. Raises InputError where the folder has shards that say otherwise.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self._folder, self._about = folder, dict(about)
        self._waiting: list[Made] = []
        self._bytes = self._shards = self.done = 0
        self.counts: Counter[str] = Counter()
        for path in _paths(folder):
            said = _header(path)[0]
            if {name: said.get(name) for name in about} != self._about:
                raise InputError(f"{path} was made of something else; choose another folder, or delete this one.")
            self._shards, self.done = self._shards + 1, int(said["done"])
            self.counts.update(json.loads(said["counts"]))

    def add(self, made: Made) -> None:
        """Keep the examples for the next shard. Raises InputError where there is no room to write it."""
        self._waiting.append(made)
        self._bytes += made.tokens.nbytes + made.weights.nbytes
        if self._bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is kept, if anything is."""
        if not self._waiting:
            return
        counts = sum((made.counts for made in self._waiting), Counter())
        starts = np.cumsum([0, *np.concatenate([made.lengths for made in self._waiting])], dtype=np.int64)
        tensors = {
            "tokens": np.concatenate([made.tokens for made in self._waiting]),
            "weights": np.concatenate([made.weights for made in self._waiting]),
            "starts": starts,
        }
        self.done = self._waiting[-1].number + 1
        said = self._about | {"counts": json.dumps(counts, sort_keys=True), "done": str(self.done)}
        self._write(self._folder / f"examples-{self._shards:05d}.safetensors", _serialised(tensors, said))
        self._waiting, self._bytes, self._shards = [], 0, self._shards + 1
        self.counts.update(counts)

    def _write(self, path: Path, data: bytes) -> None:
        new = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            new.write_bytes(data)
            os.replace(new, path)  # noqa: PTH105 (atomic, and the same in every way)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise InputError(
                f"{path} cannot be written ({error.strerror}); make room for {len(data) // 2**20 + 1} MB "
                "and run again: it goes on behind the last whole shard."
            ) from error


def _serialised(tensors: dict[str, NDArray[Any]], said: dict[str, str]) -> bytes:
    """The safetensors file, with its header sorted: the library writes the metadata in any order."""
    data = save(tensors, said)
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    return data[:8] + header.ljust(size) + data[8 + size :]


class Examples:
    """All examples of a folder, mapped from disk: `examples[i]` is tokens and weights `[length]`, both read-only."""

    def __init__(self, shards: list[dict[str, NDArray[Any]]], counts: Counter[str]) -> None:
        self._shards, self.counts = shards, counts
        self._first = np.cumsum([0, *(len(shard["starts"]) - 1 for shard in shards)])
        self.lengths: NDArray[np.int64] = np.concatenate([np.diff(shard["starts"]) for shard in shards])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Raises IndexError outside 0 to `len`."""
        if not 0 <= i < len(self):
            raise IndexError(f"There are {len(self)} examples; {i} is not one of them.")
        at = int(np.searchsorted(self._first, i, "right")) - 1
        shard = self._shards[at]
        begin, end = shard["starts"][i - self._first[at] :][:2]
        return shard["tokens"][begin:end], shard["weights"][begin:end]


def read(folder: Path) -> Examples:
    """The examples of a folder. Raises InputError where it has none, or where a shard is damaged."""
    paths = _paths(folder)
    if not paths:
        raise InputError(f"{folder} holds no examples; make them first.")
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(json.loads(_header(path)[0]["counts"]))
    return Examples([_mapped(path) for path in paths], counts)


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("examples-*.safetensors"))


def _header(path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """The metadata, the tensors' descriptions, and where their bytes begin. Raises InputError."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(min(size, 2**20)))
        end = 8 + size + max(t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__")
        if path.stat().st_size != end:
            raise ValueError("cut off")
        return tensors.pop("__metadata__"), tensors, 8 + size
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; delete it and the shards behind it, and make them again.") from error


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a shard; only what is looked at is read from disk."""
    _, tensors, begin = _header(path)
    return {
        name: np.memmap(path, _NUMPY[t["dtype"]], "r", begin + t["data_offsets"][0], tuple(t["shape"]))
        for name, t in tensors.items()
    }
