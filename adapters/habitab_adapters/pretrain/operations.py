"""What a training step does between its matrix products: norm, rotation, gate and causal attention.

On a CPU with matrix units the products take less time than all of this would, so there bfloat16 goes through compiled
code where a C++ compiler is at hand, and attention has gradients of its own.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 128  # queries whose scores exist at once: few of them are masked, and a core's cache holds more of them


def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """RMSNorm (arXiv 1910.07467) of x `[N, width]`, computed in at least float32, in the type of x."""
    if x.is_cpu and not is_compiled(x):
        y: Tensor = _Norm.apply(x, gain, eps)
        return y
    return _quick(_normed, x)(x, gain, eps)


def rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`heads` [N, ·, D] turned by their positions (RoPE, arXiv 2104.09864); a head's halves are the coordinates."""
    return _quick(_rotated, heads)(heads, cos, sin)


def gated(both: Tensor) -> Tensor:
    """silu(gate)·up (arXiv 2002.05202) of gate and up side by side: `[N, 2·width]` → `[N, width]`."""
    return _quick(_gated, both)(both)


def causal(rows: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of `rows` sequences of one length: `[rows·T, ·, D]` each → `[rows·T, H·D]`."""
    q, k, v = (t.unflatten(0, (rows, -1)).transpose(1, 2) for t in (queries, keys, values))
    if queries.is_cpu:
        out = _Causal.apply(q, k, v)
    else:
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def is_compiled(x: Tensor) -> bool:
    """Whether what is done to `x` is compiled piece by piece; where whole blocks are, on CUDA, nothing else is."""
    return x.is_cpu and x.dtype == torch.bfloat16 and _compiles()


@functools.cache
def _compiles() -> bool:
    """Whether this machine has what `torch.compile` needs for a CPU, above all a C++ compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, of its own parts
        try:
            torch.compile(torch.neg)(torch.ones(2))
        except Exception:  # whatever the compiler's own fault is
            return False
    return True


def _quick(function: Callable[..., Tensor], x: Tensor) -> Callable[..., Tensor]:
    return _compiled(function) if is_compiled(x) else function


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One code for batches of any size."""
    return torch.compile(function, dynamic=True)


def _normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x.float(), (x.shape[-1],), gain, eps).to(x.dtype)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = heads.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(heads.dtype)


def _gated(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, dim=-1)
    return functional.silu(gate) * up


class _Norm(torch.autograd.Function):
    """The norm by hand for a CPU without a compiler: half the time, and only x is kept.

    y = x·r·g with r = (mean x² + ε)^−½; dx = g·dy·r − x·r³·mean(g·dy·x), dg = Σ r·dy·x over the rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        exact = x.to(gain.dtype)
        root = (torch.linalg.vector_norm(exact, dim=1, keepdim=True).square_() / x.shape[1] + eps).rsqrt_()
        ctx.save_for_backward(x, gain, root)
        return (exact * root).mul_(gain).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, root = ctx.saved_tensors
        exact, slope = x.to(gain.dtype), grads[0].to(gain.dtype)
        both = slope * exact
        along = (both @ gain)[:, None].mul_(root.pow(3)).div_(-x.shape[1])
        return (slope * gain).mul_(root).addcmul_(exact, along).to(x.dtype), both.T @ root[:, 0], None


class _Causal(torch.autograd.Function):
    """Causal attention of q `[B, H, T, D]` over k, v `[B, G, T, D]`, whose probabilities are kept for the gradients.

    PyTorch's attention for a CPU keeps none, and takes twice the time for examples of a few hundred tokens. The
    queries that share a key head are the rows of one product.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries = (q * q.shape[-1] ** -0.5).unflatten(1, (k.shape[1], -1))
        keys, values, out = k.flatten(0, 1), v.flatten(0, 1), torch.empty_like(queries)
        kept = []
        for begin, end in _blocks(q.shape[2]):
            rows = queries[..., begin:end, :]
            some = rows.flatten(0, 1).flatten(1, 2)
            scores = torch.bmm(some, keys[:, :end].transpose(1, 2))
            later = torch.ones(end - begin, end - begin, dtype=torch.bool).triu_(1)
            scores.unflatten(1, (-1, end - begin))[..., begin:].masked_fill_(later, -torch.inf)
            kept += [some, scores.softmax(-1)]
            out[..., begin:end, :] = torch.bmm(kept[-1], values[:, :end]).view(rows.shape)
        ctx.save_for_backward(keys, values, *kept)
        ctx.shape = queries.shape
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        keys, values, *kept = ctx.saved_tensors
        slope = grads[0].view(ctx.shape)
        to_queries = torch.empty(ctx.shape, dtype=slope.dtype)
        to_keys, to_values = torch.zeros_like(keys), torch.zeros_like(values)
        for (begin, end), some, chances in zip(_blocks(ctx.shape[3]), kept[::2], kept[1::2], strict=True):
            rows = slope[..., begin:end, :]
            out = rows.flatten(0, 1).flatten(1, 2)
            to_values[:, :end] += torch.bmm(chances.transpose(1, 2), out)
            by_chance = torch.bmm(out, values[:, :end].transpose(1, 2))
            by_score = torch._softmax_backward_data(by_chance, chances, -1, chances.dtype)
            to_queries[..., begin:end, :] = torch.bmm(by_score, keys[:, :end]).view(rows.shape)
            to_keys[:, :end] += torch.bmm(by_score.transpose(1, 2), some)
        to_queries *= ctx.shape[-1] ** -0.5
        heads = (ctx.shape[0], -1)
        return to_queries.flatten(1, 2), to_keys.unflatten(0, heads), to_values.unflatten(0, heads)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + BLOCK, length)) for begin in range(0, length, BLOCK)]
