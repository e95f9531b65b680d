"""The base's matrices while an adapter is trained: products with them that have gradients for their other factor alone.

Where a CPU computes fastest with the compiled products of the engine, int8 rows times activations of 15 bits, the
gradients are formed by these, too: a matrix is then there twice, by rows and by columns, in half the memory of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from habitab_engine.checkpoint import RowInt8, whole
from habitab_engine.kernels import Weight
from habitab_engine.native import WIDTH, Products, multiplies

Product = Callable[[Tensor], Tensor]
Matrix = RowInt8 | Tensor


def stacked(parts: Sequence[Matrix]) -> Matrix:
    """One matrix of the rows of several."""
    rows = [part for part in parts if isinstance(part, RowInt8)]
    if len(rows) < len(parts):
        return torch.cat([whole(part) for part in parts])
    return RowInt8(torch.cat([part.values for part in rows]), torch.cat([part.scale for part in rows]))


def shape(matrix: Matrix) -> torch.Size:
    return matrix.values.shape if isinstance(matrix, RowInt8) else matrix.shape


def products(matrices: Sequence[Matrix], kind: torch.dtype, device: torch.device) -> list[Product]:
    """Of each matrix [N, K] what makes `[M, N]` of `[M, K]` on `device`, both in `kind`."""
    rows = _compilable(matrices, kind, device)
    if len(rows) < len(matrices):
        return [partial(functional.linear, weight=whole(matrix).to(device, kind)) for matrix in matrices]
    there = Products([Weight(matrix.values, matrix.scale) for matrix in rows])
    back = Products([_turned(matrix) for matrix in rows])
    return [partial(_apply, there, back, i) for i in range(len(rows))]


def logits_of(head: Matrix, embed: Tensor) -> Product:
    """What makes logits `[M, V]` of hidden states `[M, width]`, without gradients; `embed` is `head` in the type and on
    the device to compute with, for want of something faster."""
    rows = _compilable([head], embed.dtype, embed.device)
    if not rows:
        return partial(functional.linear, weight=embed)
    return partial(Products([Weight(matrix.values, matrix.scale) for matrix in rows]).multiply, 0)


def _compilable(matrices: Sequence[Matrix], kind: torch.dtype, device: torch.device) -> list[RowInt8]:
    """Those of the matrices that compiled products can be had of."""
    if kind != torch.float32 or device.type != "cpu" or not multiplies():
        return []
    return [matrix for matrix in matrices if isinstance(matrix, RowInt8) and not any(n % WIDTH for n in shape(matrix))]


def _turned(matrix: RowInt8) -> Weight:
    """The transposed matrix [K, N]: what was a row's scale belongs to what it is multiplied with."""
    values = matrix.values.t().contiguous()
    return Weight(values, torch.ones(len(values)), gain=matrix.scale)


def _apply(there: Products, back: Products, which: int, x: Tensor) -> Tensor:
    y: Tensor = _Compiled.apply(x, there, back, which)
    return y


class _Compiled(torch.autograd.Function):
    """y = x Wᵀ, dx = dy W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Products, back: Products, which: int) -> Tensor:
        ctx.back, ctx.which = back, which
        return there.multiply(which, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back.multiply(ctx.which, grads[0]), None, None, None
