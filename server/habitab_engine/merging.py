"""A base with an adapter's updates in its matrices."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from habitab_engine.adapters import Worn, active_version, verified
from habitab_engine.checkpoint import Checkpoint, RowInt8, at_random, quantise_rows
from habitab_engine.errors import AdapterError
from habitab_engine.lora import Lora, read_lora

ROWS = 128  # of a matrix that are quantised at once


def merged(checkpoint: Checkpoint, lora: Lora, pause: Callable[[], None] = lambda: None) -> Checkpoint:
    """The base with the updates in its matrices; the others are shared with `checkpoint`.

    Matrices in 8 bits are quantised anew, rounded at random (`at_random`): most weights move by less than a step, and
    rounded to the nearest they would all stay. The random numbers depend on the matrix's name alone, so the same
    adapter gives the same bytes. Float matrices become float32, where small updates are not lost either. `pause` is
    called before each matrix; it may block.
    """
    tensors = dict(checkpoint.tensors)
    for name in lora.factors:
        pause()
        tensors[name] = _updated(name, tensors[name], lora)
    return replace(checkpoint, tensors=tensors, sha256=_identity(checkpoint, lora))


def with_version(
    checkpoint: Checkpoint, adapters: Path, version: str, pause: Callable[[], None] = lambda: None
) -> Checkpoint:
    """The base with an adapter from the folder `adapters` (`Home.adapters`) merged in. Raises AdapterError."""
    folder = verified(adapters, version, checkpoint.base_id, checkpoint.sha256)
    return merged(checkpoint, read_lora(folder, checkpoint.base_id, checkpoint.config), pause)


def with_active(checkpoint: Checkpoint, adapters: Path) -> tuple[Checkpoint, Worn]:
    """The base with the active adapter merged in; as it is where there is none, or none that can be used."""
    asked: str | None = None
    try:
        asked = active_version(adapters) or ""
        return (with_version(checkpoint, adapters, asked) if asked else checkpoint), Worn(asked, asked)
    except AdapterError as error:
        return checkpoint, Worn("", asked, str(error))


def update_of(lora: Lora, name: str) -> Tensor:
    """What is added to the matrix `name`, float32 `[out, in]`."""
    a, b = _factors(lora, name)
    return (b @ a).mul_(lora.alpha / lora.rank)


def _factors(lora: Lora, name: str) -> tuple[Tensor, Tensor]:
    """A and B in float32."""
    a, b = lora.factors[name]
    return torch.from_numpy(a).float(), torch.from_numpy(b).float()


def _updated(name: str, tensor: Tensor | RowInt8, lora: Lora) -> Tensor | RowInt8:
    if not isinstance(tensor, RowInt8):
        return update_of(lora, name).add_(tensor.float())
    (a, b), strength = _factors(lora, name), lora.alpha / lora.rank
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    # Few rows at a time: what the system has to clear for large temporary tensors takes longer than the work.
    pieces = zip(tensor.values.split(ROWS), tensor.scale.split(ROWS), b.split(ROWS), strict=True)
    new = [
        quantise_rows((rows @ a).mul_(strength).add_(RowInt8(values, scale).float()), partial(at_random, random))
        for values, scale, rows in pieces
    ]
    return RowInt8(torch.cat([piece.values for piece in new]), torch.cat([piece.scale for piece in new]))


def _identity(checkpoint: Checkpoint, lora: Lora) -> str:
    """The sha256 of what goes into the merged weights."""
    digest = hashlib.sha256(f"{checkpoint.sha256} {lora.alpha / lora.rank!r}".encode())
    for name, factor in lora.named():
        digest.update(f" {name} ".encode())
        digest.update(factor.astype(np.float32).tobytes())
    return digest.hexdigest()
