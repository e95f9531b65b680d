"""The base network (Llama) for training: float32 weights, products in the type of the device or rounded, no padding.

Shapes: N tokens of several sequences one behind the other, H query heads, G key/value heads, D head width. Only
attention needs to know where a sequence begins, so everything else works on `[N, …]` and no time goes into padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from habitab_adapters.pretrain.batches import LONGEST
from habitab_adapters.pretrain.operations import causal, gated, normed, rotated
from habitab_adapters.products import Product, Rounding, logits_of, rounded
from habitab_engine.base_files import ModelConfig
from habitab_engine.checkpoint import Checkpoint, quantise_rows, whole
from habitab_engine.errors import BaseModelError, InputError
from habitab_engine.model import MAX_POSITIONS, rotations

# Where sequences begin: (rows, length) of neighbours of one length, or an int32 tensor of ends [S + 1] for CUDA's
# attention over sequences of any lengths.
Seams = tuple[tuple[int, int], ...] | Tensor
_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_NORMS = {"norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
# Shapes a block may be compiled for; the batches of a run have about a third of them.
MOST_SHAPES = 32
# A token sees all before it and none after; releases of torch say so in one of two ways.
_NAMED = inspect.signature(varlen_attn).parameters
_CAUSAL: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in _NAMED else {"is_causal": True}


class Matrix(nn.Module):
    """x·Wᵀ with W `[out, in]` in float32, multiplied in the type of x, or by `product` where it is there.

    With a `rank` W stays as it is and W + U·D is computed, U `[out, rank]` from zero and D `[rank, in]` random
    (LoRA, arXiv 2106.09685, with α = r).
    """

    def __init__(self, weight: Tensor, rank: int, random: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=not rank)
        self.product: Product | None = None
        self.down = self.up = None
        if rank:
            out, width = weight.shape
            self.down = nn.Parameter(torch.randn(rank, width, generator=random) / width**0.5)
            self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x) if self.product else functional.linear(x, self.weight.to(x.dtype))
        if self.down is None or self.up is None:
            return y
        return y + functional.linear(functional.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))

    def merged(self) -> Tensor:
        """The float32 matrix that does the same."""
        return self.weight if self.down is None or self.up is None else self.weight + self.up @ self.down


class Block(nn.Module):
    """Attention and MLP of one layer, q+k+v and gate+up as one product each."""

    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix
    norm: nn.Parameter
    mlp_norm: nn.Parameter

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], rank: int, random: torch.Generator) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.eps = config.rms_eps
        for name, parts in _PARTS.items():
            weight = torch.cat([tensors[f"{part}.weight"] for part in parts])
            self.add_module(name, Matrix(weight, rank, random))
        for name, source in _NORMS.items():
            self.register_parameter(name, nn.Parameter(tensors[f"{source}.weight"], requires_grad=not rank))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seams: Seams) -> Tensor:
        x = x + self.output(self._attend(self.qkv(normed(x, self.norm, self.eps)), cos, sin, seams))
        return x + self.down(gated(self.gate_up(normed(x, self.mlp_norm, self.eps))))

    def _attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, seams: Seams) -> Tensor:
        """Causal attention within each sequence: `[N, (H+2G)·D]` → `[N, H·D]`."""
        heads = qkv.unflatten(1, (-1, self.head_dim))
        turned, values = heads.split([self.heads + self.kv_heads, self.kv_heads], dim=1)
        queries, keys = rotated(turned, cos, sin).split([self.heads, self.kv_heads], dim=1)
        if isinstance(seams, Tensor):
            return _causal_anywhere(seams, queries, keys, values)
        sizes = [rows * length for rows, length in seams]
        parts = zip(seams, *(t.split(sizes) for t in (queries, keys, values)), strict=True)
        return torch.cat([causal(rows, q, k, v) for (rows, _), q, k, v in parts])

    def split(self) -> dict[str, Tensor]:
        """The weights under Hugging Face's names, fused ones taken apart."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = {"qkv": [q, kv, kv], "gate_up": [len(self.gate_up.weight) // 2] * 2}
        named = {f"{source}.weight": getattr(self, name) for name, source in _NORMS.items()}
        for name, parts in _PARTS.items():
            matrix = getattr(self, name).merged()
            pieces = matrix.split(sizes.get(name, [len(matrix)]))
            named |= {f"{part}.weight": piece for part, piece in zip(parts, pieces, strict=True)}
        return named


