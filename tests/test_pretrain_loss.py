"""The chunked loss and its hand-written gradients are those of plain cross-entropy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from habitab_adapters.pretrain import loss
from habitab_adapters.pretrain.loss import weighted_cross_entropy


def example(count: int, kind: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 6, generator=random, dtype=torch.float64).to(kind).requires_grad_()
    head = torch.randn(11, 6, generator=random, dtype=torch.float64).to(kind).requires_grad_()
    targets = torch.randint(0, 11, (count,), generator=random)
    return hidden, head, targets, torch.randint(0, 17, (count,), generator=random) / 16


def plain(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return (functional.cross_entropy(hidden @ head.T, targets, reduction="none") * weights).sum()


@settings(max_examples=30)
@given(count=st.integers(0, 20), chunk=st.integers(1, 9), seed=st.integers(0, 99))
def test_loss_and_gradients_equal_torch_s_in_any_chunks(count: int, chunk: int, seed: int) -> None:
    hidden, head, targets, weights = example(count, torch.float64, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CPU_CHUNK", chunk)
        ours = weighted_cross_entropy(hidden, head, targets, weights)
    wanted = plain(hidden, head, targets, weights)
    torch.testing.assert_close(ours, wanted)
    found, right = (torch.autograd.grad(3 * value, (hidden, head)) for value in (ours, wanted))
    torch.testing.assert_close(found, right)


def test_the_gradients_are_those_of_small_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CPU_CHUNK", 3)
    hidden, head, targets, weights = example(7, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: weighted_cross_entropy(h, w, targets, weights), (hidden, head))


def test_bfloat16_logits_lose_little() -> None:
    hidden, head, targets, weights = example(9, torch.float32)
    ours = weighted_cross_entropy(hidden.bfloat16(), head.bfloat16(), targets, weights)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain(hidden, head, targets, weights), rtol=0.03, atol=0.0)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets, weights = example(5, torch.float32)
    weighted_cross_entropy(hidden, head.detach(), targets, weights).backward()
    assert hidden.grad is not None and head.grad is None


def test_large_logits_do_not_overflow() -> None:
    hidden, head, targets, weights = example(5, torch.float32)
    assert bool(torch.isfinite(weighted_cross_entropy(hidden * 1e4, head, targets, weights)))
