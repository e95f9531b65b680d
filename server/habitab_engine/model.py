"""The base network (Llama and Qwen2 layouts) on a CPU: `prefill` for many tokens, `decode` for one.

Shapes: T cached positions, M new tokens, H query heads, G key/value heads, D head width, V vocabulary.
Keys are stored rotated (RoPE, arXiv 2104.09864), with the two halves of a head interleaved so that a rotation is one
complex product; queries are permuted alike, which leaves every score as it is. `attention.py` says where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from habitab_engine.attention import Addresses, Span, causal, new_cache, places, read, spans, write
from habitab_engine.base_files import ModelConfig
from habitab_engine.checkpoint import Checkpoint, RowInt8, quantise_rows, whole
from habitab_engine.errors import Cancelled
from habitab_engine.few import FEW, FewBlock, few_tokens, normed
from habitab_engine.kernels import Kernels, Linear, Weight, usable
from habitab_engine.native import MOST_FILLED, Native, fills, knows
from habitab_engine.step import Block, Token, compiled, one_token, unit, vector

MAX_POSITIONS = 2048
# Tokens of a prefill in torch that attend at once, to nothing behind their last: for 1,024 that saves a third.
ATTENDING = 256


class _Layer:
    """The four fused linear layers of one block: q+k+v, attention output, gate+up, down."""

    def __init__(self, read: _Reader, index: int) -> None:
        at = f"model.layers.{index}."
        attention, mlp = at + "self_attn.", at + "mlp."
        norm, mlp_norm = (
            read.plain(at + "input_layernorm.weight"),
            read.plain(at + "post_attention_layernorm.weight"),
        )
        self.qkv = read.linear([attention + f"{x}_proj" for x in "qkv"], norm)
        self.output = read.linear([attention + "o_proj"])
        self.gate_up = read.linear([mlp + "gate_proj", mlp + "up_proj"], mlp_norm)
        self.down = read.linear([mlp + "down_proj"])
        self.bytes = self.qkv.bytes + self.output.bytes + self.gate_up.bytes + self.down.bytes


class _Reader:
    """Turns a checkpoint's tensors into packed linear layers."""

    def __init__(self, checkpoint: Checkpoint, kernels: Kernels) -> None:
        self._tensors, self._config = checkpoint.tensors, checkpoint.config
        self._kernels = kernels
        self._exact = kernels.prefill == kernels.decode == "float32"

    def plain(self, name: str) -> Tensor:
        """A vector, copied: one tensor left in the mapped file would keep all of the file in memory."""
        return whole(self._tensors[name]).to(torch.float32, copy=True)

    def rows(self, name: str) -> tuple[Tensor, Tensor]:
        """Values and scales; a float checkpoint stays exact on the plain path and is quantised otherwise."""
        tensor = self._tensors[name]
        if not isinstance(tensor, RowInt8) and self._exact:
            return tensor.float(), torch.ones(len(tensor))
        packed = tensor if isinstance(tensor, RowInt8) else quantise_rows(tensor)
        return packed.values, packed.scale

    def linear(self, names: list[str], gain: Tensor | None = None, prefilled: bool = True) -> Linear:
        parts = [self.rows(f"{name}.weight") for name in names]
        biases = [self._bias(name) for name in names]
        values, scale, bias = torch.cat([v for v, _ in parts]), torch.cat([s for _, s in parts]), None
        if any(b is not None for b in biases):
            bias = torch.cat([torch.zeros(len(v)) if b is None else b for b, (v, _) in zip(biases, parts, strict=True)])
        if names[0].endswith("q_proj"):
            order = self._interleaved()
            values, scale, bias = values[order], scale[order], None if bias is None else bias[order]
        # `unit` and `_normed` divide by the norm, not by the root of the mean square: √width is made good here.
        gain = None if gain is None else gain * len(gain) ** 0.5
        return Linear(Weight(values, scale, gain, bias), self._kernels, prefilled)

    def _bias(self, name: str) -> Tensor | None:
        return self.plain(f"{name}.bias") if f"{name}.bias" in self._tensors else None

    def _interleaved(self) -> Tensor:
        """Row order of q+k+v in which the halves of each rotated head alternate; values keep their order."""
        c = self._config
        head = torch.arange(c.head_dim).view(2, -1).t().reshape(-1)
        heads = torch.arange(c.heads + c.kv_heads)[:, None] * c.head_dim
        values = torch.arange(c.kv_heads * c.head_dim) + heads.numel() * c.head_dim
        return torch.cat([(heads + head).view(-1), values])


