"""Weighted cross-entropy of a tied head, in chunks, with its gradients formed while the logits are there.

The logits `[P, V]` are the largest tensor of a small model's training step by far. As in Liger Kernel (arXiv
2410.10989, section 3.2) and Cut Cross-Entropy (arXiv 2411.09009) they never exist as a whole: a chunk of positions goes
through the head, gives its share of the loss and of both gradients, and is forgotten.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Positions whose logits exist at once: 67 MB in float32 for 32,768 tokens on a CPU; an accelerator wants more work.
CPU_CHUNK, DEVICE_CHUNK = 512, 8192


def weighted_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    logits: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Σ w·(−log p(target)) in nats over P positions, a scalar of at least float32.

    `hidden` [P, width] and `head` [V, width] in the type to compute in, `targets` int64 [P], `weights` [P]. The
    gradients go to `hidden` and, where it wants one, to `head`. `logits` may be a faster way to hidden·headᵀ.
    """
    loss: Tensor = _ChunkedLoss.apply(hidden, head, targets, weights, logits or (lambda some: some @ head.T))
    return loss


class _ChunkedLoss(torch.autograd.Function):
    """The gradient of one position's loss by its logits is w·(softmax − one-hot), so it needs no backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        logits: Callable[[Tensor], Tensor],
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        to_hidden = torch.empty_like(hidden)
        to_head = torch.zeros_like(head, dtype=exact) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=exact, device=hidden.device)
        size = CPU_CHUNK if hidden.is_cpu else DEVICE_CHUNK
        chunk = _compiled_chunk() if hidden.is_cuda else _chunk
        for begin in range(0, len(hidden), size):
            part = slice(begin, begin + size)
            lost, slope = chunk(logits(hidden[part]), targets[part], weights[part].to(exact))
            loss += lost
            torch.mm(slope, head, out=to_hidden[part])
            if to_head is not None:
                _add_product(to_head, slope.T, hidden[part])
        ctx.save_for_backward(to_hidden, to_head)
        ctx.head_type = head.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_head = ctx.saved_tensors
        by = grads[0]
        return (
            to_hidden * by.to(to_hidden.dtype),
            None if to_head is None else (to_head * by).to(ctx.head_type),
            None,
            None,
            None,
        )


def _chunk(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of one chunk in the type of `weights`, and its gradient by the logits [c, V], which are overwritten."""
    at = targets[:, None]
    exact = logits.to(weights.dtype)
    top = exact.amax(dim=1, keepdim=True)
    chosen = exact.gather(1, at) - top
    gradient = exact.sub_(top).exp_()
    total = gradient.sum(dim=1, keepdim=True)
    lost = ((total.log() - chosen) * weights[:, None]).sum()
    gradient.mul_(weights[:, None] / total)
    gradient.scatter_add_(1, at, -weights[:, None])
    return lost, gradient.to(logits.dtype)


@functools.cache
def _compiled_chunk() -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`_chunk` in three passes over the logits instead of ten; one code for chunks of any size."""
    return torch.compile(_chunk, dynamic=True)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a·b, in one pass over `total` where the types allow it."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
