"""The compiled step computes what torch computes, the same for any number of tokens and threads, or is not there."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import write_tiny
from habitab_engine import kernels, native
from habitab_engine.attention import BLOCK
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.errors import Cancelled
from habitab_engine.kernels import Kernels, Weight, choose
from habitab_engine.model import Model
from habitab_engine.native import MOST, MOST_FILLED, VARIANTS, Native, Products
from habitab_engine.tokenizer import Tokenizer

FOLDER = Path(native.__file__).parent
needed = pytest.mark.skipif(not native.available(), reason="installed without a C compiler")
units = pytest.mark.skipif(not native.fills(64), reason="no fill for this CPU, or installed without a C compiler")
STEP, FILL = Kernels("float32", "native"), Kernels("native", "native")
TOKENS = [(37 * i) % 30_000 for i in range(2 * BLOCK + 20)]


def fits(name: str) -> bool:
    try:
        return bool(ctypes.CDLL(str(FOLDER / f"step-{name}.so")).habitab_fits())
    except OSError:
        return False


@pytest.fixture(autouse=True)
def one_library_a_test() -> Iterator[None]:
    yield
    native._library.cache_clear()


def product(weight: Weight, x: torch.Tensor) -> torch.Tensor:
    """The layer's product through the head of a network without blocks, whose norm is undone."""
    head = Native([], weight, (1, 1, 16), torch.ones(1, 8, dtype=torch.complex64), 0.0)
    return head.logits(x) * x.norm(dim=1, keepdim=True)


@needed
@pytest.mark.parametrize("name", list(filter(fits, VARIANTS)))
@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (33, 48), (961, 576), (64, 1536), (7, 2064)])
def test_every_variant_multiplies_exactly(name: str, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "VARIANTS", (name,))
    g = torch.Generator().manual_seed(rows)
    values = torch.randint(-128, 128, (rows, columns), generator=g, dtype=torch.int8)
    weight = Weight(values, torch.rand(rows, generator=g), torch.rand(columns, generator=g) + 0.5, torch.randn(rows))
    for m in (1, 2, MOST, MOST + 3):
        x = torch.randn(m, columns, generator=g)
        normed = x / x.norm(dim=1, keepdim=True)
        right = normed.double() @ weight.dequantised().double().t() + weight.bias.double()
        got = Native([], weight, (1, 1, 16), torch.ones(1, 8, dtype=torch.complex64), 0.0).logits(x)
        assert (got - right).abs().max() <= 1e-3 * right.abs().max()


@needed
def test_the_largest_weights_and_activations_do_not_overflow() -> None:
    weight = Weight(torch.full((4, 2048), -128, dtype=torch.int8), torch.ones(4))
    got = product(weight, torch.full((1, 2048), 1e6))
    torch.testing.assert_close(got, torch.full((1, 4), -128 * 2048 * 1e6), rtol=1e-4, atol=0)
    assert torch.equal(product(weight, torch.zeros(1, 2048)).nan_to_num(), torch.zeros(1, 4))


def logits(model: Model, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of `TOKENS`, given in pieces of the sizes in turn; and the cache."""
    cache, rows, position = model.new_cache(len(TOKENS)), [], 0
    while position < len(TOKENS):
        piece = TOKENS[position : position + sizes[len(rows) % len(sizes)]]
        rows.append(model.verify(piece, cache, position))
        position += len(piece)
    return torch.cat(rows), cache


@needed
@pytest.mark.parametrize("changes", [{}, {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}])
def test_the_step_equals_torch_across_blocks_of_the_cache(changes: dict[str, object], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_tiny(tmp_path / "tiny", **changes))
    right, _ = logits(Model(checkpoint, Kernels("float32", "bag")), [len(TOKENS)])
    got, _ = logits(Model(checkpoint, STEP), [1])
    assert (got - right).abs().max() <= 0.01 * right.abs().max()


@needed
def test_any_number_of_tokens_and_threads_gives_the_same_bits(tiny_base: Path) -> None:
    checkpoint, threads = load_checkpoint(tiny_base), torch.get_num_threads()
    found = []
    for count, sizes in [(1, [1]), (2, [MOST]), (3, [1, 2, 3, 4, 5, 6, 7])]:
        torch.set_num_threads(count)
        found.append(logits(Model(checkpoint, STEP), sizes))
    torch.set_num_threads(threads)
    for got, cache in found[1:]:
        assert torch.equal(got, found[0][0]) and torch.equal(cache, found[0][1])


def filled(model: Model, tokens: list[int], sizes: list[int], cache: torch.Tensor) -> torch.Tensor:
    """The last hidden states of `tokens`, given in pieces of these sizes."""
    rows, position = [], 0
    for size in sizes:
        rows.append(model.prefill(tokens[position : position + size], cache, position))
        position += size
    return torch.cat(rows)


@units
@pytest.mark.parametrize("sizes", [[276], [16, 260], [100, 28, 9, 139], [255, 21]])
def test_many_tokens_at_once_equal_steps(sizes: list[int]) -> None:
    """On the real base and real text: in random ones differences of bfloat16 look large."""
    checkpoint = load_checkpoint(None)
    model, size = Model(checkpoint, FILL), sum(sizes)
    tokens = Tokenizer(checkpoint.folder).encode(Path(__file__).read_text(encoding="utf-8"))[:size]
    one, many = model.new_cache(300), model.new_cache(300).fill_(float("nan"))
    right = model.logits(filled(model, tokens, [1] * size, one))
    got = model.logits(filled(model, tokens, sizes, many))
    assert (got - right).abs().max() <= kernels.BF16_TOLERANCE
    assert (got.argmax(1) == right.argmax(1)).float().mean() > 0.97
    assert model.decode(7, one, size).argmax() == model.decode(7, many, size).argmax()


@units
def test_the_products_of_many_tokens_have_the_bits_of_a_step(tmp_path: Path) -> None:
    """The first keys and values depend on products only."""
    model = Model(load_checkpoint(write_tiny(tmp_path / "wide", head_dim=64)), FILL)
    one, many = model.new_cache(BLOCK), model.new_cache(BLOCK)
    filled(model, TOKENS[:40], [1] * 40, one)
    filled(model, TOKENS[:40], [40], many)
    assert torch.equal(one[0], many[0]) and not torch.equal(one[0], torch.zeros_like(one[0]))


@units
def test_a_fill_stops_between_two_blocks_of_the_network(tmp_path: Path) -> None:
    model = Model(load_checkpoint(write_tiny(tmp_path / "wide", head_dim=64)), FILL)
    cache, asked = model.new_cache(BLOCK), iter([False, True])
    with pytest.raises(Cancelled):
        model.prefill(TOKENS[:40], cache, 0, lambda: next(asked))
    assert cache[0].any() and not cache[1].any()


@units
def test_heads_of_another_width_are_filled_by_torch(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this CPU can fill: matrix units take heads of 64 only."""
    monkeypatch.setattr("habitab_engine.model.fills", lambda head: head % 64 == 0)
    model = Model(load_checkpoint(tiny_base), FILL)
    assert model.kernels == Kernels("bf16" if kernels.usable("bf16") else "float32", "native")


@units
def test_logits_of_many_tokens_have_the_bits_of_those_of_a_few(tiny_base: Path) -> None:
    model = Model(load_checkpoint(tiny_base), STEP)
    hidden = torch.randn(MOST_FILLED + 5, model.config.width, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model.logits(some) for some in hidden.split(MOST)])
    assert torch.equal(model.logits(hidden), alone)


