"""Writes a base model for other programs: Hugging Face's layout for transformers, GGUF for llama.cpp."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors import SafetensorError
from safetensors.torch import save_file

from habitab_engine.base_files import EMBEDDED, load_vocabulary
from habitab_engine.checkpoint import Checkpoint, load_checkpoint, whole
from habitab_engine.errors import BaseModelError, InputError
from habitab_engine.families import detect

CARD = "MODEL_CARD.md"
# The regular expression by which Qwen2's tokenizer cuts text; llama.cpp knows it by the name "qwen2".
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}
FIM_TOKENS = {
    gguf.Keys.Tokenizer.FIM_PRE_ID: ("<fim_prefix>", "<|fim_prefix|>"),
    gguf.Keys.Tokenizer.FIM_SUF_ID: ("<fim_suffix>", "<|fim_suffix|>"),
    gguf.Keys.Tokenizer.FIM_MID_ID: ("<fim_middle>", "<|fim_middle|>"),
    gguf.Keys.Tokenizer.FIM_PAD_ID: ("<fim_pad>", "<|fim_pad|>"),
    gguf.Keys.Tokenizer.FIM_SEP_ID: ("<file_sep>", "<|file_sep|>"),
}


def export_hf(folder: Path, base: Path | None = None) -> list[Path]:
    """Writes the base for `transformers` into `folder`; returns the files.

    Our int8 rows become float32, which holds them exactly; floats stay as they are. Raises InputError where a
    file of that name exists or cannot be written, and then leaves nothing behind.
    """
    checkpoint = load_checkpoint(base)
    writers: dict[str, Callable[[Path], object]] = {
        "model.safetensors": partial(_write_weights, checkpoint),
        "tokenizer.json": partial(shutil.copyfile, checkpoint.folder / "tokenizer.json"),
        "config.json": partial(_write_json, _hf_config(checkpoint)),
    }
    for name, generated in _hf_settings(checkpoint).items():
        source = checkpoint.folder / name
        copy, write = partial(shutil.copyfile, source), partial(_write_json, generated)
        writers[name] = copy if source.is_file() else write
    if checkpoint.folder == EMBEDDED:
        writers[CARD] = partial(shutil.copyfile, EMBEDDED / CARD)
    return _write_all(folder, writers)


def export_gguf(folder: Path, base: Path | None = None) -> list[Path]:
    """Writes `<base id>-f16.gguf` and `<base id>-q8_0.gguf` for llama.cpp into `folder`; returns both.

    Raises BaseModelError where llama.cpp would cut text into other tokens, InputError as `export_hf` does.
    """
    checkpoint = load_checkpoint(base)
    load_vocabulary(checkpoint.folder, checkpoint.config)
    tokenizer = json.loads((checkpoint.folder / "tokenizer.json").read_text(encoding="utf-8"))
    if not (pre := _gguf_pre_tokenizer(tokenizer)):
        raise BaseModelError(
            "The GGUF export knows the tokenizers of habitab and Qwen2 only; convert this model with "
            "llama.cpp's convert_hf_to_gguf.py."
        )
    kinds = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
    return _write_all(
        folder,
        {
            f"{checkpoint.base_id}-{name}.gguf": partial(_write_gguf, checkpoint, tokenizer, pre, kind)
            for name, kind in kinds.items()
        },
    )


def _write_all(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> list[Path]:
    """Every file or none: all are written beside their place and renamed when the last is complete."""
    if taken := [name for name in writers if (folder / name).exists()]:
        raise InputError(f"{folder / taken[0]} exists already; choose an empty folder or remove it first.")
    try:
        with _workplace(folder) as work:
            for name, write in writers.items():
                write(work / name)
            for name in writers:
                (work / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"The base cannot be written to {folder} ({why}); choose another folder.") from error
    return [folder / name for name in writers]


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, which exists afterwards only if it did before or all went well."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".habitab-", dir=folder) as work:
            yield Path(work)
    except BaseException:
        for place in missing:
            with suppress(OSError):  # never made, or someone has put something into it
                place.rmdir()
        raise


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(checkpoint: Checkpoint, path: Path) -> None:
    tensors = {name: whole(tensor).contiguous() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _hf_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The source's config with the type of the written weights; transformers 4 wants `rope_theta` outside."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    dtype = str(whole(next(iter(checkpoint.tensors.values()))).dtype).removeprefix("torch.")
    return config | {"dtype": dtype, "rope_theta": checkpoint.config.rope_theta}


def _hf_settings(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The small files beside the tokenizer, for a base that comes without them."""
    vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config)
    template = detect(vocabulary)
    ends = {"eos_token": template.stops[0], "pad_token": template.stops[0]} if template.stops else {}
    special = {"bos_token": template.bos, **ends} if template.bos else {**ends}
    others = [token for token in template.tokens if token not in special.values()]
    tokens: dict[str, Any] = {**special, "additional_special_tokens": others}
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": checkpoint.config.max_positions,
            **tokens,
        },
        "special_tokens_map.json": tokens,
        "generation_config.json": {f"{name}_id": vocabulary[token] for name, token in special.items()},
    }


