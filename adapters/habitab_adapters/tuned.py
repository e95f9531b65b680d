"""The network while an adapter is trained: frozen matrices, low-rank updates of them, and gradients for little else.

Most tokens of an example are its prompt, which nothing is to be learned from but what it says. So prompts go through
the network without gradients, and what was written behind them attends to their keys and values as constants: truncated
backpropagation, with the prompt as the part that is cut off. The loss is exact, its gradient lacks only the way through
the prompt's own tokens, and a step costs half. Long texts are written in passes, of which each is cut off from those
before in the same way (Transformer-XL, arXiv 1901.02860, section 3.2): most of their tokens see as much as in serving,
and what they see is read once.

Shapes: P tokens of a prompt but its last, W tokens of what was written and the one before, H query heads, G key/value
heads, D head width, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from habitab_adapters.pretrain.operations import gated, normed, rotated
from habitab_adapters.products import Product, logits_of, products, shape, stacked
from habitab_engine.checkpoint import Checkpoint, whole
from habitab_engine.model import MAX_POSITIONS, rotations

# The fused matrices of a block by the names of their parts; parts of one share A, since they see the same x.
PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_NORMS = ("input_layernorm", "post_attention_layernorm")
MOST_WRITTEN = 320  # tokens with gradients in one pass: half a gigabyte

Memory = list[
    list[tuple[Tensor, Tensor]]
]  # by layer and text the keys and values that it may look back to, `[P, G, D]`


@dataclass(frozen=True, slots=True)
class Lesson:
    """Token ids of a prompt and of what was written behind it, and the weight of the loss of each of the latter."""

    prompt: Sequence[int]
    written: Sequence[int]
    weights: Sequence[float]


class _Matrix:
    """W `[out, in]`, frozen, and its update s·B·A with A `[r, in]`, B `[out, r]` (LoRA, arXiv 2106.09685)."""

    def __init__(self, product: Product, factors: tuple[Tensor, Tensor], scale: float) -> None:
        self.product, self.scale = product, scale
        self.a, self.b = factors

    def __call__(self, x: Tensor) -> Tensor:
        small = functional.linear(x, self.a.to(x.dtype))
        return torch.addmm(self.product(x), small, self.b.t().to(x.dtype), alpha=self.scale)


class _Block:
    def __init__(self, matrices: Mapping[str, _Matrix], norms: Sequence[Tensor]) -> None:
        self.qkv, self.output, self.gate_up, self.down = (matrices[name] for name in PARTS)
        self.norm, self.mlp_norm = norms


class Tuned(nn.Module):
    """`factors` by layer and fused matrix (`"3.qkv"`) are the parameters, in float32; `kind` is computed in."""

    def __init__(
        self, checkpoint: Checkpoint, rank: int, alpha: float, seed: int, kind: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        c = self.config = checkpoint.config
        self.rank, self.alpha, self.kind = rank, alpha, kind
        tensors = checkpoint.tensors
        random = torch.Generator().manual_seed(seed)

        def plain(name: str, kind: torch.dtype) -> Tensor:
            return whole(tensors[f"{name}.weight"]).to(device, kind)

        names = [(i, name) for i in range(c.layers) for name in PARTS]
        stacks = [stacked([tensors[f"model.layers.{i}.{part}.weight"] for part in PARTS[name]]) for i, name in names]
        self.factors, matrices = nn.ParameterDict(), dict[tuple[int, str], _Matrix]()
        for at, product, matrix in zip(names, products(stacks, kind, device), stacks, strict=True):
            out, width = shape(matrix)
            a = nn.Parameter((torch.randn(rank, width, generator=random) / width**0.5).to(device))
            b = nn.Parameter(torch.zeros(out, rank, device=device))
            self.factors["{}_{}_a".format(*at)], self.factors["{}_{}_b".format(*at)] = a, b
            matrices[at] = _Matrix(product, (a, b), alpha / rank)
        self.blocks = [
            _Block(
                {name: matrices[i, name] for name in PARTS},
                [plain(f"model.layers.{i}.{norm}", torch.float32) for norm in _NORMS],
            )
            for i in range(c.layers)
        ]
        self.embed, self.norm = plain("model.embed_tokens", kind), plain("model.norm", torch.float32)
        self.logits = logits_of(tensors["model.embed_tokens.weight"], self.embed)
        turns = rotations(c, MAX_POSITIONS)[:, None].to(device)
        self.cos, self.sin = turns.real.contiguous(), turns.imag.contiguous()

    def forward(self, lessons: Sequence[Lesson]) -> Tensor:
        """The last hidden states, normed, before each token written: `[ΣW, width]`."""
        return self._write(lessons, self._read([lesson.prompt[:-1] for lesson in lessons]))[0]

    def passes(self, lessons: Sequence[Lesson]) -> Iterator[tuple[list[Lesson], Tensor]]:
        """What is written, at most `MOST_WRITTEN` tokens at once, and its hidden states as in `forward`.

        Gradients are to be formed before the next pass is asked for, and factors to be changed after the last.
        """
        for part in _parts(lessons):
            memory = self._read([lesson.prompt[:-1] for lesson in part])
            for piece in _pieces(part):
                hidden, memory = self._write(piece, memory)
                yield piece, hidden

    def _write(self, lessons: Sequence[Lesson], memory: Memory) -> tuple[Tensor, Memory]:
        """The hidden states behind what is in `memory`, and that with what was written but its last token."""
        return self._through([[lesson.prompt[-1], *lesson.written[:-1]] for lesson in lessons], memory)

    @torch.no_grad()
    def _read(self, prompts: Sequence[Sequence[int]]) -> Memory:
        nothing = torch.empty(0, self.config.kv_heads, self.config.head_dim, dtype=self.kind, device=self.embed.device)
        return self._through(prompts, [[(nothing, nothing)] * len(prompts)] * len(self.blocks))[1]

    def _through(self, texts: Sequence[Sequence[int]], memory: Memory) -> tuple[Tensor, Memory]:
        """The last hidden states, normed, of each token behind what is in `memory`, and that with the tokens."""
        x, cos, sin = self._embedded(texts, [len(keys) for keys, _ in memory[0]])
        sizes, eps, known = [len(ids) for ids in texts], self.config.rms_eps, Memory()
        for block, before in zip(self.blocks, memory, strict=True):
            q, k, v = self._heads(block.qkv(normed(x, block.norm, eps)), cos, sin)
            new = zip(before, k.split(sizes), v.split(sizes), strict=True)
            seen = [(torch.cat([keys, k]), torch.cat([values, v])) for (keys, values), k, v in new]
            x = x + block.output(torch.cat([_attended(one, *kv) for one, kv in zip(q.split(sizes), seen, strict=True)]))
            x = x + block.down(gated(block.gate_up(normed(x, block.mlp_norm, eps))))
            known.append([(keys.detach(), values.detach()) for keys, values in seen])
        return normed(x, self.norm, eps), known

    def _embedded(self, texts: Sequence[Sequence[int]], begins: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens one behind the other `[N, width]`, and the rotations of their positions."""
        device = self.embed.device
        ids = torch.tensor([token for text in texts for token in text], device=device)
        places = torch.tensor(
            [b + i for text, b in zip(texts, begins, strict=True) for i in range(len(text))], device=device
        )
        return functional.embedding(ids, self.embed), self.cos[places], self.sin[places]

    def _heads(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        turned, values = qkv.unflatten(1, (-1, c.head_dim)).split([c.heads + c.kv_heads, c.kv_heads], dim=1)
        queries, keys = rotated(turned, cos, sin).split([c.heads, c.kv_heads], dim=1)
        return queries, keys, values

    @torch.no_grad()
    def updates(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, A, B) of each single matrix, fused ones taken apart, in float32 on the CPU."""
        c = self.config
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        sizes = {"qkv": [q, kv, kv], "gate_up": [c.mlp, c.mlp]}
        for i in range(c.layers):
            for name, parts in PARTS.items():
                a, b = (self.factors[f"{i}_{name}_{x}"].detach().cpu() for x in "ab")
                for part, piece in zip(parts, b.split(sizes.get(name, [len(b)])), strict=True):
                    yield f"model.layers.{i}.{part}.weight", a, piece


def _attended(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of the last W of P + W tokens over all before and themselves: `[W, H·D]`."""
    queries, keys, values = (part.transpose(0, 1)[None] for part in (q, keys, values))
    w, size = queries.shape[2], keys.shape[2]
    hidden = torch.full((w, size), -torch.inf, dtype=q.dtype, device=q.device).triu_(size - w + 1) if w < size else None
    out = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=hidden, is_causal=hidden is None, enable_gqa=True
    )
    return out[0].transpose(0, 1).flatten(1)


def _parts(lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """Lessons that go through the network together: what is kept for their gradients bounds the memory."""
    part: list[Lesson] = []
    for lesson in lessons:
        if part and sum(len(other.written) for other in part) + len(lesson.written) > MOST_WRITTEN:
            yield part
            part = []
        part.append(lesson)
    if part:
        yield part


def _pieces(part: list[Lesson]) -> Iterator[list[Lesson]]:
    """`part` itself, or the pieces of a lesson that is too long; of the prompts of all but the first only the last
    token is there."""
    lesson = part[0]
    count = math.ceil(len(lesson.written) / MOST_WRITTEN)
    if len(part) > 1 or count < 2:
        yield part
        return
    prompt, size = lesson.prompt, math.ceil(len(lesson.written) / count)
    for i in range(0, len(lesson.written), size):
        yield [Lesson(prompt, lesson.written[i : i + size], lesson.weights[i : i + size])]
        prompt = lesson.written[i + size - 1 : i + size]
