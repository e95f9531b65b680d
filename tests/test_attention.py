"""One token's attention, and where a KV cache keeps keys and values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from habitab_engine.attention import BLOCK, Addresses, attend, new_cache, read, write

HEADS, KV_HEADS, SIZE = 6, 2, 16


def filled(positions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A cache of one layer and the keys and values `[T, G, D]` that are in it."""
    keys, values = torch.randn(2, positions, KV_HEADS, SIZE, generator=torch.Generator().manual_seed(positions))
    cache = new_cache(1, KV_HEADS, SIZE, 3 * BLOCK)
    write(cache[0], 0, keys, values)
    return cache, keys, values


@pytest.mark.parametrize("positions", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_what_was_written_is_read(positions: int) -> None:
    cache, keys, values = filled(positions)
    for got, put in zip(read(cache[0], positions, SIZE), (keys, values), strict=True):
        assert torch.equal(got, put.transpose(0, 1))


def test_writing_in_pieces_equals_writing_at_once() -> None:
    at_once, keys, values = filled(2 * BLOCK)
    pieces = new_cache(1, KV_HEADS, SIZE, 3 * BLOCK)
    for begin in range(0, 2 * BLOCK, 50):
        write(pieces[0], begin, keys[begin : begin + 50], values[begin : begin + 50])
    assert torch.equal(pieces, at_once)


@pytest.mark.parametrize("positions", [1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_one_token_attends_as_torch_says(positions: int) -> None:
    cache, keys, values = filled(positions)
    cache += cache.eq(0) * 7.0  # what stands behind the last position must not matter
    query = torch.randn(HEADS, SIZE, generator=torch.Generator().manual_seed(0))
    view = Addresses(HEADS, KV_HEADS, SIZE, 3 * BLOCK).of(cache, positions - 1, torch.empty(0))
    assert torch.equal(view.keys[0], keys[-1]) and torch.equal(view.values[0], values[-1])
    right = functional.scaled_dot_product_attention(
        query[:, None], keys.transpose(0, 1), values.transpose(0, 1), enable_gqa=True
    )
    torch.testing.assert_close(attend(query, cache[0], view), right[:, 0])
