"""The decode step in torch: one token through the network, as a free function over tensors.

For machines that have no compiled step (`native/`).
It is compiled by TorchScript where this torch has it, which saves the time Python takes between small operations;
without it the same function runs as it stands. TorchScript reads the annotations, so this module must not postpone
their evaluation.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from habitab_engine.attention import Attention, attend

VECTOR = ("bag", "float32")  # the kernels of `vector`, by number


class Packed(NamedTuple):
    """A layer as `product` wants it, for one of `VECTOR`; tensors that a kernel does not use are empty."""

    kernel: int
    bags: int
    table: Tensor
    scale: Tensor
    gain: Tensor
    bias: Tensor
    rows: Tensor
    offsets: Tensor


def product(packed: Packed, x: Tensor) -> Tensor:
    """The layer's product with one vector, before scale and bias: `[bags, K] -> [N]`, the rows of `x` being alike.

    The bag kernel computes an equal part of N in each bag, and wants the vector once for each.
    """
    if packed.kernel == 0:
        parts = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            packed.table, packed.rows, packed.offsets, False, 0, False, x.reshape(-1), None, False
        )
        return parts.view(-1)
    return torch.mv(packed.table, x[0])


def vector(packed: Packed, x: Tensor) -> Tensor:
    """The whole layer for one vector: `[bags, K] -> [N]`."""
    y = product(packed, x).mul_(packed.scale)
    return y if packed.bias.numel() == 0 else y.add_(packed.bias)


class Block(NamedTuple):
    """The four layers of one block, packed for decode."""

    qkv: Packed
    output: Packed
    gate_up: Packed
    down: Packed


class Token(NamedTuple):
    """One token's rotations `[D/2]`, and its places in the KV cache, a view `[G, D]` a layer."""

    cis: Tensor
    keys: list[Tensor]
    values: list[Tensor]


def one_token(residual: Tensor, blocks: list[Block], token: Token, attention: Attention) -> Tensor:
    """One token through all blocks: `residual` `[width + 1]`, as `unit` wants it, becomes its last hidden state.

    The hot path: few, small, in-place operations, since at one token each costs as much as its dispatch.
    """
    groups, size = token.keys[0].size(0), token.keys[0].size(1)
    x = residual[:-1]
    for i, block in enumerate(blocks):
        qkv = vector(block.qkv, unit(residual, block.qkv.bags)).view(-1, size)
        rotated, values = qkv[:-groups], qkv[-groups:]
        torch.view_as_complex(rotated.view(-1, size // 2, 2)).mul_(token.cis)
        token.keys[i].copy_(rotated[-groups:])
        token.values[i].copy_(values)
        attended = attend(rotated[:-groups], attention.memory[i], attention)
        wide = attended.view(1, -1).expand(block.output.bags, -1)
        x.addcmul_(product(block.output, wide), block.output.scale)
        gate, up = vector(block.gate_up, unit(residual, block.gate_up.bags)).chunk(2)
        x.addcmul_(product(block.down, functional.silu(gate).expand(block.down.bags, -1) * up), block.down.scale)
    return x


def unit(residual: Tensor, bags: int) -> Tensor:
    """RMSNorm of one vector, without its gain and a factor √width: `[width + 1] -> [bags, width]`, all rows alike.

    The last element is √(width · ε), so that the norm of the whole has ε in it.
    """
    return residual[:-1].expand(bags, -1) * residual.dot(residual).rsqrt_()


Function = TypeVar("Function", bound=Callable[..., Tensor])


def compiled(function: Function) -> Function:
    """`function` without Python between its operations, where this torch still has TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            script: Function = torch.jit.script(function)
        except (RuntimeError, AttributeError):
            return function
    return script
