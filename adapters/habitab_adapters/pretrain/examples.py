"""From a corpus to shards of training examples, package by package, and back: the trainer's way to them."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, groupby
from pathlib import Path
from random import Random

import numpy as np

import habitab_base
from habitab_adapters.pretrain.cursors import KINDS
from habitab_adapters.pretrain.fim import Document, Example, Maker, Recipe
from habitab_adapters.pretrain.related import Package
from habitab_adapters.pretrain.shards import Examples, Made, Shards, read
from habitab_engine.errors import InputError
from habitab_engine.home import sha256_of
from habitab_engine.tokenizer import Tokenizer

__all__ = ["DOCUMENTS", "VALIDATION", "Examples", "Recipe", "describe", "make", "read"]

VALIDATION = "validation"
DOCUMENTS = "documents.jsonl.gz"
# One package in so many is never trained on.
_VALIDATION_SHARE = 100
# Characters of a unit; a larger package is taken apart.
_UNIT_CHARACTERS = 1_500_000
_AHEAD = 3  # units for each process that are read before they are needed


@dataclass(frozen=True, slots=True)
class Unit:
    """Documents of one package that are worked on together.

    `number` counts the units of the corpus from 0, `last` its documents up to the end of this unit.
    """

    number: int
    last: int
    documents: tuple[Document, ...]

    @property
    def package(self) -> str:
        return self.documents[0].package

    @property
    def is_validation(self) -> bool:
        return zlib.crc32(self.package.encode()) % _VALIDATION_SHARE == 0


def make(
    corpus: Path,
    folder: Path,
    recipe: Recipe,
    progress: Callable[[int], None],
    *,
    seed: int = 0,
    processes: int = 1,
) -> Counter[str]:
    """Write the examples of `corpus` into shards in `folder`, and those never trained on into its folder `validation`.

    Returns what there is to train on: examples by kind, tokens, and how many of them are ends. The bytes are the same
    whatever `processes` is. Run again after an interruption, it goes on behind the last whole shard. `progress` is
    told how many documents are done. Raises InputError for a corpus that cannot be read, for a folder that holds
    other examples, and for a full disk.
    """
    about = {
        "vocab": str(len(_tokenizer())),
        "seed": str(seed),
        "recipe": repr(recipe),
        "corpus": _digest(corpus / DOCUMENTS),
    }
    shards = {False: Shards(folder, about), True: Shards(folder / VALIDATION, about)}
    found = units(read_documents(corpus / DOCUMENTS))
    wanted = (unit for unit in found if unit.number >= shards[unit.is_validation].done)
    for unit, made in _in_order(partial(made_of, recipe, seed), wanted, processes):
        shards[unit.is_validation].add(made)
        progress(unit.last)
    for part in shards.values():
        part.close()
    return shards[False].counts


def _in_order(work: Callable[[Unit], Made], wanted: Iterable[Unit], processes: int) -> Iterator[tuple[Unit, Made]]:
    """Each unit with what `work` makes of it, in the order of the units, a few read ahead."""
    if processes == 1:
        yield from ((unit, work(unit)) for unit in wanted)
        return
    waiting: deque[tuple[Unit, Future[Made]]] = deque()
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            for unit in wanted:
                waiting.append((unit, pool.submit(work, unit)))
                if len(waiting) > _AHEAD * processes:
                    unit, future = waiting.popleft()
                    yield unit, future.result()
            yield from ((unit, future.result()) for unit, future in waiting)
    except BrokenProcessPool as error:
        raise InputError("A process was killed, perhaps for want of memory; run again with fewer of them.") from error


def made_of(recipe: Recipe, seed: int, unit: Unit) -> Made:
    """The examples of one unit; each document has its own random numbers."""
    tokenizer = _tokenizer()
    maker, package = Maker(recipe, tokenizer), Package({d.path: d.text for d in unit.documents})
    made = [
        example
        for document in unit.documents
        for example in maker.examples(document, package, Random(f"{seed} {unit.number} {document.path}"))
    ]
    tokens = np.fromiter(chain.from_iterable(example.tokens for example in made), _dtype(tokenizer))
    weights = np.fromiter(chain.from_iterable(example.weights for example in made), np.uint8)
    lengths = np.array([len(example.tokens) for example in made], np.int64)
    counts = _counts(made, tokenizer) + Counter(documents=len(unit.documents))
    return Made(unit.number, tokens, weights, lengths, counts)


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer(Path(habitab_base.__file__).parent)


def _dtype(tokenizer: Tokenizer) -> type[np.integer]:
    return np.uint16 if len(tokenizer) <= 2**16 else np.int32


def _counts(made: list[Example], tokenizer: Tokenizer) -> Counter[str]:
    """Examples by kind and those with snippets; tokens, those with a loss and the ends among them; and their weights
    in sixteenths."""
    end, snippet = tokenizer.special_ids["<|endoftext|>"], tokenizer.special_ids["<file_sep>"]
    counts = Counter(example.kind for example in made)
    counts["with snippets"] = sum(example.tokens[0] == snippet for example in made)
    ends = [example.weights[-1] for example in made if example.tokens[-1] == end]
    counts["tokens"] = sum(len(example.tokens) for example in made)
    counts["loss tokens"] = sum(weight > 0 for example in made for weight in example.weights)
    counts["loss weight"] = sum(sum(example.weights) for example in made)
    counts["end tokens"], counts["end weight"] = len(ends), sum(ends)
    return counts


def describe(counts: Counter[str]) -> str:
    """What was made, in a line for people; `counts` as `make` returns them."""
    kinds = ", ".join(f"{kind} {counts[kind]:,}" for kind in ("plain", *KINDS))
    return (
        f"{counts['tokens']:,} tokens ({kinds}; with snippets {counts['with snippets']:,}); "
        f"one in {counts['loss tokens'] / max(counts['end tokens'], 1):.0f} tokens with a loss is an end, "
        f"and one part in {counts['loss weight'] / max(counts['end weight'], 1):.0f} of the loss weighs on ends"
    )


# ---- the corpus ----


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a corpus in order. Raises InputError for a file that is damaged or holds something else."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield _document(path, number, line)
    except FileNotFoundError as error:
        raise InputError(f"There is no {path}; make the corpus first.") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path} is damaged; make the corpus again.") from error


def _document(path: Path, number: int, line: str) -> Document:
    try:
        fields = json.loads(line)
        package, name, language, text = (fields[name] for name in ("package", "path", "language", "text"))
        f"{package}{name}{language}{text}".encode()
        return Document(package, name, language, text.replace("\r\n", "\n").replace("\r", "\n"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"Line {number} of {path} is not a document; make the corpus again.") from error


def units(documents: Iterable[Document]) -> Iterator[Unit]:
    """The documents package by package, a large package in several units."""
    number = last = 0
    for _, group in groupby(documents, key=lambda document: document.package):
        for part in _parts(group):
            last += len(part)
            yield Unit(number, last, part)
            number += 1


def _parts(documents: Iterable[Document]) -> Iterator[tuple[Document, ...]]:
    part: list[Document] = []
    size = 0
    for document in documents:
        part.append(document)
        size += len(document.text)
        if size >= _UNIT_CHARACTERS:
            yield tuple(part)
            part, size = [], 0
    if part:
        yield tuple(part)


def _digest(path: Path) -> str:
    """The SHA-256 of a file. Raises InputError where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"There is no corpus at {path} ({error.strerror}); make it first.") from error
