"""An adapter is read exactly or refused with a sentence, PEFT computes the same with it, no small update is lost."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from habitab_adapters.pretrain.quantise import quantise
from habitab_engine.adapters import CONFIG, WEIGHTS
from habitab_engine.checkpoint import Checkpoint, RowInt8, load_checkpoint
from habitab_engine.errors import AdapterError
from habitab_engine.export import export_hf
from habitab_engine.kernels import Kernels
from habitab_engine.lora import Lora, read_lora, write_lora
from habitab_engine.merging import merged, update_of
from habitab_engine.model import Model
from loras import random_lora

NAME = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
# PEFT asks transformers in an old way.
quiet = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TOKENS = [5, 17, 250, 3, 900, 41, 41, 7]


@pytest.fixture(scope="module")
def int8(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The tiny base as ours are: rows of 8 bits."""
    folder = tmp_path_factory.mktemp("int8") / "tiny8"
    quantise(tiny_base, folder)
    return load_checkpoint(folder)


@pytest.fixture
def written(int8: Checkpoint, tmp_path: Path) -> Path:
    write_lora(tmp_path / "v1", random_lora(int8))
    return tmp_path / "v1"


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    model = Model(checkpoint, Kernels("float32", "float32"))
    return model.logits(model.prefill(TOKENS, model.new_cache(64), 0))


def test_what_was_written_is_read_to_the_bit(int8: Checkpoint, written: Path) -> None:
    lora = random_lora(int8)
    again = read_lora(written, int8.base_id, int8.config)
    assert (again.rank, again.alpha, again.base_id) == (lora.rank, lora.alpha, "tiny8")
    assert again.factors.keys() == lora.factors.keys()
    for name, factors in lora.factors.items():
        assert all(map(np.array_equal, factors, again.factors[name]))


def test_bfloat16_is_read_without_loss(int8: Checkpoint, written: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(written / WEIGHTS).items()}
    save_file(tensors, written / WEIGHTS)
    found = dict(read_lora(written, int8.base_id, int8.config).named())
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensor.float().numpy()) for name, tensor in tensors.items())


def test_the_same_adapter_gives_the_same_files_for_its_owner_only(
    int8: Checkpoint, written: Path, tmp_path: Path
) -> None:
    write_lora(tmp_path / "twin", random_lora(int8))
    assert sorted(path.name for path in written.iterdir()) == [CONFIG, WEIGHTS]
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "twin" / path.name).read_bytes()
        assert sys.platform == "win32" or stat.S_IMODE(path.stat().st_mode) == 0o600


