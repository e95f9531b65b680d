"""Products with the base's matrices are the same whoever computes them, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from habitab_adapters import products as module
from habitab_adapters.products import Product, logits_of, products, rounded, shape, stacked
from habitab_engine.checkpoint import RowInt8, quantise_rows, whole
from habitab_engine.native import multiplies

CPU = torch.device("cpu")
needed = pytest.mark.skipif(not multiplies(), reason="no compiled products for this CPU")


def matrices() -> list[RowInt8]:
    random = torch.Generator().manual_seed(0)
    return [quantise_rows(torch.randn(n, k, generator=random)) for n, k in [(48, 32), (32, 96)]]


def both(product: Product, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes out, and the gradient of a number that all of it has a part in."""
    x = torch.randn(300, width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = product(x)
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@needed
def test_compiled_products_and_their_gradients_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = products(matrices(), torch.float32, CPU)
    monkeypatch.setattr(module, "multiplies", lambda: False)
    plain = products(matrices(), torch.float32, CPU)
    assert all(product.func is module._apply for product in compiled)  # type: ignore[attr-defined]
    for ours, right, matrix in zip(compiled, plain, matrices(), strict=True):
        for got, wanted in zip(both(ours, shape(matrix)[1]), both(right, shape(matrix)[1]), strict=True):
            assert (got - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@needed
def test_matrices_that_learn_are_rounded_in_products_and_get_their_gradients() -> None:
    weights = [torch.nn.Parameter(whole(matrix) + 1e-3 * torch.randn(shape(matrix))) for matrix in matrices()]
    for product, weight in zip(rounded(weights, torch.round), weights, strict=True):
        slope = torch.randn(300, len(weight))
        x = torch.randn(300, weight.shape[1]).requires_grad_()
        product(x).backward(slope)
        rows = whole(quantise_rows(weight.detach()))
        assert x.grad is not None and weight.grad is not None
        for got, wanted in ((x.grad, slope @ rows), (weight.grad, slope.T @ x.detach())):
            assert (got - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def test_odd_widths_are_not_rounded() -> None:
    assert rounded([torch.randn(5, 24)], torch.round) == []


@needed
def test_what_nobody_learns_through_is_multiplied_all_the_same() -> None:
    head = matrices()[0]
    product = logits_of(head, whole(head))
    x = torch.randn(5, 32)
    torch.testing.assert_close(product(x), x @ whole(head).t(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_types_are_left_to_torch(kind: torch.dtype) -> None:
    (product,) = products(matrices()[:1], kind, CPU)
    x = torch.ones(2, 32, dtype=kind)
    assert torch.equal(product(x), x @ matrices()[0].float().to(kind).t())


def test_odd_widths_and_floats_are_left_to_torch() -> None:
    odd, exact = quantise_rows(torch.randn(5, 24)), torch.randn(16, 24)
    for product, matrix in zip(products([odd, exact], torch.float32, CPU), [odd, exact], strict=True):
        x = torch.randn(3, 24)
        assert torch.equal(product(x), x @ whole(matrix).t())


def test_stacked_rows_stay_in_eight_bits_where_all_are() -> None:
    first, second = quantise_rows(torch.randn(4, 8)), quantise_rows(torch.randn(2, 8))
    both = stacked([first, second])
    assert isinstance(both, RowInt8) and torch.equal(whole(both), torch.cat([whole(first), whole(second)]))
    mixed = stacked([first, torch.ones(1, 8)])
    assert torch.equal(whole(mixed), torch.cat([whole(first), torch.ones(1, 8)])) and shape(mixed) == (5, 8)
