"""llama.cpp, given the exported base and the adapter's GGUF file, writes what the adapter writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from conftest import write_tiny
from habitab_adapters.archive import export_adapter
from habitab_adapters.gguf_lora import write_gguf_lora
from habitab_adapters.registry import Registry
from habitab_engine.base_files import EMBEDDED
from habitab_engine.checkpoint import Checkpoint, RowInt8, load_checkpoint
from habitab_engine.export import export_gguf
from habitab_engine.home import Home
from habitab_engine.kernels import Kernels
from habitab_engine.lora import Lora
from habitab_engine.merging import merged
from habitab_engine.model import Model
from llama import LlamaCpp
from loras import facts_of, random_lora

NEAR = 0.05
CODE = "<filename>a.js\n<fim_suffix>\n}\n<fim_middle>function add(a, b) {\n"
FAMILIES = {
    "llama": {},
    "llama-untied": {"tie_word_embeddings": False, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6},
}


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")).encode(CODE).ids


def lost(base: Checkpoint, lora: Lora | None, prompt: list[int], tokens: list[int]) -> float:
    """How far below our network's best token, given those before it, the worst of `tokens` is; in logits."""
    floats = {name: t.float() if isinstance(t, RowInt8) else t for name, t in base.tensors.items()}
    plain = replace(base, tensors=floats)
    model = Model(merged(plain, lora) if lora else plain, Kernels("float32", "float32"))
    text = prompt + tokens
    hidden = model.prefill(text, model.new_cache(len(text)), 0)
    logits = model.logits(hidden)[len(prompt) - 1 : -1]
    return float((logits.max(dim=1).values - logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_makes_the_choices_of_the_merged_model(family: str, tmp_path: Path, prompt: list[int]) -> None:
    base = load_checkpoint(write_tiny(tmp_path / family, **FAMILIES[family]))
    lora = random_lora(base, rank=8, alpha=24.0)
    write_gguf_lora(lora, base.config, tmp_path / "lora.gguf")
    f16 = export_gguf(tmp_path / "base", base.folder)[0]
    tokens = LlamaCpp(f16, tmp_path / "lora.gguf").greedy(prompt, 24)
    assert len(tokens) == 24
    assert lost(base, lora, prompt, tokens) < NEAR
    assert tokens != LlamaCpp(f16).greedy(prompt, 24)
    assert lost(base, None, prompt, tokens) > 1


def test_an_adapter_of_the_real_base_is_served_by_llama_cpp(tmp_path: Path, prompt: list[int]) -> None:
    base = load_checkpoint(None)
    registry = Registry(Home(tmp_path / "h", "ann"))
    registry.add(random_lora(base, rank=16, alpha=32.0, size=0.05), facts_of(base))
    export_adapter(registry, "v1", tmp_path / "lora.gguf", "gguf")
    assert (tmp_path / "lora.gguf").stat().st_size < 25e6
    f16, _ = export_gguf(tmp_path / "base")
    tokens = LlamaCpp(f16, tmp_path / "lora.gguf").greedy(prompt, 24)
    for file in (tmp_path / "base").iterdir():
        file.unlink()
    assert lost(base, registry.load("v1"), prompt, tokens) < NEAR
    assert lost(base, None, prompt, tokens) > 1


def test_the_file_says_what_it_is_and_of_which_matrices(tmp_path: Path, tiny_base: Path) -> None:
    base = load_checkpoint(tiny_base)
    lora = random_lora(base, rank=4, alpha=6.5, modules=("q_proj", "down_proj"))
    write_gguf_lora(lora, base.config, tmp_path / "lora.gguf")
    read = gguf.GGUFReader(tmp_path / "lora.gguf")
    keys = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
    assert [read.fields[key].contents() for key in keys] == ["adapter", "llama", "lora", 6.5]
    found = {tensor.name: tensor.data for tensor in read.tensors}
    matrices = [f"blk.{layer}.{name}.weight" for layer in range(2) for name in ("attn_q", "ffn_down")]
    assert found.keys() == {f"{matrix}.lora_{letter}" for matrix in matrices for letter in "ab"}
    assert {array.dtype for array in found.values()} == {np.dtype(np.float16)}
    a, b = lora.factors["model.layers.1.mlp.down_proj.weight"]
    assert np.array_equal(found["blk.1.ffn_down.weight.lora_a"], a)
    assert np.array_equal(found["blk.1.ffn_down.weight.lora_b"], b)


def test_float32_is_written_without_loss(tmp_path: Path, tiny_base: Path) -> None:
    base = load_checkpoint(tiny_base)
    lora = random_lora(base)
    factors = {name: (a.astype(np.float32) / 3, b.astype(np.float32) / 3) for name, (a, b) in lora.factors.items()}
    write_gguf_lora(replace(lora, factors=factors), base.config, tmp_path / "lora.gguf")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "lora.gguf").tensors}
    b = factors["model.layers.0.self_attn.v_proj.weight"][1]
    assert np.array_equal(found["blk.0.attn_v.weight.lora_b"], b)
