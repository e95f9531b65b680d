"""A base model is read exactly or refused with a sentence that names the file and what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from habitab_engine import base_files
from habitab_engine.base_files import EMBEDDED, INDEX, SINGLE, Base, ModelConfig, identify, load_vocabulary
from habitab_engine.checkpoint import RowInt8, describe, load_checkpoint, quantise_rows
from habitab_engine.errors import BaseModelError, DamagedBaseError, MissingBaseError

os.environ["HF_HUB_OFFLINE"] = "1"
SHARD = "model-00002-of-00003.safetensors"
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA = {"model_type": "llama", **SMALL}


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """A folder like the embedded base; replace its files, never write into them."""
    folder = tmp_path / "twin"
    folder.mkdir()
    for path in EMBEDDED.glob("*.*"):
        if path.suffix in (".json", ".safetensors"):
            try:
                (folder / path.name).hardlink_to(path)
            except OSError:
                shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny Llama with random weights in one file."""
    import transformers

    torch.manual_seed(0)
    folder = tmp_path / "tiny"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).save_pretrained(folder)
    return folder


def put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def change(path: Path, **fields: Any) -> None:
    put(path, json.dumps(json.loads(path.read_text()) | fields).encode())


def refused(kind: type[BaseModelError], folder: Path, *words: str) -> None:
    with pytest.raises(kind) as caught:
        load_checkpoint(folder)
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert sentence.endswith(".") and "\n" not in sentence and "Error" not in sentence


def test_the_embedded_base_is_whole() -> None:
    base = load_checkpoint(None)
    assert base.base_id == "habitab-base-1"
    assert base.tensors.keys() == base.config.shapes().keys()
    embedding = base.tensors["model.embed_tokens.weight"]
    assert isinstance(embedding, RowInt8) and embedding.float().shape == (32768, 576)
    assert all(isinstance(t, RowInt8) or (t.dim() == 1 and t.dtype == torch.float32) for t in base.tensors.values())


def test_the_description_counts_and_names_what_is_there() -> None:
    facts = describe(None)
    index = json.loads((EMBEDDED / INDEX).read_text())
    assert facts["shards"] == index["sha256"]
    assert facts["bytes"] == index["metadata"]["total_size"]
    assert (facts["parameters"], facts["layers"], facts["vocabulary"]) == (125_077_824, 30, 32_768)
    assert (facts["family"], facts["template"], facts["licence"]) == ("llama", "habitab", "Apache-2.0")
    assert json.loads(json.dumps(facts)) == facts


