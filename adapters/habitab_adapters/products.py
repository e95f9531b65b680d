"""Products with the base's matrices in training: frozen ones while an adapter is trained, or those that learn.

Where a CPU computes fastest with the compiled products of the engine, int8 rows times activations of 15 bits, the
gradients are formed by these, too: a matrix is then there twice, by rows and by columns, in half the memory of float32.
Of a matrix that learns these are rounded anew for each step, while the matrix itself and its gradient stay in float32
(SwitchBack, arXiv 2304.13013, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from habitab_engine.checkpoint import RowInt8, quantise_rows, whole
from habitab_engine.kernels import Weight
from habitab_engine.native import WIDTH, Products, multiplies

Product = Callable[[Tensor], Tensor]
Rounding = Callable[[Tensor], Tensor]
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
    there, back = _both_ways(rows)
    return [partial(_apply, there, back, i, None) for i in range(len(rows))]


def rounded(weights: Sequence[Tensor], rounding: Rounding) -> list[Product]:
    """The same of float32 matrices on the CPU, as int8 rows now; their gradients go to `weights`.

    Empty where there are no compiled products for all of them.
    """
    if not all(_fits(weight.shape) for weight in weights):
        return []
    there, back = _both_ways([quantise_rows(weight.detach(), rounding) for weight in weights])
    return [partial(_apply, there, back, i, weight) for i, weight in enumerate(weights)]


def _both_ways(rows: Sequence[RowInt8]) -> tuple[Products, Products]:
    """The products forward, and those of the gradients."""
    return Products([Weight(row.values, row.scale) for row in rows]), Products([_turned(row) for row in rows])


def logits_of(head: Matrix, embed: Tensor) -> Product:
    """What makes logits `[M, V]` of hidden states `[M, width]`, without gradients; `embed` is `head` in the type and on
    the device to compute with, for want of something faster."""
    rows = _compilable([head], embed.dtype, embed.device)
    if not rows:
        return partial(functional.linear, weight=embed)
    return partial(Products([Weight(matrix.values, matrix.scale) for matrix in rows]).multiply, 0)


def _compilable(matrices: Sequence[Matrix], kind: torch.dtype, device: torch.device) -> list[RowInt8]:
    """Those of the matrices that compiled products can be had of."""
    if kind != torch.float32 or device.type != "cpu":
        return []
    return [matrix for matrix in matrices if isinstance(matrix, RowInt8) and _fits(shape(matrix))]


def _fits(size: torch.Size) -> bool:
    """Whether this CPU has compiled products for matrices of this shape."""
    return multiplies() and not any(n % WIDTH for n in size)


def _turned(matrix: RowInt8) -> Weight:
    """The transposed matrix [K, N]: what was a row's scale belongs to what it is multiplied with."""
    values = matrix.values.t().contiguous()
    return Weight(values, torch.ones(len(values)), gain=matrix.scale)


def _apply(there: Products, back: Products, which: int, weight: Tensor | None, x: Tensor) -> Tensor:
    y: Tensor = _Compiled.apply(x, weight, there, back, which)
    return y


class _Compiled(torch.autograd.Function):
    """y = x Wᵀ, dx = dy W, and dW = dyᵀ x where W learns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, there: Products, back: Products, which: int) -> Tensor:
        ctx.back, ctx.which = back, which
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None)
        return there.multiply(which, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (x,) = grads, ctx.saved_tensors
        return ctx.back.multiply(ctx.which, slope), None if x is None else slope.T @ x, None, None, None
