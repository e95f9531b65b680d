"""Matrix products of one linear layer: one way for decode (a vector), one for prefill (many rows).

The weights are int8 per output row, `W[n, k] = values[n, k] · scale[n]`, or float32 with scales of 1. All kernels take
and return float32 and agree within the tolerances below, so that a KV cache filled by prefill and one filled by decode
are the same. Which are used is chosen by a short probe at start-up (`choose`); "float32" works on any CPU and can be
forced.

decode   native    `native/step.c`, the whole step at once, activations of 15 bits; where the package was built with a
                   compiler
         bag       FBGEMM's int8 embedding bag: a matrix-vector product is a weighted sum of the rows of Wᵀ, and
                   that kernel streams rows with prefetching, in float32, on both cores
         float32   plain
prefill  native    the same for many tokens, from the same copy of the weights: on matrix units, with attention in
                   bfloat16, or on CPUs with AVX2 alone, which multiply numbers of 16 bits twice as fast as floats
         int8      FBGEMM's packed product, with activations as two int8 planes, x ≈ s·(hi + lo / 254), about 15 bits
         bf16      integer weights, which bfloat16 holds exactly, in oneDNN's own order; for CPUs with matrix units
         float32   plain
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from habitab_engine.few import NUMBERS, Few, rows
from habitab_engine.native import Native, fills
from habitab_engine.step import VECTOR, Packed, vector

# Largest differences of a logit, which span about 40, from the plain path: of the integer
# kernels, and of what is in bfloat16.
TOLERANCE, BF16_TOLERANCE = 0.05, 0.5
PREFILL = ("int8", "bf16", "float32")  # those of torch
DECODE = ("native", *VECTOR)

_ZERO = 128  # FBGEMM's bytes are unsigned: value + 128
_BAG_WIDTH, _MOST_BAGS = 288, 256  # of the widths of a row that were tried, up to this one are the fastest
_NONE = torch.empty(0)
_PROBED = 128  # rows of a prefill, by which oneDNN chooses its order
_HEAD = 64  # width of the base's heads
_TURNS = 9  # timings of each kernel in the probe
# How much slower a kernel's product may be than the fastest: the first in order take less memory, and the native step
# saves what is between the products, too.
_SLACK = 2.0
_Probe = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Weight:
    """One linear layer, `[N, K]`: int8 `values` with float32 `scale` per row, an optional `bias` `[N]`, and the
    `gain` `[K]` of the RMSNorm before it, folded in (`y = (x · gain) Wᵀ + bias`)."""

    values: Tensor
    scale: Tensor
    gain: Tensor | None = None
    bias: Tensor | None = None

    def dequantised(self) -> Tensor:
        """The matrix in float32 with scale and gain in it; itself where it is that already."""
        if self.values.is_floating_point() and self.gain is None:
            return self.values
        full = self.values.float() * self.scale[:, None]
        return full if self.gain is None else full * self.gain


@dataclass(frozen=True, slots=True)
class Kernels:
    """The names of the chosen kernels."""

    prefill: str
    decode: str

    @property
    def tolerance(self) -> float:
        """The largest difference of a logit between a reused KV cache and a cold run."""
        return BF16_TOLERANCE if self.prefill in ("bf16", "native") else TOLERANCE


class Linear:
    """A weight packed for the chosen kernels; `bytes` is the weight's own size.

    `rows(x: [M, K]) -> [M, N]` for prefill in torch. For decode `packed` goes to `vector`, or what `give` returns to
    `Native`. Both are float32. `few` is there for the int8 kernel only.
    """

    def __init__(self, weight: Weight, kernels: Kernels, prefilled: bool = True) -> None:
        self.bytes = weight.values.nbytes + weight.scale.nbytes
        if kernels.prefill == kernels.decode == "float32":  # one copy of the large matrix serves both
            weight = Weight(weight.dequantised(), torch.ones_like(weight.scale), None, weight.bias)
        self.few = _pack_few(weight) if kernels.prefill == "int8" and prefilled else None
        if prefilled and kernels.prefill != "native":
            self.rows = functools.partial(rows, self.few) if self.few else _PREFILL[kernels.prefill](weight)
        self._weight: Weight | None = None
        if kernels.decode == "native":
            self._weight = weight
        else:
            self.packed = _PACK[kernels.decode](weight)

    def give(self) -> Weight:
        """The weight, once: whoever takes it makes a copy in an order of its own."""
        weight, self._weight = self._weight, None
        assert weight is not None
        return weight


def _plain_rows(weight: Weight) -> Callable[[Tensor], Tensor]:
    full, bias = weight.dequantised(), weight.bias
    return lambda x: functional.linear(x, full, bias)


def _bf16_rows(weight: Weight) -> Callable[[Tensor], Tensor]:
    product, scale, gain, bias = _bf16_product(weight.values.bfloat16()), weight.scale, weight.gain, weight.bias

    def rows(x: Tensor) -> Tensor:
        x = x if gain is None else x * gain
        y = product(x.bfloat16()).float().mul_(scale)
        return y if bias is None else y.add_(bias)

    return rows


def _bf16_product(whole: Tensor) -> Callable[[Tensor], Tensor]:
    """With oneDNN the weights are put into its order once; `linear` does it in every call, for half the time."""
    if not torch.backends.mkldnn.is_available():
        return lambda x: functional.linear(x, whole)
    ordered = torch.ops.mkldnn._reorder_linear_weight(whole, _PROBED)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, ordered, None, "none", [], "")


def _int8_rows(weight: Weight) -> Callable[[Tensor], Tensor]:
    return functools.partial(rows, _pack_few(weight))


def _pack_few(weight: Weight) -> Few:
    """For FBGEMM. Raises RuntimeError or AttributeError where torch is built without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # these types go in some later torch; the probe would notice
        none = torch.zeros(len(weight.scale), dtype=torch.int64)
        whole = torch._make_per_channel_quantized_tensor(weight.values, weight.scale.double(), none, 0)
        packed = torch.ops.quantized.linear_prepack(whole, None)
    gain = _NONE if weight.gain is None else weight.gain
    bias = _NONE if weight.bias is None else weight.bias
    return Few(packed, gain, bias, [torch.tensor(number) for number in NUMBERS])


