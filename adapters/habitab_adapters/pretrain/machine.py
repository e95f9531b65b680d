"""What a device is trained on with: the type to compute in, the size of a batch, how often the host looks."""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from habitab_engine.errors import InputError

# Dense bfloat16 peaks in FLOP/s by a part of the device's name, from the makers' data sheets (SXM modules).
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
KINDS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# bfloat16 costs precision, so on a CPU it has to be this much faster: true with matrix units (AMX), hardly without.
WORTH = 1.3
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@dataclass(frozen=True, slots=True)
class Machine:
    """`kind` is computed in, and `batch_tokens` go through at once, which bounds what has to be kept for the backward.

    `compiled` wants few shapes; `peak` is in FLOP/s, 0 where it is not known.
    """

    device: torch.device
    kind: torch.dtype
    batch_tokens: int
    compiled: bool
    steps_between_reads: int
    peak: float

    @property
    def rounded(self) -> bool:
        """Whether steps may compute with rounded matrices: on CPUs without matrix units."""
        return self.device.type == "cpu" and self.kind == torch.float32

    @property
    def kind_name(self) -> str:
        """`kind` as a key of `KINDS`."""
        return str(self.kind).removeprefix("torch.")


def choose_machine(device: str, kind: str | None = None) -> Machine:
    """The machine for `device`: cpu, cuda, mps, or auto for the best there is. `kind` None: the faster one.

    Raises InputError for a device that is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(name for name, found in there.items() if found) if device == "auto" else device
    if not there.get(name, False):
        raise InputError(f"There is no device {device!r} here; choose auto, cpu, cuda or mps.")
    if name == "cpu":
        keep_memory()
        return Machine(torch.device("cpu"), KINDS[kind or faster_kind()], 4096, False, 1, 0.0)
    machine = Machine(torch.device(name), KINDS[kind or "bfloat16"], 4096, False, 8, 0.0)
    if name == "mps":
        return machine
    title = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAKS.items() if part in title and "PCIe" not in title), 0.0)
    return replace(machine, batch_tokens=32_768, compiled=True, peak=peak)


def faster_kind() -> str:
    """bfloat16 where this CPU multiplies it clearly faster than float32, or float32."""
    return "bfloat16" if WORTH * _seconds(torch.bfloat16) < _seconds(torch.float32) else "float32"


def _seconds(kind: torch.dtype) -> float:
    """The best of some timings of one product of the base's size."""
    x, w = torch.ones(512, 576, dtype=kind), torch.ones(1536, 576, dtype=kind)
    timings = []
    for _ in range(5):
        begun = time.perf_counter()
        functional.linear(x, w)
        timings.append(time.perf_counter() - begun)
    return min(timings)


def keep_memory() -> None:
    """Tells the C library to keep freed memory for the next batch.

    By default it hands large tensors back to the system, which clears every page anew (a fifth of a step's time).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl has not
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)
