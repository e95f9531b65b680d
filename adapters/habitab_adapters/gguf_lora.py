"""Writes an adapter as one GGUF file that llama.cpp adds to the base model's (`--lora`)."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from habitab_engine.base_files import ModelConfig
from habitab_engine.export import ARCHITECTURES, interleave, write_out
from habitab_engine.lora import Lora


def write_gguf_lora(lora: Lora, config: ModelConfig, file: Path) -> None:
    """Write `lora`, an adapter of the base of shape `config`, to `file`: keys and names as in convert_lora_to_gguf.py.

    float16 stays as it is, other numbers become float32. Raises OSError where the file cannot be written.
    """
    writer = gguf.GGUFWriter(file, config.model_type)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.alpha)
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.layers)
    for matrix, (a, b) in lora.factors.items():
        known = names.get_name(matrix, try_suffixes=(".weight",))
        writer.add_tensor(f"{known}.lora_a", a)
        writer.add_tensor(f"{known}.lora_b", _rows(matrix, b, config))
    write_out(writer)


def _rows(matrix: str, b: np.ndarray, config: ModelConfig) -> np.ndarray:
    """B `[out, rank]` in the order in which llama.cpp has the matrix's rows."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(matrix.split(".")[-2])
    return interleave(b, heads) if heads and config.model_type == "llama" else b