class Network(nn.Module):
    """The whole decoder; embedding and head are one matrix. `cos` and `sin` are RoPE's, `[positions, 1, D/2]`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], rank: int = 0, seed: int = 0) -> None:
        """`tensors` in float32 under Hugging Face's names; they become the parameters.

        Raises BaseModelError for a model that this network cannot compute.
        """
        super().__init__()
        if not config.tied or config.attention_bias:
            raise BaseModelError("Only models of the llama family with tied embeddings can be trained; choose another.")
        random = torch.Generator().manual_seed(seed)
        self.config = config
        self.embed = nn.Parameter(tensors["model.embed_tokens.weight"], requires_grad=not rank)
        self.norm = nn.Parameter(tensors["model.norm.weight"], requires_grad=not rank)
        layers = (_under(f"model.layers.{i}.", tensors) for i in range(config.layers))
        self.blocks = nn.ModuleList(Block(config, layer, rank, random) for layer in layers)
        self.logits: Product | None = None  # of hidden states, without gradients; None: the head's as it is
        turns = rotations(config, MAX_POSITIONS)[:, None]
        self.register_buffer("cos", turns.real.contiguous(), persistent=False)
        self.register_buffer("sin", turns.imag.contiguous(), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, seams: Seams, kind: torch.dtype) -> Tensor:
        """The last hidden states `[N, width]`, normed, of `tokens` [N] at `positions` [N], computed in `kind`."""
        x = functional.embedding(tokens, self.embed).to(kind)
        cos, sin = self.cos[positions], self.sin[positions]
        for block in self.blocks:
            x = block(x, cos, sin, seams)
        return normed(x, self.norm, self.config.rms_eps)

    def round(self, rounding: Rounding) -> None:
        """Has the matrices of now computed with as int8 rows in float32, where that is faster on this CPU."""
        matrices = self._matrices()
        for matrix, product in zip(matrices, rounded([m.weight for m in matrices], rounding), strict=False):
            matrix.product = product
        self.logits = logits_of(quantise_rows(self.embed.detach(), rounding), self.embed.detach())

    def matrix_weights(self) -> int:
        """Weights of the blocks' matrices, low-rank factors left out."""
        return sum(matrix.weight.numel() for matrix in self._matrices())

    def _matrices(self) -> list[Matrix]:
        return [module for module in self.modules() if isinstance(module, Matrix)]

    def compile_blocks(self) -> None:
        """Compiles the blocks, once for each shape of a batch; all blocks share the code of one."""
        torch._dynamo.config.recompile_limit = MOST_SHAPES
        for block in self.blocks:
            block.compile(dynamic=False)

    def layers(self) -> Iterator[Block]:
        """The blocks from the first to the last."""
        return (block for block in self.blocks if isinstance(block, Block))

    def head(self, kind: torch.dtype) -> Tensor:
        """The matrix `[V, width]` from hidden states to logits."""
        return self.embed.to(kind)

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """The weights in float32 on the CPU under Hugging Face's names, low-rank factors merged."""
        named: dict[str, Tensor] = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm}
        for i, block in enumerate(self.layers()):
            named |= {f"model.layers.{i}.{name}": tensor for name, tensor in block.split().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}


def _causal_anywhere(ends: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same for sequences of any lengths up to `LONGEST` in one call (flash attention, arXiv 2307.08691)."""
    group = queries.shape[1] // keys.shape[1]
    k, v = (t.repeat_interleave(group, dim=1) for t in (keys, values))
    out = varlen_attn(queries.contiguous(), k, v, ends, ends, LONGEST, LONGEST, **_CAUSAL)
    assert isinstance(out, Tensor)  # a tuple only where more is asked for
    return out.flatten(1)


def floats(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors in float32, copies of their own."""
    return {name: whole(tensor).to(torch.float32, copy=True) for name, tensor in checkpoint.tensors.items()}


def pruned(
    config: ModelConfig, tensors: Mapping[str, Tensor], kept: Sequence[int]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model with the layers `kept` only, numbered anew (ShortGPT, arXiv 2403.03853).

    Raises InputError for layers that the model has not, or that do not rise.
    """
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < config.layers:
        raise InputError(f"The layers to keep must rise from 0 to at most {config.layers - 1}; write them again.")
    outer = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.layers.")}
    layers = {
        f"model.layers.{new}.{name}": tensor
        for new, old in enumerate(kept)
        for name, tensor in _under(f"model.layers.{old}.", tensors).items()
    }
    return replace(config, layers=len(kept)), outer | layers


def _under(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