@quiet
@pytest.mark.parametrize("alpha", [8, 3.75])
def test_peft_computes_the_same_on_the_exported_base(int8: Checkpoint, alpha: float, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    write_lora(tmp_path / "v1", replace(random_lora(int8), alpha=alpha))
    export_hf(tmp_path / "hf", int8.folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    adapted = peft.PeftModel.from_pretrained(network, tmp_path / "v1")
    with torch.inference_mode():
        theirs = adapted(torch.tensor([TOKENS])).logits[0]
    floats = load_checkpoint(tmp_path / "hf")
    ours = logits(merged(floats, read_lora(tmp_path / "v1", "tiny8", floats.config)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - logits(floats)).abs().max() > 0.1


@quiet
def test_an_adapter_that_peft_wrote_is_read(int8: Checkpoint, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    export_hf(tmp_path / "hf", int8.folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    wanted = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(network, wanted)
    adapted.peft_config["default"].base_model_name_or_path = "tiny8"
    adapted.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    lora = read_lora(tmp_path / "theirs", "tiny8", int8.config)
    assert lora.rank == 4 and len(lora.factors) == 2 * int8.config.layers


def test_merged_weights_are_off_by_less_than_a_step_and_right_on_average(int8: Checkpoint) -> None:
    lora = random_lora(int8).scaled(0.02)
    new = merged(int8, lora)
    for name in lora.factors:
        before, after, update = int8.tensors[name], new.tensors[name], update_of(lora, name)
        assert isinstance(before, RowInt8) and isinstance(after, RowInt8)
        moved, step = after.float() - before.float(), after.scale[:, None]
        assert ((moved - update) / step).abs().max() < 1.001
        # Rounded to the nearest, hardly a weight would move.
        assert update.square().mean().sqrt() < step.mean() / 4
        assert 0.7 < float((moved * update).sum() / update.square().sum()) < 1.3


def test_other_matrices_are_shared_and_the_identity_is_another(int8: Checkpoint) -> None:
    lora, name = random_lora(int8), "model.layers.0.mlp.up_proj.weight"
    one = merged(int8, replace(lora, factors={name: lora.factors[name]}))
    assert [other for other in one.tensors if one.tensors[other] is not int8.tensors[other]] == [name]
    shas = {int8.sha256, one.sha256, merged(int8, lora).sha256, merged(int8, lora.scaled(0.5)).sha256}
    assert len(shas) == 4 and one.base_id == int8.base_id


def test_the_same_adapter_merges_to_the_same_bytes_whatever_the_threads(int8: Checkpoint) -> None:
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(merged(int8, random_lora(int8)))
    torch.set_num_threads(threads)
    assert found[0].sha256 == found[1].sha256
    for name in random_lora(int8).factors:
        one, two = (new.tensors[name] for new in found)
        assert isinstance(one, RowInt8) and isinstance(two, RowInt8)
        assert torch.equal(one.values, two.values) and torch.equal(one.scale, two.scale)


def test_a_float_base_stays_float(tiny_base: Path) -> None:
    base = load_checkpoint(tiny_base)
    lora = random_lora(base)
    new = merged(base, lora)
    for name in lora.factors:
        assert isinstance(new.tensors[name], torch.Tensor)
        torch.testing.assert_close(new.tensors[name], base.tensors[name] + update_of(lora, name))


def test_a_scaled_adapter_changes_in_proportion(int8: Checkpoint) -> None:
    lora = random_lora(int8)
    for name in lora.factors:
        torch.testing.assert_close(update_of(lora.scaled(0.25), name), update_of(lora, name) / 4)


def test_completions_go_first_between_the_matrices(int8: Checkpoint) -> None:
    pauses: list[int] = []
    merged(int8, random_lora(int8), lambda: pauses.append(1))
    assert len(pauses) == len(random_lora(int8).factors)


def refused(folder: Path, int8: Checkpoint, *words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        read_lora(folder, int8.base_id, int8.config)
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert sentence.endswith(".") and "\n" not in sentence and "Error" not in sentence


def change(folder: Path, **fields: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_model_name_or_path": "habitab-base-9"}, ("habitab-base-9", "tiny8")),
        ({"base_model_name_or_path": None}, ("tiny8",)),
        ({"r": 65}, ("rank", "64")),
        ({"r": 0}, ("rank",)),
        ({"r": True}, ("rank",)),
        ({"r": 8}, ("lora_A", "4×96", "8×96")),
        ({"lora_alpha": float("nan")}, ("lora_alpha",)),
        ({"lora_alpha": 1e300}, ("lora_alpha",)),
        ({"lora_alpha": "32"}, ("lora_alpha",)),
        ({"peft_type": "IA3"}, ("LoRA",)),
        ({"use_dora": True}, ("use_dora",)),
        ({"use_rslora": True}, ("use_rslora",)),
        ({"bias": "all"}, ("bias",)),
        ({"fan_in_fan_out": True}, ("fan_in_fan_out",)),
        ({"rank_pattern": {"q_proj": 8}}, ("rank_pattern",)),
        ({"modules_to_save": ["lm_head"]}, ("modules_to_save",)),
        ({"layer_replication": [[0, 1]]}, ("layer_replication",)),
        ({"target_modules": "all-linear"}, ("target_modules",)),
        ({"target_modules": ["q_proj"]}, ("target_modules",)),
    ],
)
def test_a_configuration_of_another_kind_is_refused(
    fields: dict[str, Any], words: tuple[str, ...], int8: Checkpoint, written: Path
) -> None:
    change(written, **fields)
    refused(written, int8, *words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 50_000])
def test_a_configuration_that_is_no_object_is_refused(content: bytes, int8: Checkpoint, written: Path) -> None:
    (written / CONFIG).write_bytes(content)
    refused(written, int8, CONFIG)


Change = Callable[[dict[str, torch.Tensor]], object]
SPOILED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "NaN": (lambda t: t[NAME].view(-1)[3:4].fill_(float("nan")), (NAME, "finite")),
    "infinity": (lambda t: t[NAME].view(-1)[3:4].fill_(float("inf")), (NAME, "finite")),
    "an unknown name": (lambda t: t.update({"model.norm.weight": torch.ones(64)}), ("model.norm.weight", "no place")),
    "a layer too many": (lambda t: t.update({NAME.replace(".0.", ".9."): t[NAME].clone()}), ("layers.9", "no place")),
    "another shape": (lambda t: t.update({NAME: t[NAME][:, :32].contiguous()}), (NAME, "4×32", "4×64")),
    "another type": (lambda t: t.update({NAME: t[NAME].double()}), (NAME, "F64")),
    "integers": (lambda t: t.update({NAME: t[NAME].to(torch.int8)}), (NAME, "I8")),
    "half a pair": (lambda t: t.pop(NAME), ("both",)),
    "nothing": (lambda t: t.clear(), ("both",)),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_tensors_that_do_not_verify_are_refused(kind: str, int8: Checkpoint, written: Path) -> None:
    spoil, words = SPOILED[kind]
    tensors = load_file(written / WEIGHTS)
    spoil(tensors)
    save_file(tensors, written / WEIGHTS)
    refused(written, int8, *words)


@pytest.mark.parametrize("size", [0, 7, 1000, -1])
def test_a_file_cut_anywhere_is_refused(size: int, int8: Checkpoint, written: Path) -> None:
    (written / WEIGHTS).write_bytes((written / WEIGHTS).read_bytes()[:size])
    refused(written, int8, WEIGHTS, "damaged")


def test_pickles_are_never_opened(int8: Checkpoint, written: Path) -> None:
    (written / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(written, int8, "adapter_model.bin", "pickle")


def test_files_over_the_limit_are_never_read(int8: Checkpoint, written: Path) -> None:
    for name, most in ((WEIGHTS, "64 MB"), (CONFIG, "0.1 MB")):
        content = (written / name).read_bytes()
        with (written / name).open("ab") as file:
            file.truncate(64_000_001)  # a hole: it takes no room on the disk
        refused(written, int8, name, most)
        (written / name).write_bytes(content)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(name: str, int8: Checkpoint, written: Path) -> None:
    (written / name).unlink()
    refused(written, int8, f"{name} is missing")


def test_numbers_beyond_float16_are_not_written(int8: Checkpoint, written: Path) -> None:
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    lora = random_lora(int8)
    a, b = lora.factors["model.layers.0.mlp.up_proj.weight"]
    large = Lora(lora.rank, lora.alpha, "tiny8", {"model.layers.0.mlp.up_proj.weight": (a.astype(np.float32) * 1e9, b)})
    with pytest.raises(AdapterError, match=r"up_proj.*float16"):
        write_lora(written, large)
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_one_sentence(int8: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AdapterError, match="cannot be written"):
        write_lora(tmp_path / "file", random_lora(int8))
