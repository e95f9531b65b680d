"""Trained weights as the package ships them: int8 rows with a scale each, in shards with their checksums.

Rounding is random, up as often as a weight is near the step above (arXiv 1502.02551). A run that starts from int8
weights begins on the very grid it ends on, and moves most of them by a tenth of a step: rounded to the nearest, they
would all go back, and with them everything that was learned.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from habitab_engine.base_files import INDEX
from habitab_engine.checkpoint import SCALE, RowInt8, at_random, load_checkpoint, quantise_rows
from habitab_engine.errors import InputError
from habitab_engine.home import sha256_of

SHARD_BYTES = 48_000_000
SEED = 0
# What the names and shapes in a shard's header may take.
HEADER_BYTES = 100_000


def quantise(source: Path, folder: Path, shard_bytes: int = SHARD_BYTES) -> dict[str, int]:
    """Writes the model in `source` to `folder` with its matrices in int8; returns bytes by file name.

    An error is less than its row's scale, max |w| / 127, and 0 on average; the same weights give the same bytes. Raises
    InputError where `folder` is not empty or cannot be written, and then leaves nothing behind; BaseModelError for a
    source that cannot be read.
    """
    checkpoint = load_checkpoint(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; choose an empty folder or remove it first.")
    stored = _stored(checkpoint.tensors)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".habitab-", dir=folder.parent) as work:
            place = Path(work) / "model"
            place.mkdir()
            for name in ("config.json", "tokenizer.json"):
                shutil.copyfile(checkpoint.folder / name, place / name)
            _write_shards(place, stored, shard_bytes)
            place.replace(folder)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"The model cannot be written to {folder} ({why}); choose another folder.") from error
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _stored(tensors: Mapping[str, Tensor | RowInt8]) -> dict[str, dict[str, Tensor]]:
    """By name, what is kept of each tensor: int8 values and their scales, or a vector in float32."""
    kept: dict[str, dict[str, Tensor]] = {}
    random = torch.Generator().manual_seed(SEED)
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.dim() == 1:
            kept[name] = {name: tensor.float().contiguous()}
        else:
            rows = tensor if isinstance(tensor, RowInt8) else quantise_rows(tensor, partial(at_random, random))
            kept[name] = {name: rows.values.contiguous(), name + SCALE: rows.scale.contiguous()}
    return kept


def _shards(stored: Mapping[str, dict[str, Tensor]], limit: int) -> Iterator[dict[str, Tensor]]:
    """Consecutive tensors together as long as they fit; values and scales are never parted."""
    shard: dict[str, Tensor] = {}
    for tensors in stored.values():
        if shard and _size(shard) + _size(tensors) + HEADER_BYTES > limit:
            yield shard
            shard = {}
        shard |= tensors
    yield shard


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _write_shards(place: Path, stored: Mapping[str, dict[str, Tensor]], limit: int) -> None:
    shards = list(_shards(stored, limit))
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, place / name, metadata={"format": "pt"})
    size = sum((place / name).stat().st_size for name in names)
    index = {
        "metadata": {"format": "int8 per row, scale float32", "total_size": size},
        "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
        "sha256": {name: sha256_of(place / name) for name in names},
    }
    (place / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