def _embedding(values: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """What looks tokens up, `[M]` to `[M, width]`, in a copy of its own."""
    values, scale = values.clone(), scale.clone()
    return lambda ids: values[ids].float() * scale[ids, None]


def rotations(config: ModelConfig, positions: int) -> Tensor:
    """RoPE's unit complex numbers, complex64 `[positions, D/2]`."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    steps = torch.arange(positions, dtype=torch.float64) / config.rope_factor
    angle = torch.outer(steps, config.rope_theta**-exponent)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


class Steps(Protocol):
    """How a few tokens go through the network: at most `most` of them with `run`, any number with `logits`."""

    most: int
    cached: torch.dtype  # of the KV cache

    def run(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """Embedded tokens `[M, width]` through all blocks, keys and values into `cache`; the same shape."""

    def logits(self, hidden: Tensor) -> Tensor:
        """`[M, width]` to `[M, V]`."""

    def alone(self) -> AbstractContextManager[None]:
        """While steps follow each other, the cores are theirs."""


class TorchSteps:
    """Steps in torch, where there is no compiled one: several tokens at once with the int8 prefill kernel only."""

    def __init__(self, config: ModelConfig, layers: Sequence[_Layer], head: Linear, cis: Tensor, eps: Tensor) -> None:
        self._head, self._cis, self._eps, self._groups = head, cis, eps, config.kv_heads
        self._blocks = [Block(b.qkv.packed, b.output.packed, b.gate_up.packed, b.down.packed) for b in layers]
        few = [[x.few for x in (b.qkv, b.output, b.gate_up, b.down) if x.few] for b in layers]
        self._few_blocks = [FewBlock(*parts) for parts in few if parts]
        self._one, self._few = compiled(one_token), compiled(few_tokens)
        self._addresses = Addresses(config.heads, config.kv_heads, config.head_dim, MAX_POSITIONS)
        self.most, self.cached = FEW if self._few_blocks else 1, torch.float32

    def run(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        m, attention = len(x), self._addresses.of(cache, position, len(x))
        if m > 1:
            cis = self._cis[position : position + m, None]
            return self._few(x, self._few_blocks, cis, spans(position, m), self._groups, self._eps, attention)
        token = Token(self._cis[position], *places(cache, position, 2 * self._cis.shape[1]))
        return self._one(self._residual(x[0]), self._blocks, token, attention)[None]

    def logits(self, hidden: Tensor) -> Tensor:
        head = self._head.packed
        return torch.stack([vector(head, unit(self._residual(x), head.bags)) for x in hidden])

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _residual(self, x: Tensor) -> Tensor:
        """`x` `[width]` with the element that carries ε into its norm (`unit`)."""
        return torch.cat([x, self._eps.sqrt().view(1)])


class Model:
    """The network; it holds no state of a document. All tensors are float32 between the layers.

    `threads` are those of the compiled step (0: as many as torch has). `pause` is called between the steps of
    making it; it may block.
    """

    def __init__(
        self, checkpoint: Checkpoint, kernels: Kernels, threads: int = 0, pause: Callable[[], None] = lambda: None
    ) -> None:
        c = self.config = checkpoint.config
        self.kernels = kernels = _possible(kernels, c)
        read = _Reader(checkpoint, kernels)
        self._embedded = _embedding(*read.rows("model.embed_tokens.weight"))
        pause()
        name = "model.embed_tokens" if self.config.tied else "lm_head"
        head = read.linear([name], read.plain("model.norm.weight"), prefilled=False)
        self._cis = rotations(self.config, MAX_POSITIONS)
        self._eps = torch.tensor(self.config.width * self.config.rms_eps)
        # What many tokens attend in; matrix units make it two and a half times as fast.
        self._attended = torch.bfloat16 if kernels.prefill == "bf16" else torch.float32
        self._layers: list[_Layer] = []
        made = self._made(read, pause)
        native = kernels.decode == "native"
        self._steps: Steps = self._native(head, made, threads) if native else self._torch(head, made)
        # What decoding one token has to read: every matrix once, in its stored form.
        self.bytes_per_token = head.bytes + sum(layer.bytes for layer in self._layers)

    def _made(self, read: _Reader, pause: Callable[[], None]) -> Iterator[_Layer]:
        """The layers one by one, so that each can be packed before the next takes memory."""
        for index in range(self.config.layers):
            pause()
            self._layers.append(_Layer(read, index))
            yield self._layers[-1]

    def _native(self, head: Linear, made: Iterator[_Layer], threads: int) -> Native:
        c = self.config
        blocks = ([x.give() for x in (b.qkv, b.output, b.gate_up, b.down)] for b in made)
        heads = c.heads, c.kv_heads, c.head_dim
        native = Native(blocks, head.give(), heads, self._cis, float(self._eps), c.layers, threads)
        if c.tied:  # one copy serves both
            self._embedded = native.embedded
        return native

    def _torch(self, head: Linear, made: Iterator[_Layer]) -> TorchSteps:
        return TorchSteps(self.config, list(made), head, self._cis, self._eps)

    def new_cache(self, capacity: int) -> Tensor:
        """An empty KV cache for at least `capacity` positions."""
        c = self.config
        return new_cache(c.layers, c.kv_heads, c.head_dim, capacity, self._steps.cached)

    @torch.inference_mode()
    def prefill(self, tokens: list[int], cache: Tensor, position: int, cancelled: Callable[[], bool] = bool) -> Tensor:
        """Write M tokens at `position` into `cache`; return their last hidden states `[M, width]`.

        Raises Cancelled, before the caller has counted any of them, when `cancelled()` turns true.
        """
        x, m = self._embedded(torch.tensor(tokens)), len(tokens)
        if m <= self._steps.most:
            return self._steps.run(x, cache, position)
        if isinstance(self._steps, Native) and self.kernels.prefill == "native":
            return self._filled(self._steps, x, cache, position, cancelled)
        cis, here = self._cis[position : position + m, None], spans(position, m)
        masks = self._masks(m, position)
        for layer, kv in zip(self._layers, cache, strict=True):
            _check(cancelled)
            query = self._turned(layer.qkv.rows(normed(x, self._eps)), kv, here, cis)
            x += layer.output.rows(self._attend(query, kv, masks))
            gate, up = layer.gate_up.rows(normed(x, self._eps)).chunk(2, 1)
            x += layer.down.rows(functional.silu(gate).mul_(up))
        return x

    def _filled(self, native: Native, x: Tensor, cache: Tensor, position: int, cancelled: Callable[[], bool]) -> Tensor:
        with native.alone():
            for begin, end in cut(len(x), MOST_FILLED):
                for index, layer in enumerate(cache):
                    _check(cancelled)
                    native.fill(x[begin:end], layer, position + begin, index)
        return x

    def _turned(self, qkv: Tensor, kv: Tensor, here: list[Span], cis: Tensor) -> Tensor:
        """Rotate queries and keys and put M tokens' keys and values into the cache; the queries `[M, H, D]`."""
        c = self.config
        heads = qkv.unflatten(1, (-1, c.head_dim))
        torch.view_as_complex(heads[:, : c.heads + c.kv_heads].unflatten(2, (-1, 2))).mul_(cis)
        write(kv, here, *heads[:, c.heads :].unflatten(1, (2, c.kv_heads)).unbind(1))
        return heads[:, : c.heads]

    def _masks(self, m: int, position: int) -> list[Tensor]:
        """For every `ATTENDING` of M tokens what their queries see, a group's heads one behind the other."""
        group = self.config.heads // self.config.kv_heads
        mask = causal(m, position).to(self._attended)
        return [mask[begin:end, : position + end].repeat(group, 1) for begin, end in cut(m, ATTENDING)]

    def _attend(self, query: Tensor, kv: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Causal grouped-query attention of M new tokens over all cached ones: `[M, H·D]`."""
        c = self.config
        keys, values = (t.to(self._attended)[None] for t in read(kv, masks[-1].shape[1], c.head_dim))
        # The queries of a group share their keys: as rows of one head they need no copy of the keys.
        grouped = query.to(self._attended).unflatten(1, (c.kv_heads, -1)).permute(1, 2, 0, 3)
        parts = [
            functional.scaled_dot_product_attention(
                rows.flatten(1, 2)[None], keys[:, :, : mask.shape[1]], values[:, :, : mask.shape[1]], attn_mask=mask
            )[0].view(c.kv_heads, -1, rows.shape[2], c.head_dim)
            for rows, mask in zip(grouped.split(ATTENDING, 2), masks, strict=True)
        ]
        return torch.cat(parts, 2).permute(2, 0, 1, 3).reshape(len(query), -1).float()

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Unnormalised log-probabilities `[M, V]` of the tokens after hidden states `[M, width]`."""
        return self._steps.logits(hidden)

    def decoding(self) -> AbstractContextManager[None]:
        """Around steps that follow each other."""
        return self._steps.alone()

    def verify(self, tokens: list[int], cache: Tensor, position: int) -> Tensor:
        """Write M tokens at `position` and return the logits `[M, V]` after each."""
        return self.logits(self.prefill(tokens, cache, position))

    def decode(self, token: int, cache: Tensor, position: int) -> Tensor:
        """Write one token at `position` into `cache` and return the logits `[V]` of the next."""
        return self.verify([token], cache, position)[0]


def _possible(kernels: Kernels, config: ModelConfig) -> Kernels:
    """Torch's kernels where the compiled step does not know the network's shape."""
    heads = config.heads, config.kv_heads, config.head_dim
    if kernels.decode == "native" and not knows(config.width, config.mlp, heads):
        kernels = replace(kernels, decode="float32")
    if kernels.prefill == "native" and not (kernels.decode == "native" and fills(config.head_dim)):
        kernels = replace(kernels, prefill="bf16" if usable("bf16") else "float32")
    return kernels


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("A newer keystroke made the request pointless.")


def cut(total: int, size: int) -> list[tuple[int, int]]:
    """Cut `range(total)` into consecutive spans of at most `size`."""
    return list(pairwise([*range(0, total, size), total])) if total else []