@units
def test_products_are_those_of_the_matrices() -> None:
    g = torch.Generator().manual_seed(1)
    shapes = [(33, 48), (961, 576), (64, 1536)]
    weights = [
        Weight(torch.randint(-128, 128, shape, generator=g, dtype=torch.int8), torch.rand(shape[0], generator=g))
        for shape in shapes
    ]
    made = Products(weights)
    for which, weight in enumerate(weights):
        for m in (1, 3, MOST_FILLED + 2):
            x = torch.randn(m, weight.values.shape[1], generator=g)
            right = x.double() @ weight.dequantised().double().t()
            assert (made.multiply(which, x) - right).abs().max() <= 1e-3 * right.abs().max()
    with pytest.raises(RuntimeError, match="shape"):
        Products([Weight(torch.ones(4, 24, dtype=torch.int8), torch.ones(4))])


@needed
def test_nothing_behind_the_last_position_is_read(tiny_base: Path) -> None:
    model = Model(load_checkpoint(tiny_base), STEP)
    clean, dirty = model.new_cache(BLOCK), model.new_cache(BLOCK).fill_(float("nan"))
    for position, token in enumerate(TOKENS[:20]):
        assert torch.equal(model.decode(token, clean, position), model.decode(token, dirty, position))


@needed
def test_the_probe_takes_the_step_where_it_is_and_torch_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose()
    assert chosen.decode == "native" and (chosen.prefill == "native") == native.fills(64)
    native._library.cache_clear()
    monkeypatch.setattr(native, "VARIANTS", ())
    assert not native.available()
    assert choose().decode in kernels.VECTOR and choose().prefill in kernels.PREFILL


@needed
def test_a_network_of_another_shape_is_left_to_torch() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        Native([], Weight(torch.ones(4, 24, dtype=torch.int8), torch.ones(4)), (1, 1, 16), torch.ones(1, 8) + 0j, 0.0)


@needed
def test_a_base_of_another_shape_is_served_by_torch(tmp_path: Path) -> None:
    model = Model(load_checkpoint(write_tiny(tmp_path / "odd", intermediate_size=100)), STEP)
    assert model.kernels.decode == "float32"
    assert model.decode(5, model.new_cache(BLOCK), 0).isfinite().all()


@pytest.fixture
def hook() -> object:
    spec = importlib.util.spec_from_file_location("native_build", FOLDER / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("failure", [None, OSError("no compiler"), subprocess.CalledProcessError(1, "cc")])
def test_without_a_compiler_the_package_is_built_all_the_same(
    failure: Exception | None, hook: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_args: object, **_options: object) -> None:
        assert failure is not None
        raise failure

    monkeypatch.setattr(hook, "HERE", tmp_path)
    monkeypatch.setattr(hook.shutil, "which", lambda name: None if failure is None else "/bin/cc")  # type: ignore[attr-defined]
    monkeypatch.setattr(hook.subprocess, "run", run)  # type: ignore[attr-defined]
    assert hook.compiled() == []  # type: ignore[attr-defined]
