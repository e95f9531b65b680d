"""Every kernel computes the same product, and the probe never takes one that does not."""

from __future__ import annotations

import pytest
import torch

from conftest import needs
from habitab_engine import kernels
from habitab_engine.kernels import PREFILL, VECTOR, Kernels, Linear, Weight, choose, vector


def weight(rows: int = 48, columns: int = 64) -> Weight:
    g = torch.Generator().manual_seed(1)
    return Weight(
        torch.randint(-127, 128, (rows, columns), generator=g, dtype=torch.int8),
        torch.rand(rows, generator=g) * 1e-2 + 1e-3,
        torch.rand(columns, generator=g) + 0.5,
        torch.randn(rows, generator=g),
    )


def exact(w: Weight, x: torch.Tensor) -> torch.Tensor:
    return x.double() @ w.dequantised().double().t() + w.bias.double()


# Largest error relative to the largest result: bfloat16 keeps 8 bits of an activation, two int8 planes 15.
ERROR = {"float32": 1e-5, "bag": 1e-5, "int8": 5e-4, "bf16": 1e-2}


@pytest.mark.parametrize("name", PREFILL)
def test_rows_equal_the_exact_product_within_the_kernels_precision(name: str) -> None:
    needs(name)
    w, x = weight(), torch.randn(7, 64)
    got, right = Linear(w, Kernels(name, "float32")).rows(x), exact(w, x)
    assert (got - right).abs().max() <= ERROR[name] * right.abs().max()


@pytest.mark.parametrize("rows", [48, 960, 961])
@pytest.mark.parametrize("name", VECTOR)
def test_vector_equals_the_exact_product_within_the_kernels_precision(name: str, rows: int) -> None:
    w, x = weight(rows), torch.randn(64)
    packed = Linear(w, Kernels("float32", name)).packed
    got, right = vector(packed, x.expand(packed.bags, -1)), exact(w, x)
    assert (got - right).abs().max() <= ERROR[name] * right.abs().max()


def test_a_row_of_the_integer_kernel_does_not_depend_on_its_neighbours() -> None:
    needs("int8")
    rows = Linear(weight(), Kernels("int8", "float32")).rows
    x = torch.randn(5, 64)
    assert torch.equal(rows(x)[2], rows(torch.cat([x[2:3], 1000 * x]))[0])


def test_the_integer_kernel_survives_zeros_and_extreme_rows() -> None:
    needs("int8")
    w = Weight(torch.full((4, 64), 127, dtype=torch.int8), torch.ones(4))
    x = torch.stack([torch.zeros(64), torch.full((64,), 3e30), torch.full((64,), -1e-20)])
    got = Linear(w, Kernels("int8", "float32")).rows(x)
    torch.testing.assert_close(got, x @ w.dequantised().t(), rtol=1e-3, atol=0)


def test_the_plain_path_can_be_forced() -> None:
    assert choose("float32") == Kernels("float32", "float32")


@pytest.mark.parametrize("name", PREFILL[:2])
def test_a_prefill_kernel_can_be_forced_where_it_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "usable", lambda prefill: True)
    assert choose(name).prefill == name
    monkeypatch.setattr(kernels, "usable", lambda prefill: False)
    assert choose(name).prefill == "float32"


def test_the_probe_passes_over_kernels_that_are_wrong_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(w: Weight) -> object:
        raise RuntimeError("not compiled in")

    monkeypatch.setitem(kernels._PREFILL, "int8", missing)
    monkeypatch.setitem(kernels._PREFILL, "bf16", lambda w: lambda x: torch.zeros(len(x), len(w.scale)))
    monkeypatch.setitem(kernels._PACK, "bag", missing)
    monkeypatch.setattr(kernels, "fills", lambda head: False)
    assert choose().prefill == "float32"
    assert choose().decode != "bag"


def test_the_plain_path_holds_each_matrix_once() -> None:
    linear = Linear(weight(), Kernels("float32", "float32"))
    assert linear.rows.__closure__ is not None
    shared = [cell.cell_contents for cell in linear.rows.__closure__]
    assert any(tensor is linear.packed.table for tensor in shared)
