"""Quantised shards give back every weight within a step, none lost on average, keep their size, replace nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from habitab_adapters.pretrain import quantise as module
from habitab_adapters.pretrain.quantise import HEADER_BYTES, quantise
from habitab_engine.base_files import INDEX
from habitab_engine.checkpoint import RowInt8, at_random, describe, load_checkpoint, quantise_rows
from habitab_engine.errors import InputError

LIMIT = 2_300_000


@pytest.fixture(scope="module")
def quantised(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "model"
    quantise(tiny_base, folder, LIMIT)
    return folder


def test_weights_come_back_within_a_step(tiny_base: Path, quantised: Path) -> None:
    before, after = load_checkpoint(tiny_base), load_checkpoint(quantised)
    for name, tensor in before.tensors.items():
        assert isinstance(tensor, torch.Tensor)
        stored = after.tensors[name]
        if isinstance(stored, RowInt8):
            error = (stored.float() - tensor).abs().amax(dim=1)
            assert bool((error <= 1.0001 * stored.scale).all())
        else:
            assert stored.dim() == 1 and torch.equal(stored, tensor)


def test_what_moved_a_weight_by_less_than_half_a_step_is_not_lost() -> None:
    steps = torch.randint(-126, 127, (64, 512), generator=torch.Generator().manual_seed(1)).float()
    steps[:, 0] = 127
    moved = steps.clone()
    moved[:, 1:] += 0.125
    random = torch.Generator().manual_seed(2)
    rows = quantise_rows(moved * 0.01, lambda steps: at_random(random, steps))
    assert abs(float((rows.values.float() - steps)[:, 1:].mean()) - 0.125) < 0.01


def test_shards_keep_to_the_limit_and_to_their_checksums(quantised: Path) -> None:
    checkpoint = load_checkpoint(quantised)
    assert len(checkpoint.shards) > 1
    assert all((quantised / name).stat().st_size <= LIMIT for name in checkpoint.shards)
    name = next(iter(checkpoint.shards))
    assert checkpoint.shards[name] in (quantised / INDEX).read_text(encoding="utf-8")


def test_the_index_says_how_many_bytes_the_shards_take(quantised: Path) -> None:
    index = json.loads((quantised / INDEX).read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == describe(quantised)["bytes"]


def test_headers_fit_into_what_is_left_for_them(quantised: Path) -> None:
    for shard in quantised.glob("*.safetensors"):
        assert int.from_bytes(shard.read_bytes()[:8], "little") < HEADER_BYTES


def test_quantising_twice_changes_nothing(quantised: Path, tmp_path: Path) -> None:
    quantise(quantised, tmp_path / "again", LIMIT)
    assert load_checkpoint(tmp_path / "again").sha256 == load_checkpoint(quantised).sha256


def test_a_folder_with_something_in_it_is_left_alone(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        quantise(tiny_base, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_full_disk_leaves_nothing_behind(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(InputError, match="No space left"):
        quantise(tiny_base, tmp_path / "out")
    assert not list(tmp_path.iterdir())
