"""Adapters: low-rank updates of a base's matrices (LoRA, arXiv 2106.09685) in PEFT's layout, read and written.

A folder is refused as a whole, with a sentence that says why, before anything is computed with it: it may come from
somebody else. Nothing here imports torch, which takes longer than all of it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from habitab_engine.adapters import CONFIG, WEIGHTS
from habitab_engine.base_files import PICKLES, ModelConfig
from habitab_engine.errors import AdapterError
from habitab_engine.home import open_private

MOST_RANK, MOST_ALPHA = 64, 1e6
MOST_BYTES, MOST_CONFIG_BYTES = 64_000_000, 100_000
# The kinds of numbers that are read, by safetensors' names; NumPy has no bfloat16.
FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}
_NAME = re.compile(r"base_model\.model\.(model\.layers\.\d+\.(?:self_attn|mlp)\.[a-z]+_proj)\.lora_([AB])\.weight")
# What PEFT knows besides plain LoRA, with the values that mean that it is not used.
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "bias": ("none",),
    **dict.fromkeys(("arrow_config", "kasa_config", "monteclora_config", "velora_config"), (None,)),
    **dict.fromkeys(("rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices"), (None, {}, [])),
    **dict.fromkeys(("fan_in_fan_out", "use_dora", "use_rslora", "lora_bias", "use_qalora"), (None, False)),
    **dict.fromkeys(("layer_replication", "target_parameters", "use_bdlora", "alora_invocation_tokens"), (None, [])),
}


Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank updates: W + alpha / rank · B·A, by the name of the matrix ("model.layers.0.mlp.up_proj.weight").

    `factors` are (A `[rank, in]`, B `[out, rank]`), as stored, those in bfloat16 as float32; `base_id` names the base
    they were made for.
    """

    rank: int
    alpha: float
    base_id: str
    factors: Mapping[str, tuple[Floats, Floats]]

    def scaled(self, factor: float) -> Lora:
        """The same update, `factor` times as large."""
        return replace(self, alpha=self.alpha * factor)

    def named(self) -> Iterator[tuple[str, Floats]]:
        """Every factor by its name in PEFT's layout, in the order of the matrices."""
        for name in sorted(self.factors):
            for letter, factor in zip("AB", self.factors[name], strict=True):
                yield _peft_name(name, letter), factor


def read_lora(folder: Path, base_id: str, config: ModelConfig) -> Lora:
    """The adapter in PEFT's two files in `folder`, for the base `base_id` of shape `config`.

    Raises AdapterError for whatever does not verify: another base, wrong shapes, a rank or size over the limit, NaN or
    infinity, tensors that are not expected, a pickle, a kind of adapter that habitab does not compute.
    """
    if pickles := sorted(path.name for pattern in PICKLES for path in folder.glob(pattern)):
        _refuse(folder, f"{pickles[0]} is a pickle file, which can run code when opened")
    fields = _fields(folder)
    rank, alpha = _checked(folder, fields, base_id)
    content = _read(folder, WEIGHTS, MOST_BYTES)
    try:
        stored = dict(deserialize(content))
    except (SafetensorError, ValueError) as error:
        raise AdapterError(f"The adapter in {folder} cannot be used: {WEIGHTS} is cut off or damaged.") from error
    shapes = _shapes(config, rank)
    tensors = {name: _tensor(folder, name, stored[name], shapes.get(name)) for name in sorted(stored)}
    if not tensors or any(_twin(name) not in tensors for name in tensors):
        _refuse(folder, "not every matrix that it changes has both its factors")
    factors = {
        f"{match[1]}.weight": (tensors[name], tensors[_twin(name)])
        for name in sorted(tensors)
        if (match := _NAME.fullmatch(name)) and match[2] == "A"
    }
    if not {_module(name) for name in factors} <= {str(name).rpartition(".")[2] for name in fields["target_modules"]}:
        _refuse(folder, f"the target_modules in {CONFIG} are not those of its tensors")
    return Lora(rank, alpha, base_id, factors)


def write_lora(folder: Path, lora: Lora) -> None:
    """PEFT's two files in `folder`, which only this person can read; tensors in float16.

    The same adapter gives the same bytes. Raises AdapterError, and leaves what was there, where a number is too large
    for float16 or the folder cannot be written.
    """
    with np.errstate(over="ignore"):
        tensors = {name: np.ascontiguousarray(factor, np.float16) for name, factor in lora.named()}
    if wrong := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise AdapterError(f"The adapter cannot be written: {wrong[0]} holds numbers beyond float16.")
    config = json.dumps(_peft_config(lora), indent=2) + "\n"
    files = {CONFIG: config.encode(), WEIGHTS: save(tensors, metadata={"format": "pt"})}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".habitab-", dir=folder) as work:
            for name, content in files.items():
                with open_private(Path(work) / name, "wb") as file:
                    file.write(content)
            for name in files:
                (Path(work) / name).replace(folder / name)
    except OSError as error:
        why = error.strerror or str(error)
        raise AdapterError(
            f"The adapter cannot be written to {folder} ({why}): make room or choose another."
        ) from error


