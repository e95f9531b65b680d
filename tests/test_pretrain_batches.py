"""Every example is trained on as often as any other, in an order of the seed's, and padding never counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from habitab_adapters.pretrain.batches import (
    LONGEST,
    MULTIPLE,
    Batch,
    Examples,
    filled,
    load_examples,
    packed,
    schedule,
)
from habitab_engine.errors import InputError

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)


def examples(lengths: list[int], seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    tokens = random.integers(1, 1000, starts[-1]).astype(np.uint16)
    return Examples(tokens, random.integers(0, 17, starts[-1]).astype(np.uint8), starts)


def counted(batches: list[Batch]) -> list[tuple[int, int, int, float]]:
    """(the token before, its position, the token that counts, its weight) of all that count, in a fixed order."""
    found = []
    for batch in batches:
        at = batch.picked
        columns = batch.tokens[at], batch.positions[at], batch.targets, batch.weights
        found += list(zip(*(column.tolist() for column in columns), strict=True))
    return sorted(found)


def wanted(data: Examples) -> list[tuple[int, int, int, float]]:
    found = []
    for begin, end in zip(data.starts[:-1], data.starts[1:], strict=True):
        for i in range(begin, end - 1):
            if data.weights[i + 1]:
                found.append((data.tokens[i], i - begin, data.tokens[i + 1], data.weights[i + 1] / 16))
    return sorted(found)


@given(lengths=LENGTHS, most=st.integers(1, 100))
def test_packed_batches_hold_what_counts_and_no_padding(lengths: list[int], most: int) -> None:
    data = examples(lengths)
    batches = list(packed(data, range(len(lengths)), most))
    assert counted(batches) == wanted(data)
    for batch in batches:
        assert sum(rows * length for rows, length in batch.groups) == len(batch.tokens) == sum(batch.lengths)
        assert len(batch.tokens) <= most or len(batch.lengths) == 1


@given(lengths=LENGTHS, eighth=st.integers(LONGEST, 2 * LONGEST))
def test_filled_batches_hold_the_same_in_few_shapes(lengths: list[int], eighth: int) -> None:
    data = examples(lengths)
    batches = list(filled(data, range(len(lengths)), 8 * eighth))
    assert counted(batches) == wanted(data)
    for batch in batches:
        assert len(batch.tokens) in (eighth, 2 * eighth, 4 * eighth, 8 * eighth)
        assert (len(batch.ends) - 1) % MULTIPLE == 0 and batch.ends[-1] == len(batch.tokens)
        assert int(batch.ends.diff().max()) <= LONGEST and int(batch.positions.max()) < LONGEST


@given(lengths=LENGTHS, steps=st.integers(1, 9), passes=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_schedule_takes_every_example_equally_often(lengths: list[int], steps: int, passes: int, seed: int) -> None:
    total = sum(lengths) * passes
    plan = schedule(np.array(lengths), total, -(-total // steps), seed)
    taken = np.concatenate([plan.step(i) for i in range(len(plan))])
    assert np.bincount(taken, minlength=len(lengths)).tolist() == [passes] * len(lengths)
    again = schedule(np.array(lengths), total, -(-total // steps), seed)
    assert np.array_equal(again.order, plan.order) and np.array_equal(again.bounds, plan.bounds)


def test_what_follows_the_last_token_that_counts_is_not_computed() -> None:
    data = Examples(np.arange(1, 9, dtype=np.uint16), np.array([0, 0, 16, 0, 0, 0, 0, 0], np.uint8), np.array([0, 8]))
    (batch,) = packed(data, [0], 100)
    assert batch.tokens.tolist() == [1, 2] and batch.targets.tolist() == [3]


def write(path: Path, tokens: list[int], starts: list[int]) -> None:
    arrays = {"tokens": np.array(tokens, np.uint16), "weights": np.full(len(tokens), 16, np.uint8)}
    save_file(arrays | {"starts": np.array(starts, np.int64)}, path)


def test_shards_follow_one_another(tmp_path: Path) -> None:
    write(tmp_path / "examples-00000.safetensors", [1, 2, 3, 4, 5], [0, 2, 5])
    write(tmp_path / "examples-00001.safetensors", [6, 7], [0, 2])
    data = load_examples(tmp_path, 8)
    assert data.starts.tolist() == [0, 2, 5, 7] and data.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert data.lengths.tolist() == [2, 3, 2]


def test_examples_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make the examples first"):
        load_examples(tmp_path, 8)
    path = tmp_path / "examples-00000.safetensors"
    write(path, [1, 2, 9], [0, 3])
    with pytest.raises(InputError, match="vocabulary of 8"):
        load_examples(tmp_path, 8)
    write(path, [1, 2, 3], [0, 2])
    with pytest.raises(InputError, match="do not fit its tokens"):
        load_examples(tmp_path, 8)
    write(path, [1] * 1025, [0, 1025])
    with pytest.raises(InputError, match="more than 1,024 tokens"):
        load_examples(tmp_path, 8)
    path.write_bytes(b"no tensors at all")
    with pytest.raises(InputError, match="damaged"):
        load_examples(tmp_path, 8)


def test_batches_move_as_they_are() -> None:
    (batch,) = packed(examples([5, 5]), [0, 1], 100)
    moved = batch.to(torch.device("cpu"))
    assert moved.groups == batch.groups and moved.lengths == batch.lengths
    assert torch.equal(moved.tokens, batch.tokens) and torch.equal(moved.weights, batch.weights)