def test_a_flipped_bit_is_detected_and_the_file_named(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((twin / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    put(twin / SHARD, bytes(content))
    refused(DamagedBaseError, twin, SHARD, "copy the model's folder again")
    monkeypatch.setattr(base_files, "EMBEDDED", twin)
    for read in (load_checkpoint, identify):
        with pytest.raises(DamagedBaseError, match="reinstall habitab"):
            read(None)


def test_the_same_weights_have_the_same_identity_and_others_another(twin: Path, tiny: Path) -> None:
    assert load_checkpoint(twin).sha256 == load_checkpoint(None).sha256 != load_checkpoint(tiny).sha256
    for folder, name in ((None, "habitab-base-1"), (twin, "twin"), (tiny, tiny.name)):
        whole = load_checkpoint(folder)
        assert whole.base_id == name and identify(folder) == Base(whole.config, name, whole.sha256)


@pytest.mark.parametrize("size", [0, 4, 1000, -1])
def test_a_shard_cut_anywhere_is_damaged(twin: Path, size: int) -> None:
    put(twin / SHARD, (twin / SHARD).read_bytes()[:size])
    refused(DamagedBaseError, twin, SHARD)


def test_a_cut_file_is_found_without_a_promised_checksum(tiny: Path) -> None:
    put(tiny / SINGLE, (tiny / SINGLE).read_bytes()[:-8])
    refused(DamagedBaseError, tiny, SINGLE)


@pytest.mark.parametrize("name", [SHARD, INDEX, "config.json"])
def test_a_missing_file_is_named(twin: Path, name: str) -> None:
    (twin / name).unlink()
    refused(MissingBaseError, twin, name)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(MissingBaseError, tmp_path / "nowhere", "nowhere", "does not exist")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_a_file_that_is_no_json_object_is_damaged(twin: Path, name: str, content: bytes) -> None:
    put(twin / name, content)
    refused(DamagedBaseError, twin, name)


@pytest.mark.parametrize("fields", [{"weight_map": {}}, {"weight_map": {"a": "../x.safetensors"}}, {"sha256": 1}])
def test_an_index_that_makes_no_sense_is_damaged(twin: Path, fields: dict[str, Any]) -> None:
    change(twin / INDEX, **fields)
    refused(DamagedBaseError, twin, INDEX)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"hidden_size": 512, "head_dim": None}, "model.embed_tokens.weight is 32768×576"),
        ({"num_hidden_layers": 31}, "model.layers.30.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 29}, "model.layers.29"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_key_value_heads": 2}, "heads"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_damaged(twin: Path, fields: dict[str, Any], word: str) -> None:
    change(twin / "config.json", **fields)
    refused(DamagedBaseError, twin, word)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "llama3"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"mlp_bias": True}, "MLP"),
        ({"attention_bias": True}, "attention"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantisation"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "sliding"),
    ],
)
def test_a_model_of_another_kind_is_refused_with_what_is_supported(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(BaseModelError, match=f"{word}.*llama and qwen2") as caught:
        ModelConfig.from_dict(LLAMA | fields)
    assert not isinstance(caught.value, DamagedBaseError)


def test_old_and_new_forms_of_the_config_are_read_alike() -> None:
    old = ModelConfig.from_dict(LLAMA | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}})
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}
    assert old == ModelConfig.from_dict(LLAMA | {"rope_parameters": rope})
    assert (old.rope_theta, old.rope_factor, old.head_dim, old.tied) == (5e5, 4.0, 8, False)
    fewer = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert ModelConfig.from_dict(fewer).kv_heads == 4
    assert ModelConfig.from_dict(LLAMA | {"rope_scaling": None}).rope_theta == 10_000


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_saved_hugging_face_model_is_read_exactly(tmp_path: Path, kind: str, shard_size: str, tied: bool) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SMALL, tie_word_embeddings=tied)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    base = load_checkpoint(tmp_path)
    state = model.state_dict()
    assert base.config.tied == tied and base.config.attention_bias == (kind == "Qwen2")
    assert base.tensors.keys() == state.keys() - ({"lm_head.weight"} if tied else set())
    for name, tensor in base.tensors.items():
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, state[name])


def test_pickled_weights_are_never_opened(tiny: Path) -> None:
    (tiny / SINGLE).rename(tiny / "pytorch_model.bin")
    refused(BaseModelError, tiny, "pickle", "safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.int32])
def test_weights_of_another_number_type_are_refused(tiny: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in load_file(tiny / SINGLE).items()}
    save_file(weights, tiny / SINGLE)
    refused(BaseModelError, tiny, str(dtype), "float16")


def test_a_scale_that_is_no_number_and_a_scale_too_few_are_damaged(tiny: Path) -> None:
    weights = load_file(tiny / SINGLE)
    rows = quantise_rows(weights["model.embed_tokens.weight"])
    good = weights | {"model.embed_tokens.weight": rows.values}
    name = "model.embed_tokens.weight_scale"
    save_file(good | {name: rows.scale}, tiny / SINGLE)
    assert isinstance(load_checkpoint(tiny).tensors["model.embed_tokens.weight"], RowInt8)
    save_file(good | {name: rows.scale * float("nan")}, tiny / SINGLE)
    refused(DamagedBaseError, tiny, "model.embed_tokens.weight", "finite")
    save_file(good | {name: rows.scale[:-1].clone()}, tiny / SINGLE)
    refused(DamagedBaseError, tiny, "model.embed_tokens.weight", "scale")


def test_a_tokenizer_of_another_model_is_refused(twin: Path, tiny: Path) -> None:
    config = load_checkpoint(tiny).config
    with pytest.raises(MissingBaseError, match=r"tokenizer\.json"):
        load_vocabulary(tiny, config)
    with pytest.raises(DamagedBaseError, match="32,768 entries, but the model has 96 rows"):
        load_vocabulary(twin, config)
    for content in (b"{}", b"not json", b'{"model": {"vocab": {}}, "added_tokens": []}'):
        put(twin / "tokenizer.json", content)
        with pytest.raises(DamagedBaseError, match=r"tokenizer\.json"):
            load_vocabulary(twin, load_checkpoint(twin).config)


def test_quantising_rows_is_exact_to_half_a_step_and_stable() -> None:
    w = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, 16)[:, None]
    w[3] = 0
    rows = quantise_rows(w)
    assert ((rows.float() - w).abs() <= rows.scale[:, None] * 0.5001).all()
    again = quantise_rows(rows.float())
    assert torch.equal(again.values, rows.values) and torch.equal(rows.float()[3], w[3])
