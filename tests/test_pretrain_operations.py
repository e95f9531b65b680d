"""The operations by hand are PyTorch's own, with their gradients, plain and compiled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from habitab_adapters.pretrain import operations
from habitab_adapters.pretrain.operations import causal, normed

HEADS, KEY_HEADS, WIDTH = 6, 2, 4


def heads(rows: int, length: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(length)
    shapes = [(rows * length, count, WIDTH) for count in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for shape in shapes]


def plainly(rows: int, *qkv: Tensor) -> Tensor:
    q, k, v = (t.unflatten(0, (rows, -1)).transpose(1, 2) for t in qkv)
    k, v = (t.repeat_interleave(HEADS // KEY_HEADS, dim=1) for t in (k, v))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 5), (2, operations.BLOCK), (1, 2 * operations.BLOCK + 3)])
def test_attention_is_pytorch_s(rows: int, length: int) -> None:
    ours, theirs = heads(rows, length), heads(rows, length)
    (causal(rows, *ours) ** 3).sum().backward()
    (plainly(rows, *theirs) ** 3).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_attention_s_gradients_are_those_of_small_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "BLOCK", 3)
    assert torch.autograd.gradcheck(lambda *qkv: causal(2, *qkv), heads(2, 7))


def test_the_norm_s_gradients_are_those_of_small_differences() -> None:
    random = torch.Generator().manual_seed(5)
    x, gain = (torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for shape in ((3, 8), (8,)))
    assert torch.autograd.gradcheck(lambda a, g: normed(a, g, 1e-5), (x, gain))
    torch.testing.assert_close(normed(x, gain, 1e-5), functional.rms_norm(x, (8,), gain, 1e-5))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(not operations._compiles(), reason="no C++ compiler here")
def test_compiled_operations_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def results() -> list[Tensor]:
        x, gain = torch.linspace(-3, 3, 480).view(5, 6, 16).bfloat16().requires_grad_(), torch.linspace(0.5, 2, 96)
        turns = torch.linspace(0, 6, 40).view(5, 1, 8)
        turned = operations.rotated(x, turns.cos(), turns.sin())
        out = operations.gated(normed(turned.flatten(1), gain, 1e-5))
        out.float().square().sum().backward()
        assert x.grad is not None
        return [out, x.grad]

    compiled = results()
    monkeypatch.setattr(operations, "_compiles", lambda: False)
    for one, other in zip(compiled, results(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.03)