def _pack(
    kernel: str, weight: Weight, table: Tensor, index: Tensor = _NONE, offsets: Tensor = _NONE, bags: int = 1
) -> Packed:
    gain = _NONE if weight.gain is None else weight.gain
    bias = _NONE if weight.bias is None else weight.bias
    return Packed(VECTOR.index(kernel), bags, table, weight.scale, gain, bias, index, offsets)


def _pack_plain(weight: Weight) -> Packed:
    plain = Weight(weight.values, torch.ones_like(weight.scale), None, weight.bias)
    return _pack("float32", plain, weight.dequantised())


def _pack_bag(weight: Weight) -> Packed:
    """y = Σₖ xₖ · Wᵀ[k], in `bags` equal parts of y: the rows of part b are b·K … b·K + K - 1."""
    (n, k), threads = weight.values.shape, torch.get_num_threads()
    even = [bags for bags in range(threads, _MOST_BAGS + 1, threads) if n % bags == 0]
    bags = next((bags for bags in even if n // bags <= _BAG_WIDTH), even[0] if even else 1)
    gain = torch.ones(k) if weight.gain is None else weight.gain
    # FBGEMM's row: the bytes, then float32 scale and offset; with them the norm's gain costs nothing.
    tail = torch.stack([gain, -_ZERO * gain], 1).float().contiguous().view(torch.uint8)
    unsigned = weight.values.view(torch.uint8).bitwise_xor(_ZERO)  # adds 128 to a byte
    table = torch.cat([torch.cat([part.t(), tail], 1) for part in unsigned.chunk(bags)])
    index = torch.arange(bags * k, dtype=torch.int32)
    return _pack("bag", weight, table, index, torch.arange(bags, dtype=torch.int32) * k, bags)


_PREFILL = {"int8": _int8_rows, "bf16": _bf16_rows, "float32": _plain_rows}
_PACK = {"bag": _pack_bag, "float32": _pack_plain}


def choose(wanted: str = "auto") -> Kernels:
    """Probe the kernels on a small layer and take the fastest that compute what they should.

    `wanted` = "float32" forces the plain path; another name of `PREFILL` forces that prefill kernel where this CPU
    computes it rightly (int8 needs VNNI: without it sums saturate).
    """
    if wanted == "float32":
        return Kernels("float32", "float32")
    weight, threads = _probe_weight(), torch.get_num_threads()
    # One thread: on a busy machine two wait for each other, and the kernel that has one only would seem the fastest.
    torch.set_num_threads(1)
    try:
        decode = _fastest(_decode_probes(weight))
        if wanted in PREFILL:
            return Kernels(wanted if usable(wanted) else "float32", decode)
        if decode == "native" and fills(_HEAD):
            return Kernels("native", decode)
        return Kernels(_fastest(_prefill_probes(weight)), decode)
    finally:
        torch.set_num_threads(threads)


@functools.cache
def usable(prefill: str) -> bool:
    """Whether this CPU, with this build of torch, computes the prefill kernel of that name, and rightly."""
    return _prefill_probes(_probe_weight())[prefill]() < float("inf")


def _probe_weight() -> Weight:
    """The base's gate and up layer, or so."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-127, 128, (3072, 576), generator=generator, dtype=torch.int8)
    return Weight(values, torch.full((3072,), 1e-3))


def _fastest(probes: dict[str, _Probe]) -> str:
    """The first name whose run is within `_SLACK` of the shortest.

    The runs take turns, as machines have moments.
    """
    seconds = dict.fromkeys(probes, float("inf"))
    for _ in range(_TURNS):
        for name, probe in probes.items():
            seconds[name] = min(seconds[name], probe())
    return next(name for name, taken in seconds.items() if taken <= _SLACK * min(seconds.values()))


def _prefill_probes(weight: Weight) -> dict[str, _Probe]:
    x = torch.linspace(-1, 1, _PROBED * 576).view(_PROBED, 576)
    right = x @ weight.dequantised().t()
    return {name: _probe(functools.partial(_PREFILL[name], weight), x, right) for name in PREFILL}


def _decode_probes(weight: Weight) -> dict[str, _Probe]:
    x = torch.linspace(-1, 1, 576)[None]
    right = weight.dequantised() @ x[0]

    def build(name: str) -> Callable[[Tensor], Tensor]:
        if name == "native":
            head = Native([], weight, (1, 1, 16), torch.ones(1, 8, dtype=torch.complex64), 0.0)
            return lambda x: head.logits(x)[0] * x.norm()
        packed = _PACK[name](weight)
        return lambda x: vector(packed, x.expand(packed.bags, -1))

    return {name: _probe(functools.partial(build, name), x, right) for name in DECODE}


def _probe(build: Callable[[], Callable[[Tensor], Tensor]], x: Tensor, right: Tensor) -> _Probe:
    """What times one run in seconds: infinity where the kernel is missing or wrong on this CPU.

    Integer kernels may saturate on CPUs without VNNI; a build of torch may lack FBGEMM.
    """
    try:
        run = build()
        exact = torch.allclose(run(x), right, rtol=0.02, atol=0.02 * float(right.abs().max()))
    except (RuntimeError, NotImplementedError, AttributeError):
        exact = False
    return (lambda: _timed(run, x)) if exact else (lambda: float("inf"))


def _timed(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter()
    run(x)
    return time.perf_counter() - start
