"""A few tokens through the network at once: what follows a keystroke, and drafts to be verified.

FBGEMM's packed product reads the weights once for all of them. Compiled like `step.py`, and for the same reason.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from habitab_engine.attention import Attention, Span, attend, write

FEW = 8  # tokens up to which this is the quicker way


class Few(NamedTuple):
    """An int8 layer packed for FBGEMM; `gain` and `bias` are empty where there is none.

    `numbers` are `NUMBERS` as tensors: TorchScript makes one of a Python number each time, slower than the product.
    """

    packed: torch.classes.quantized.LinearPackedParamsBase  # type: ignore[name-defined]
    gain: Tensor
    bias: Tensor
    numbers: list[Tensor]


# The largest magnitude in a plane; 1.5 · 2²³, from where on float32 has no bits for a fraction; steps of the second
# plane in one of the first.
NUMBERS = (127.0, 12582912.0, 254.0)


def rows(layer: Few, x: Tensor) -> Tensor:
    """`[M, K] -> [M, N]`, with the activations as two int8 planes, x ≈ s · (hi + lo / 254): about 15 bits.

    128 is the zero of FBGEMM's unsigned activations. The kernel rounds the planes. What the first leaves is found by
    adding `NUMBERS[1]`, which rounds the same; `round` is slow.
    """
    most, rounding, finer = layer.numbers
    if layer.gain.numel() > 0:
        x = x * layer.gain
    m = x.size(0)
    step = x.abs().amax(1, keepdim=True).clamp_(min=1e-30).div_(most)
    planes = torch.empty([2 * m, x.size(1)])
    high = torch.div(x, step, out=planes[:m])
    torch.sub(high, high.add(rounding).sub_(rounding), out=planes[m:]).mul_(finer)
    both = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(planes, 1.0, 128, layer.packed)
    y = both[:m].add_(both[m:], alpha=1 / 254.0).mul_(step)
    return y if layer.bias.numel() == 0 else y.add_(layer.bias)


class FewBlock(NamedTuple):
    """The four layers of one block."""

    qkv: Few
    output: Few
    gate_up: Few
    down: Few


def few_tokens(
    x: Tensor, blocks: list[FewBlock], cis: Tensor, places: list[Span], groups: int, eps: Tensor, attention: Attention
) -> Tensor:
    """M tokens at `places` through all blocks: `[M, width]` to the last hidden states `[M, width]`.

    `cis` `[M, 1, D/2]` are their rotations, `groups` is G, `eps` belongs to the sum of squares in RMSNorm.
    """
    m, size = x.size(0), 2 * cis.size(2)
    for i, block in enumerate(blocks):
        heads = rows(block.qkv, normed(x, eps)).view(m, -1, size)
        turning = heads[:, :-groups].unflatten(2, [size // 2, 2])
        torch.view_as_complex(turning).mul_(cis)
        write(attention.memory[i], places, heads[:, -2 * groups : -groups], heads[:, -groups:])
        query = heads[:, : -2 * groups].reshape(-1, size)
        x = x + rows(block.output, attend(query, attention.memory[i], attention).view(m, -1))
        gate, up = rows(block.gate_up, normed(x, eps)).chunk(2, 1)
        x = x + rows(block.down, functional.silu(gate).mul_(up))
    return x


def normed(x: Tensor, eps: Tensor) -> Tensor:
    """RMSNorm without its gain and √width, which the next layer's weights hold (arXiv 1910.07467, eq. 4)."""
    return x * (x * x).sum(1, keepdim=True).add_(eps).rsqrt_()
