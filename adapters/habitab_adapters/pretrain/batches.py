"""Examples from disk, their order, and the batches of one optimiser step; the order depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from habitab_engine.errors import InputError

PATTERN = "examples-*.safetensors"
SIXTEENTHS = 16
# The most tokens of an example, and what numbers of sequences are rounded up to where shapes must be few.
LONGEST, MULTIPLE = 1024, 128


@dataclass(frozen=True, slots=True)
class Examples:
    """All examples: example e is `tokens[starts[e]:starts[e + 1]]`, with the weight of predicting each token."""

    tokens: np.ndarray  # integers [N]
    weights: np.ndarray  # uint8 [N], sixteenths
    starts: np.ndarray  # int64 [E + 1]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [E]."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Batch:
    """N tokens of several sequences, and the P positions after which the next token counts.

    Sequence i is the tokens from `ends[i]` to `ends[i + 1]`; `groups` says the same as (rows, length) of neighbours of
    one length. `lengths` are those of the sequences that are no filling.
    """

    tokens: Tensor  # int64 [N]
    positions: Tensor  # int64 [N]
    ends: Tensor  # int32 [S + 1]
    picked: Tensor  # int64 [P]
    targets: Tensor  # int64 [P]
    weights: Tensor  # float32 [P]
    groups: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The same on `device`, without waiting for the copy."""
        tensors = [self.tokens, self.positions, self.ends, self.picked, self.targets, self.weights]
        if device.type == "cuda":  # only pinned memory is copied in the background
            tensors = [t.pin_memory() for t in tensors]
        tokens, positions, ends, picked, targets, weights = (t.to(device, non_blocking=True) for t in tensors)
        return Batch(tokens, positions, ends, picked, targets, weights, self.groups, self.lengths)


def load_examples(folder: Path, vocab: int) -> Examples:
    """Every shard of `folder`, in the order of their names.

    Raises InputError where there is none, one cannot be read, or the tokens belong to a larger vocabulary.
    """
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise InputError(f"There is no {PATTERN} in {folder}; make the examples first.")
    shards = [_load_shard(path) for path in paths]
    sizes = np.cumsum([0, *(len(tokens) for tokens, _, _ in shards)])
    ends = [starts[1:] + offset for (_, _, starts), offset in zip(shards, sizes[:-1], strict=True)]
    examples = Examples(
        np.concatenate([tokens for tokens, _, _ in shards]),
        np.concatenate([weights for _, weights, _ in shards]),
        np.concatenate([np.zeros(1, np.int64), *ends]),
    )
    if int(examples.lengths.max()) > LONGEST:
        raise InputError(f"An example in {folder} has more than {LONGEST:,} tokens; make them again.")
    if int(examples.tokens.max()) >= vocab:
        raise InputError(f"The examples in {folder} do not fit a vocabulary of {vocab:,}; make them again.")
    return examples


def _load_shard(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        shard = load_file(path)
        tokens, weights, starts = shard["tokens"], shard["weights"], shard["starts"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged or holds no examples; make the examples again.") from error
    if (
        len(tokens) != len(weights)
        or len(starts) < 2
        or starts[0] != 0
        or starts[-1] != len(tokens)
        or (np.diff(starts) < 2).any()
    ):
        raise InputError(f"{path} is damaged: its examples do not fit its tokens; make the examples again.")
    return tokens, weights, starts


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which examples each step takes: step s has `order[bounds[s]:bounds[s + 1]]`."""

    order: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def step(self, index: int) -> np.ndarray:
        """The examples of one step."""
        return self.order[self.bounds[index] : self.bounds[index + 1]]


def schedule(lengths: np.ndarray, tokens: int, step_tokens: int, seed: int) -> Schedule:
    """Passes over all examples in a new order each, until `tokens` are reached, cut into steps of `step_tokens`."""
    random = np.random.default_rng(seed)
    passes = -(-tokens // int(lengths.sum()))
    order = np.concatenate([random.permutation(len(lengths)) for _ in range(passes)])
    done = np.cumsum(lengths[order])
    steps = max(1, round(tokens / step_tokens))
    bounds = np.searchsorted(done, np.arange(steps + 1) * (tokens / steps))
    bounds[-1] = min(bounds[-1] + 1, len(order))
    return Schedule(order, np.unique(bounds))


def packed(examples: Examples, chosen: Sequence[int] | np.ndarray, most: int) -> Iterator[Batch]:
    """Batches of at most `most` tokens without any padding: for code that does not mind shapes."""
    ordered = sorted((_sequence(examples, int(e)) for e in chosen), key=lambda s: len(s[0]))
    for part in _cut(ordered, most):
        yield _batch(part, [len(tokens) - 1 for tokens, _ in part])


def filled(examples: Examples, chosen: Sequence[int] | np.ndarray, most: int) -> Iterator[Batch]:
    """Batches of exactly `most` tokens, the last of a half, a quarter or an eighth where that will do: for code that
    is compiled for each shape.

    What is missing is filled up with sequences of token 0 that no loss counts, and `ends` with empty sequences.
    """
    for part in _cut([_sequence(examples, int(e)) for e in chosen], most):
        real = [len(tokens) - 1 for tokens, _ in part]
        size = next(size for size in (most // 8, most // 4, most // 2, most) if size >= sum(real))
        pads, rest = divmod(size - sum(real), LONGEST)
        lengths = [*real, *[LONGEST] * pads, rest]
        yield _batch(part, [*lengths, *[0] * (-len(lengths) % MULTIPLE)])


_Sequence = tuple[np.ndarray, np.ndarray]


def _sequence(examples: Examples, index: int) -> _Sequence:
    """Tokens and weights of one example, without what follows the last token that counts."""
    part = slice(examples.starts[index], examples.starts[index + 1])
    tokens, weights = examples.tokens[part].astype(np.int64), examples.weights[part]
    counted = np.flatnonzero(weights[1:])
    end = 2 + (int(counted[-1]) if len(counted) else 0)
    return tokens[:end], weights[:end]


def _cut(ordered: Sequence[_Sequence], most: int) -> Iterator[list[_Sequence]]:
    part: list[_Sequence] = []
    size = 0
    for sequence in ordered:
        if part and size + len(sequence[0]) - 1 > most:
            yield part
            part, size = [], 0
        part.append(sequence)
        size += len(sequence[0]) - 1
    if part:
        yield part


def _batch(part: Sequence[_Sequence], lengths: Sequence[int]) -> Batch:
    """The sequences one behind the other in their `lengths` places, and more lengths for empty ones."""
    ends = np.cumsum([0, *lengths], dtype=np.int32)
    tokens, targets = np.zeros(ends[-1], np.int64), np.zeros(ends[-1], np.int64)
    weights = np.zeros(ends[-1], np.float32)
    for (read, weight), begin, end in zip(part, ends, ends[1:], strict=False):
        tokens[begin:end], targets[begin:end], weights[begin:end] = read[:-1], read[1:], weight[1:] / SIXTEENTHS
    positions = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    picked = np.flatnonzero(weights)
    groups = tuple((len(list(same)), length) for length, same in groupby(lengths))
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(ends),
        torch.from_numpy(picked),
        torch.from_numpy(targets[picked]),
        torch.from_numpy(weights[picked]),
        groups,
        tuple(len(read) - 1 for read, _ in part),
    )
