"""The network compiled from `step.c`, where the package was built with a C compiler: `Native`.

A few tokens at once everywhere; many (`fill`) on x86 CPUs with matrix units or with AVX2 alone, from the same copy of
the weights. `Products` are the same matrix products without a network. One thread owns a `Native` or `Products`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from habitab_engine.kernels import Weight

VARIANTS = ("amx", "avx512", "avx2", "plain")
MOST, MOST_FILLED = 8, 256  # tokens of a step, and of a fill
WIDTH, _STRIDE = 16, 64  # all widths are multiples of the one, stored rows of weights of the other
_ROWS = 16  # of weights that are stored together, four bytes of each in turn
_ZERO = 128  # a weight is stored as a byte, so much larger
_MOST_HEAD, _MOST_SHARED = 128, 16  # floats of a head, heads of a group

_Pointer, _Int = ctypes.c_void_p, ctypes.c_int32


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("rows", "scale", "gain", "bias")),
        *((name, _Int) for name in ("n", "k", "stride")),
    )


class _Block(ctypes.Structure):
    _fields_ = tuple((name, _Layer) for name in ("qkv", "output", "gate_up", "down"))


class _Network(ctypes.Structure):
    _fields_ = (
        *((name, _Int) for name in ("layers", "width", "heads", "groups", "size", "inner")),
        ("eps", ctypes.c_float),
        ("blocks", ctypes.POINTER(_Block)),
        ("head", _Layer),
        ("turns", _Pointer),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    """The best variant for this CPU. Raises RuntimeError where there is none."""
    for path in (Path(__file__).parent / f"step-{name}.so" for name in VARIANTS):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        if library.habitab_fits():
            return _typed(library)
    raise RuntimeError("habitab was installed without its compiled step, or it does not fit this CPU.")


def available() -> bool:
    """Whether there is a compiled step for this CPU."""
    try:
        _library()
    except RuntimeError:
        return False
    return True


def knows(width: int, inner: int, heads: tuple[int, int, int]) -> bool:
    """Whether networks of this shape can be computed; `heads` are H, G and D."""
    h, g, d = heads
    return not any(n % WIDTH for n in (width, inner, d)) and d <= _MOST_HEAD and h // g <= _MOST_SHARED


def fills(head: int) -> bool:
    """Whether many tokens at once can be computed, with heads of this width."""
    columns = _library().habitab_filled() if available() else 0
    return bool(columns) and head % columns == 0


def multiplies() -> bool:
    """Whether there are `Products`."""
    return available() and _library().habitab_filled() > 0


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    library.habitab_open.restype = _Pointer
    library.habitab_open.argtypes = (ctypes.POINTER(_Network), _Int, _Int)
    library.habitab_close.argtypes = (_Pointer,)
    library.habitab_run.argtypes = (_Pointer, _Pointer, _Int, _Int, _Pointer, ctypes.c_int64)
    if library.habitab_filled():
        library.habitab_fill.argtypes = (_Pointer, _Pointer, _Int, _Int, _Pointer, _Int)
        library.habitab_multiply.argtypes = (_Pointer, ctypes.POINTER(_Layer), _Pointer, _Int, _Pointer)
    library.habitab_logits.argtypes = (_Pointer, _Pointer, _Int, _Pointer)
    return library


def _up(n: int, to: int) -> int:
    """`n` or the next multiple of `to`."""
    return -(-n // to) * to


def _bytes(weight: Weight) -> int:
    n, k = weight.values.shape
    return _up(n, _ROWS) * _up(k, _STRIDE)


def _padded(vector: Tensor | None, rows: int) -> Tensor | None:
    """In float32, with zeros up to `rows`."""
    return vector if vector is None else functional.pad(vector.float(), (0, rows - len(vector))).contiguous()


class _Store:
    """Matrices in the order in which they are going to be read, in one piece of memory of `size` bytes."""

    def __init__(self, size: int) -> None:
        self._room, self._used = torch.empty(size, dtype=torch.uint8), 0
        self._keep: list[Tensor] = []

    def layer(self, weight: Weight) -> _Layer:
        """Copies the weight."""
        n, k = weight.values.shape
        rows, stride = _up(n, _ROWS), _up(k, _STRIDE)
        room = self._room[self._used : self._used + rows * stride]
        self._used += room.numel()
        # A word of four bytes at a time: [N / ROWS, ROWS, K / 4] to [N / ROWS, K / 4, ROWS].
        whole = torch.full((rows, stride), _ZERO, dtype=torch.uint8)
        whole[:n, :k] = weight.values.view(torch.uint8) ^ _ZERO
        words = whole.view(torch.int32).view(rows // _ROWS, _ROWS, -1)
        room.view(torch.int32).view(rows // _ROWS, -1, _ROWS).copy_(words.transpose(1, 2))
        gain = None if weight.gain is None else weight.gain.float().contiguous()
        vectors = [_padded(weight.scale, rows), gain, _padded(weight.bias, rows)]
        self._keep += [v for v in vectors if v is not None]
        return _Layer(room.data_ptr(), *(v if v is None else v.data_ptr() for v in vectors), n, k, stride)

    def last(self, size: int) -> Tensor:
        """The bytes that were copied last."""
        return self._room[self._used - size : self._used]


def _opened(library: ctypes.CDLL, owner: object, network: _Network, threads: int, positions: int) -> int:
    """The state of the compiled code, as long as `owner` is there."""
    state = library.habitab_open(ctypes.byref(network), threads or torch.get_num_threads(), positions)
    if not state:
        raise RuntimeError("There is no memory for the compiled step.")
    weakref.finalize(owner, library.habitab_close, state)
    return int(state)


class Products:
    """Matrices that are multiplied one at a time, in the arithmetic of `Native`; only where something `multiplies`."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        """Raises RuntimeError where a width is none that can be computed."""
        self._library = _library()
        self._store = _Store(sum(map(_bytes, weights)))
        self._layers = [self._store.layer(weight) for weight in weights]
        widest = max(layer.k for layer in self._layers)
        if any(layer.k % WIDTH for layer in self._layers):
            raise RuntimeError("The compiled products know no matrices of this shape.")
        network = _Network(0, WIDTH, 1, 1, WIDTH, widest, 0.0, None, self._layers[0], None)
        self._state = _opened(self._library, self, network, 0, 0)

    def multiply(self, which: int, x: Tensor) -> Tensor:
        """`[M, K]` to `[M, N]`, both float32."""
        layer, x = self._layers[which], x.contiguous()
        out = torch.empty(len(x), layer.n)
        for some, to in zip(x.split(MOST_FILLED), out.split(MOST_FILLED), strict=True):
            self._library.habitab_multiply(self._state, ctypes.byref(layer), some.data_ptr(), len(some), to.data_ptr())
        return out


class Native:
    """A network whose steps run in `step.c`: `run` for the blocks, `logits` for the head."""

    def __init__(
        self,
        blocks: Iterable[Sequence[Weight]],
        head: Weight,
        heads: tuple[int, int, int],
        cis: Tensor,
        eps: float,
        layers: int = 0,
        threads: int = 0,
    ) -> None:
        """`blocks` are q+k+v, output, gate+up and down of each of the `layers`, taken one by one; `heads` are H, G and
        D; `cis` complex64 `[positions, D/2]`; `eps` belongs to the sum of squares; `threads` 0 are as many as torch's.

        Raises RuntimeError where there is no library, or the shapes are none that it can compute.
        """
        self.most, self.cached = MOST, torch.float16
        self._library, self._cis = _library(), cis
        width, (h, g, d) = head.values.shape[1], heads
        rest = iter(blocks)
        first = next(rest, ())
        inner = first[3].values.shape[1] if first else width
        if not knows(width, inner, heads):
            raise RuntimeError("The compiled step does not know networks of this shape.")
        self._store, self._width = _Store(_bytes(head) + layers * sum(map(_bytes, first))), width
        packed = (_Block * layers)(
            *(_Block(*map(self._store.layer, block)) for block in itertools.chain([first], rest) if block)
        )
        network = _Network(
            layers, width, h, g, d, inner, eps, packed, self._store.layer(head), torch.view_as_real(cis).data_ptr()
        )
        self._vocab, self._blocks = len(head.values), packed
        self._head, self._scale = self._store.last(_bytes(head)), head.scale
        self._state = _opened(self._library, self, network, threads, len(cis))
        self._rows = MOST_FILLED if multiplies() else MOST  # whose logits are computed together

    def embedded(self, ids: Tensor) -> Tensor:
        """The head's rows `[M, width]` in float32, for bases whose embeddings they are."""
        words = self._head.view(torch.int32).view(-1, _up(self._width, _STRIDE) // 4, _ROWS)
        rows = words[ids // _ROWS, :, ids % _ROWS].view(torch.uint8)[:, : self._width]
        return (rows.float() - _ZERO) * self._scale[ids, None]

    def run(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """M embedded tokens `[M, width]`, at most `MOST`, through all blocks, in place; returns `x`.

        Their keys and values go to `cache`, as `attention.py` has it, from `position` on.
        """
        self._library.habitab_run(self._state, x.data_ptr(), len(x), position, cache.data_ptr(), cache.stride(0))
        return x

    def fill(self, x: Tensor, layer: Tensor, position: int, index: int) -> None:
        """Many embedded tokens `[M, width]`, at most `MOST_FILLED`, through block `index`, in place; their keys and
        values go to this layer of the cache. Only where it `fills`."""
        self._library.habitab_fill(self._state, x.data_ptr(), len(x), position, layer.data_ptr(), index)

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits `[M, V]` after M hidden states `[M, width]`."""
        hidden, out = hidden.contiguous(), torch.empty(len(hidden), self._vocab)
        for some, to in zip(hidden.split(self._rows), out.split(self._rows), strict=True):
            self._library.habitab_logits(self._state, some.data_ptr(), len(some), to.data_ptr())
        return out

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps torch's own threads asleep: they would look for more work on the cores of the step's."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
