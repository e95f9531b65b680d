"""Where keys and values stand in a KV cache, and the attention of one token, or a few, over them.

At one token attention is two matrix-vector products a head: the scores `K q` and their mean of values `Vᵀ p`. Both
are weighted sums of rows, of Kᵀ and of V, which is what torch's embedding bag computes, three times as fast as its
attention kernels do at one query. So keys are stored transposed, in blocks of `BLOCK` positions.

Shapes: T cached positions in B blocks, M new ones, H query heads, G key/value heads, D head width. The cache of a
document is one tensor `[layers, B, 2G, D · BLOCK]`: of each block first the keys of the G heads as
`[D, BLOCK]`, then their values as `[BLOCK, D]`; float32, or float16 for the compiled step. TorchScript reads the
annotations here, as in `step.py`.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 128


class Attention(NamedTuple):
    """The view that M tokens have of a KV cache, for each of their M · H heads.

    The rows are those of a layer's memory read as `[…, BLOCK]` for keys, as `[…, D]` for values; `scale` is
    `[B, 1]`, all 1/√D; `mask` `[M · H, T]` hides what comes later, and is empty for one token.
    """

    memory: list[Tensor]
    key_rows: Tensor
    key_bags: Tensor
    value_rows: Tensor
    value_bags: Tensor
    scale: Tensor
    mask: Tensor


def attend(query: Tensor, memory: Tensor, attention: Attention) -> Tensor:
    """Causal attention over all cached positions: `query` `[M · H, D]` to the same (arXiv 1706.03762, eq. 1)."""
    heads, size = query.size(0), query.size(1)
    positions = attention.value_rows.size(0) // heads
    spread = (query.unsqueeze(1) * attention.scale).view(-1)  # once for each block
    block = memory.size(2) // size
    scores = torch.embedding_bag(
        memory.view(-1, block), attention.key_rows, attention.key_bags, False, 0, False, spread
    )[0]
    scores = scores.view(heads, -1)[:, :positions]
    if attention.mask.numel() > 0:
        scores = scores + attention.mask
    return torch.embedding_bag(
        memory.view(-1, size),
        attention.value_rows,
        attention.value_bags,
        False,
        0,
        False,
        scores.softmax(1).view(-1),
    )[0]


class Addresses:
    """Which rows of a layer's memory each query head reads."""

    def __init__(self, heads: int, kv_heads: int, size: int, positions: int) -> None:
        self._heads, self._kv_heads, self._size = heads, kv_heads, size
        group = torch.arange(heads) // (heads // kv_heads)
        block = torch.arange(-(-positions // BLOCK)) * 2 * kv_heads
        blocks = group[:, None] + block  # [H, B]
        self._keys = (blocks[:, :, None] * size + torch.arange(size)).flatten(1).int()
        self._values = ((blocks[:, :, None] + kv_heads) * BLOCK + torch.arange(BLOCK)).flatten(1).int()

    def of(self, cache: Tensor, position: int, m: int) -> Attention:
        """For M tokens from `position` on, with all those before them."""
        positions, size, heads = position + m, self._size, m * self._heads
        blocks = -(-positions // BLOCK)
        return Attention(
            list(cache.unbind(0)),
            self._keys[:, : blocks * size].repeat(m, 1).view(-1),
            torch.arange(0, heads * blocks * size, size, dtype=torch.int32),
            self._values[:, :positions].repeat(m, 1).view(-1),
            torch.arange(0, heads * positions, positions, dtype=torch.int32),
            torch.full((blocks, 1), size**-0.5),
            causal(m, position).repeat_interleave(self._heads, 0) if m > 1 else torch.empty(0),
        )


def causal(m: int, position: int) -> Tensor:
    """Additive mask `[M, position + M]`: a new token sees the cached ones and the new ones up to itself."""
    return torch.full((m, position + m), float("-inf")).triu_(position + 1)


def new_cache(layers: int, kv_heads: int, size: int, capacity: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty KV cache for at least `capacity` positions."""
    return torch.zeros(layers, -(-capacity // BLOCK), 2 * kv_heads, size * BLOCK, dtype=dtype)


def places(cache: Tensor, position: int, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Where one token's keys and values go: for each layer a view `[G, D]` of each."""
    here, at, groups = cache[:, position // BLOCK], position % BLOCK, cache.size(2) // 2
    keys = here[:, :groups].unflatten(2, (size, BLOCK))[..., at]
    values = here[:, groups:].unflatten(2, (BLOCK, size))[:, :, at]
    return list(keys.unbind(0)), list(values.unbind(0))


class Span(NamedTuple):
    """The tokens `begin:end` of M that stand in one block, from the place `at` on."""

    block: int
    at: int
    begin: int
    end: int


def spans(position: int, m: int) -> list[Span]:
    """Where M tokens from `position` on stand."""
    first = [position, *range(position - position % BLOCK + BLOCK, position + m, BLOCK), position + m]
    return [Span(a // BLOCK, a % BLOCK, a - position, b - position) for a, b in pairwise(first)]


def write(layer: Tensor, places: list[Span], keys: Tensor, values: Tensor) -> None:
    """Put M tokens' keys and values, each `[M, G, D]`, into one layer `[B, 2G, D · BLOCK]`."""
    groups, size = keys.size(1), keys.size(2)
    length = layer.size(2) // size  # TorchScript knows no constant of a module
    for span in places:
        block, until = layer[span.block], span.at + span.end - span.begin
        block[:groups].view(groups, size, length)[:, :, span.at : until] = keys[span.begin : span.end].permute(1, 2, 0)
        block[groups:].view(groups, length, size)[:, span.at : until] = values[span.begin : span.end].transpose(0, 1)


def read(layer: Tensor, positions: int, size: int) -> tuple[Tensor, Tensor]:
    """The keys and values of the first T positions of one layer, each `[G, T, D]`."""
    blocks, groups = -(-positions // BLOCK), layer.size(1) // 2
    keys = layer[:blocks, :groups].unflatten(2, (size, BLOCK)).permute(1, 0, 3, 2)
    values = layer[:blocks, groups:].unflatten(2, (BLOCK, size)).transpose(0, 1)
    return keys.flatten(1, 2)[:, :positions], values.flatten(1, 2)[:, :positions]
