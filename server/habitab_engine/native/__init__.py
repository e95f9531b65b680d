"""The network's decode step compiled from `step.c`, where the package was built with a C compiler: `Native`.

One thread owns a `Native`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from habitab_engine.kernels import Weight

VARIANTS = ("avx512", "avx2", "plain")
MOST = 8  # tokens of a call
_WIDTH, _STRIDE = 16, 64  # all widths are multiples of the one, rows of weights of the other
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
    return not any(n % _WIDTH for n in (width, inner, d)) and d <= _MOST_HEAD and h // g <= _MOST_SHARED


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    library.habitab_open.restype = _Pointer
    library.habitab_open.argtypes = (ctypes.POINTER(_Network), _Int, _Int)
    library.habitab_close.argtypes = (_Pointer,)
    library.habitab_run.argtypes = (_Pointer, _Pointer, _Int, _Int, _Pointer, ctypes.c_int64)
    library.habitab_logits.argtypes = (_Pointer, _Pointer, _Int, _Pointer)
    return library


def _bytes(weight: Weight) -> int:
    n, k = weight.values.shape
    return n * -(-k // _STRIDE) * _STRIDE


class Native:
    """A network whose steps run in `step.c`: `run` for the blocks, `logits` for the head."""

    def __init__(
        self,
        blocks: Sequence[Sequence[Weight]],
        head: Weight,
        heads: tuple[int, int, int],
        cis: Tensor,
        eps: float,
    ) -> None:
        """`blocks` are q+k+v, output, gate+up and down of each; `heads` are H, G and D; `cis` complex64
        `[positions, D/2]`; `eps` belongs to the sum of squares.

        Raises RuntimeError where there is no library, or the shapes are none that it can compute.
        """
        self.most, self.cached = MOST, torch.float16
        self._library, self._keep = _library(), [cis]
        width, (h, g, d) = head.values.shape[1], heads
        inner = blocks[0][3].values.shape[1] if blocks else width
        if not knows(width, inner, heads):
            raise RuntimeError("The compiled step does not know networks of this shape.")
        size = sum(map(_bytes, (head, *itertools.chain(*blocks))))
        self._room, self._used = torch.empty(size, dtype=torch.int8), 0
        packed = (_Block * len(blocks))(*(_Block(*map(self._layer, block)) for block in blocks))
        network = _Network(
            len(blocks), width, h, g, d, inner, eps, packed, self._layer(head), torch.view_as_real(cis).data_ptr()
        )
        self._vocab, self._blocks = len(head.values), packed
        self.head_rows = self._room[self._used - _bytes(head) : self._used].view(self._vocab, -1)[:, :width]
        self._state = self._library.habitab_open(ctypes.byref(network), torch.get_num_threads(), len(cis))
        if not self._state:
            raise RuntimeError("There is no memory for the compiled step.")
        weakref.finalize(self, self._library.habitab_close, self._state)

    def _layer(self, weight: Weight) -> _Layer:
        """Copies the weight's rows, in the order in which they are going to be read."""
        n, k = weight.values.shape
        rows = self._room[self._used : self._used + _bytes(weight)].view(n, -1)
        self._used += rows.numel()
        rows.zero_()[:, :k] = weight.values
        vectors = [None if v is None else v.float().contiguous() for v in (weight.scale, weight.gain, weight.bias)]
        self._keep += [v for v in vectors if v is not None]
        return _Layer(rows.data_ptr(), *(v if v is None else v.data_ptr() for v in vectors), n, k, rows.shape[1])

    def run(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """M embedded tokens `[M, width]`, at most `MOST`, through all blocks, in place; returns `x`.

        Their keys and values go to `cache`, as `attention.py` has it, from `position` on.
        """
        self._library.habitab_run(self._state, x.data_ptr(), len(x), position, cache.data_ptr(), cache.stride(0))
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits `[M, V]` after M hidden states `[M, width]`."""
        hidden, out = hidden.contiguous(), torch.empty(len(hidden), self._vocab)
        for some, to in zip(hidden.split(MOST), out.split(MOST), strict=True):
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