def _gguf_pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way this tokenizer cuts text before merging, or nothing."""
    steps = tokenizer.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return ""
    if len(steps) == 1 and steps[0].get("use_regex", True):
        return "gpt-2"
    split = [step.get("pattern", {}).get("Regex") for step in steps[:-1]]
    return "qwen2" if split == [QWEN2_SPLIT] and not steps[-1].get("use_regex", True) else ""


def _write_gguf(
    checkpoint: Checkpoint, tokenizer: Mapping[str, Any], pre: str, kind: gguf.LlamaFileType, path: Path
) -> None:
    writer = gguf.GGUFWriter(path, checkpoint.config.model_type)
    _add_shape(writer, checkpoint, kind)
    _add_tokenizer(writer, checkpoint, tokenizer, pre)
    _add_tensors(writer, checkpoint, q8=kind == gguf.LlamaFileType.MOSTLY_Q8_0)
    write_out(writer)


def write_out(writer: gguf.GGUFWriter) -> None:
    """Write all that was added to its file, and close it."""
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_shape(writer: gguf.GGUFWriter, checkpoint: Checkpoint, kind: gguf.LlamaFileType) -> None:
    config = checkpoint.config
    writer.add_name(checkpoint.base_id)
    writer.add_file_type(kind)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.mlp)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab)
    if config.rope_factor != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_factor)


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Checkpoint, tokenizer: Mapping[str, Any], pre: str) -> None:
    vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config)
    tokens, types = _token_table(vocabulary, tokenizer["added_tokens"], checkpoint.config.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # Older tokenizer files write a merge as one string, newer ones as a pair.
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_add_bos_token(False)
    if stops := detect(vocabulary).stops:
        writer.add_bos_token_id(vocabulary[stops[0]])
        writer.add_eos_token_id(vocabulary[stops[0]])
    for key, names in FIM_TOKENS.items():
        for name in vocabulary.keys() & set(names):
            writer.add_uint32(key, vocabulary[name])


def _token_table(
    vocabulary: Mapping[str, int], added: list[dict[str, Any]], rows: int
) -> tuple[list[str], list[gguf.TokenType]]:
    """Name and type of every row, in order; rows without a token are padding."""
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [gguf.TokenType.UNUSED] * rows
    for token, row in vocabulary.items():
        tokens[row], types[row] = token, gguf.TokenType.NORMAL
    for entry in added:
        kind = gguf.TokenType.CONTROL if entry["special"] else gguf.TokenType.USER_DEFINED
        types[entry["id"]] = kind
    return tokens, types


def _add_tensors(writer: gguf.GGUFWriter, checkpoint: Checkpoint, q8: bool) -> None:
    config = checkpoint.config
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.layers)
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}
    for name, tensor in checkpoint.tensors.items():
        array = whole(tensor).float().numpy()
        projection = name.split(".")[-2]
        if config.model_type == "llama" and projection in heads:
            array = interleave(array, heads[projection])
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, f"gguf has no name for {name}"
        _add_tensor(writer, known, array, q8)


def interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring rows of a Llama head, Hugging Face's layout its two halves."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(array.shape)


def _add_tensor(writer: gguf.GGUFWriter, name: str, array: np.ndarray, q8: bool) -> None:
    """Vectors stay float32; a row that is no whole number of Q8_0's blocks of 32 stays float16."""
    if array.ndim == 1:
        writer.add_tensor(name, array)
    elif q8 and array.shape[1] % 32 == 0:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, array.astype(np.float16))