# ---- the two files ----


def _peft_name(matrix: str, letter: str) -> str:
    return f"base_model.model.{matrix.removesuffix('.weight')}.lora_{letter}.weight"


def _twin(name: str) -> str:
    """The name of A for that of B, and the other way round."""
    return re.sub(r"lora_([AB])\.weight$", lambda m: f"lora_{'AB'[m[1] == 'A']}.weight", name)


def _module(matrix: str) -> str:
    """The last word of a matrix's name, by which PEFT knows it."""
    return matrix.split(".")[-2]


def _shapes(config: ModelConfig, rank: int) -> dict[str, tuple[int, int]]:
    """Every factor that an adapter of this rank may have, by its name in PEFT's layout."""
    shapes: dict[str, tuple[int, int]] = {}
    for name, shape in config.shapes().items():
        if name.endswith("_proj.weight"):
            shapes |= {_peft_name(name, "A"): (rank, shape[1]), _peft_name(name, "B"): (shape[0], rank)}
    return shapes


def _peft_config(lora: Lora) -> dict[str, Any]:
    """What PEFT 0.17 and later write for a LoRA, as far as it says anything."""
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": lora.base_id,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": sorted({_module(name) for name in lora.factors}),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _fields(folder: Path) -> dict[str, Any]:
    """What the configuration says, once it says so of a plain LoRA."""
    content = _read(folder, CONFIG, MOST_CONFIG_BYTES)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"The adapter in {folder} cannot be used: {CONFIG} is not JSON.") from error
    if not isinstance(fields, dict) or fields.get("peft_type") != "LORA":
        _refuse(folder, f"{CONFIG} does not describe a LoRA")
    for key, plain in _PLAIN.items():
        if fields.get(key, plain[0]) not in plain:
            _refuse(folder, f"its {key} asks for what habitab does not compute")
    return fields


def _checked(folder: Path, fields: Mapping[str, Any], base_id: str) -> tuple[int, float]:
    """Rank and alpha."""
    if (base := fields.get("base_model_name_or_path")) != base_id:
        _refuse(folder, f"it was made for the base model {base}, and this is {base_id}")
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MOST_RANK:
        _refuse(folder, f"its rank is not a whole number from 1 to {MOST_RANK}")
    if not isinstance(alpha, (int, float)) or not 0 < alpha <= MOST_ALPHA:
        _refuse(folder, f"its lora_alpha is not a number above 0, at most {MOST_ALPHA:,.0f}")
    if not isinstance(fields.get("target_modules"), list):
        _refuse(folder, "its target_modules are not a list of names")
    return rank, float(alpha)


def _read(folder: Path, name: str, most: int) -> bytes:
    path = folder / name
    try:
        if path.stat().st_size > most:
            _refuse(folder, f"{name} is larger than {most / 1e6:g} MB")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AdapterError(f"The adapter in {folder} cannot be used: {name} is missing.") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise AdapterError(f"The adapter in {folder} cannot be used: {name} cannot be read ({why}).") from error


def _tensor(folder: Path, name: str, stored: Mapping[str, Any], shape: tuple[int, int] | None) -> Floats:
    """What safetensors read of one factor, once it verifies."""
    if shape is None:
        _refuse(folder, f"the tensor {name} has no place in this base model")
    if tuple(stored["shape"]) != shape:
        found = "×".join(map(str, stored["shape"]))
        _refuse(folder, f"the tensor {name} is {found}, and {shape[0]}×{shape[1]} is wanted")
    if (kind := stored["dtype"]) not in FLOATS:
        _refuse(folder, f"the tensor {name} is stored as {kind}, and not as F16, BF16 or F32")
    tensor = np.frombuffer(stored["data"], FLOATS[kind]).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        tensor = (tensor.astype(np.uint32) << 16).view(np.float32)
    if not np.isfinite(tensor).all():
        _refuse(folder, f"the tensor {name} holds numbers that are not finite")
    return tensor


def _refuse(folder: Path, why: str) -> NoReturn:
    raise AdapterError(f"The adapter in {folder} cannot be used: {why}.")
