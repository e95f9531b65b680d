"""Reads a base model from its folder and proves that it is whole before anything is computed with it.

Two kinds of folder are read: ours (int8 rows with a float32 scale each, sha256 of every shard in the index)
and Hugging Face's (`llama` or `qwen2`, safetensors in float16, bfloat16 or float32). Both have Hugging Face's
tensor names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import habitab_base
from habitab_engine.base_files import (
    EMBEDDED,
    ModelConfig,
    advice,
    base_id,
    check_digests,
    damaged,
    identity_of,
    load_config,
    load_vocabulary,
    place_of,
    shards_of,
)
from habitab_engine.errors import BaseModelError, DamagedBaseError
from habitab_engine.families import detect
from habitab_engine.home import sha256_of

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
SCALE = "_scale"


@dataclass(frozen=True, slots=True)
class RowInt8:
    """A matrix [N, K] in 8 bits: `values` int8 [N, K] times `scale` float32 [N], one a row."""

    values: Tensor
    scale: Tensor

    def float(self) -> Tensor:
        """The matrix in float32."""
        return self.values.float() * self.scale[:, None]


def whole(tensor: Tensor | RowInt8) -> Tensor:
    """A tensor of a checkpoint as numbers, whatever it is stored as."""
    return tensor.float() if isinstance(tensor, RowInt8) else tensor


def quantise_rows(w: Tensor, rounded: Callable[[Tensor], Tensor] = torch.round) -> RowInt8:
    """Each row of `w` [N, K] in steps of a 127th of its largest weight, -127…127; the error is that of `rounded`."""
    w = w.float()
    scale = w.abs().amax(dim=1) / 127
    values = rounded(w / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None])
    return RowInt8(values.clamp_(-127, 127).to(torch.int8), scale)


def at_random(random: torch.Generator, steps: Tensor) -> Tensor:
    """Whole numbers on one side or the other, the nearer one the likelier: the error is 0 on average
    (arXiv 1502.02551)."""
    below = steps.floor()
    return below + (torch.rand(steps.shape, generator=random) < steps - below)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole base model. `tensors` has exactly the names of `config.shapes()`; matrices of ours are RowInt8.

    The tensors may be mapped from the files: do not write into them. `sha256` names the weights as a whole,
    `shards` has the sha256 of each file.
    """

    folder: Path
    config: ModelConfig
    tensors: dict[str, Tensor | RowInt8]
    base_id: str
    sha256: str
    shards: dict[str, str] = field(default_factory=dict)


def load_checkpoint(folder: Path | None) -> Checkpoint:
    """Loads and verifies the base model in `folder` (None: the embedded one).

    Raises MissingBaseError, DamagedBaseError, or BaseModelError for a model of another kind. Shards are
    hashed in threads while they are read (0.15 s in all for ours), so every byte is checked on every load.
    """
    place = place_of(folder)
    config = load_config(place)
    shards, promised = shards_of(place)
    with ThreadPoolExecutor(max_workers=2) as pool:
        hashing = pool.map(sha256_of, shards)
        raw = {name: tensor for shard in shards for name, tensor in _read_shard(shard).items()}
        digests = dict(zip((s.name for s in shards), hashing, strict=True))
    check_digests(place, digests, promised)
    tensors = _select(place, config, _pair_scales(place, raw))
    return Checkpoint(place, config, tensors, base_id(place), identity_of(digests), digests)


def describe(folder: Path | None) -> dict[str, Any]:
    """What `habitab base info` prints; verifies the shards but computes nothing with them."""
    checkpoint = load_checkpoint(folder)
    config, place = checkpoint.config, checkpoint.folder
    return {
        "id": checkpoint.base_id,
        "sha256": checkpoint.sha256,
        "folder": str(place),
        "family": config.model_type,
        "template": detect(load_vocabulary(place, config)).name,
        "parameters": sum(math.prod(shape) for shape in config.shapes().values()),
        "layers": config.layers,
        "width": config.width,
        "vocabulary": config.vocab,
        "licence": habitab_base.LICENCE if place == EMBEDDED else "not stated",
        "bytes": sum((place / name).stat().st_size for name in checkpoint.shards),
        "shards": checkpoint.shards,
    }


def _read_shard(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise damaged(path, "it is cut off or not a safetensors file") from error


def _pair_scales(place: Path, raw: Mapping[str, Tensor]) -> dict[str, Tensor | RowInt8]:
    tensors: dict[str, Tensor | RowInt8] = {}
    for name, tensor in raw.items():
        scale = raw.get(name + SCALE)
        if tensor.dtype == torch.int8 and scale is not None:
            tensors[name] = RowInt8(tensor, scale)
        elif tensor.dtype in FLOATS:
            if not name.endswith("weight" + SCALE):
                tensors[name] = tensor
        else:
            raise BaseModelError(
                f"The tensor {name} in {place} is stored as {tensor.dtype}; habitab reads float16, bfloat16 "
                "and float32, and int8 with a scale for each row."
            )
    return tensors


def _select(place: Path, config: ModelConfig, tensors: Mapping[str, Tensor | RowInt8]) -> dict[str, Tensor | RowInt8]:
    """Exactly the tensors of the config, or DamagedBaseError."""
    shapes = config.shapes()
    ignored = {name for name in tensors if name.endswith("rotary_emb.inv_freq")}
    ignored |= {"lm_head.weight"} if config.tied else set()
    if strange := sorted(tensors.keys() - shapes.keys() - ignored):
        raise _misfit(place, f"the tensor {strange[0]} has no place in the model that config.json describes")
    for name, shape in shapes.items():
        _check_tensor(place, name, tensors.get(name), shape)
    return {name: tensors[name] for name in shapes}


def _check_tensor(place: Path, name: str, tensor: Tensor | RowInt8 | None, shape: tuple[int, ...]) -> None:
    if tensor is None:
        raise _misfit(place, f"the tensor {name} is missing")
    matrix = tensor.values if isinstance(tensor, RowInt8) else tensor
    if tuple(matrix.shape) != shape:
        raise _misfit(place, f"the tensor {name} is {_by(matrix.shape)}, config.json says {_by(shape)}")
    vector = tensor.scale if isinstance(tensor, RowInt8) else tensor
    if isinstance(tensor, RowInt8) and tuple(vector.shape) != shape[:1]:
        raise _misfit(place, f"the tensor {name} has not one scale for each row")
    # Only vectors: looking at every weight of a large model at every start would cost seconds.
    if vector.dim() == 1 and not bool(torch.isfinite(vector).all()):
        raise _misfit(place, f"the tensor {name} holds numbers that are not finite")


def _by(shape: Iterable[int]) -> str:
    return "×".join(str(size) for size in shape)


def _misfit(place: Path, why: str) -> DamagedBaseError:
    return DamagedBaseError(f"The base model in {place} is damaged: {why}; {advice(place)}.")
