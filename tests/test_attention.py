"""One token's attention, and where a KV cache keeps keys and values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from habitab_engine.attention import BLOCK, Addresses, attend, causal, new_cache, places, read, spans, write

HEADS, KV_HEADS, SIZE = 6, 2, 16


def filled(positions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A cache of one layer and the keys and values `[T, G, D]` that are in it."""
    keys, values = torch.randn(2, positions, KV_HEADS, SIZE, generator=torch.Generator().manual_seed(positions))
    cache = new_cache(1, KV_HEADS, SIZE, 3 * BLOCK)
    write(cache[0], spans(0, len(keys)), keys, values)
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
        write(
            pieces[0], spans(begin, len(keys[begin : begin + 50])), keys[begin : begin + 50], values[begin : begin + 50]
        )
    assert torch.equal(pieces, at_once)


def test_a_tokens_places_are_where_it_is_written() -> None:
    cache, keys, values = filled(BLOCK + 1)
    for place, put in zip(places(cache, BLOCK, SIZE), (keys, values), strict=True):
        assert torch.equal(place[0], put[-1])


@pytest.mark.parametrize("m", [1, 2, 8])
@pytest.mark.parametrize("positions", [8, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_few_tokens_attend_as_torch_says(positions: int, m: int) -> None:
    cache, keys, values = filled(positions)
    cache += cache.eq(0) * 7.0  # what stands behind the last position must not matter
    query = torch.randn(m, HEADS, SIZE, generator=torch.Generator().manual_seed(0))
    view = Addresses(HEADS, KV_HEADS, SIZE, 3 * BLOCK).of(cache, positions - m, m)
    right = functional.scaled_dot_product_attention(
        query.transpose(0, 1),
        keys.transpose(0, 1),
        values.transpose(0, 1),
        attn_mask=causal(m, positions - m),
        enable_gqa=True,
    )
    got = attend(query.flatten(0, 1), cache[0], view).view(m, HEADS, SIZE)
    torch.testing.assert_close(got, right.transpose(0, 1))
