"""A run learns, goes on to the bit where it was killed, survives damage, and says what is wrong in one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from conftest import write_tiny
from habitab_adapters.pretrain import checkpoints, machine, network, trainer
from habitab_adapters.pretrain.checkpoints import latest, save
from habitab_adapters.pretrain.network import Network
from habitab_adapters.pretrain.trainer import LOG, Plan, train
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.errors import InputError
from test_pretrain_network import one_by_one

VOCAB = 2048  # less than the tokenizer's: time goes into the head
PLAN = Plan(tokens=2400, step_tokens=400, peak_rate=1e-2, device="cpu", checkpoint_seconds=0.0)


class KilledError(Exception):
    """What a test ends a run with."""


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A given type: what a probe takes on a busy machine must not decide what a test sees."""
    monkeypatch.setattr(machine, "faster_kind", lambda: "float32")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("start"), hidden_size=32, head_dim=8, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten examples of some 40 tokens; the first half of each counts for nothing."""
    folder, random = tmp_path_factory.mktemp("examples"), np.random.default_rng(3)
    lengths = random.integers(30, 50, 10)
    starts = np.cumsum([0, *lengths])
    weights = np.concatenate([np.where(np.arange(n) < n // 2, 0, 16) for n in lengths]).astype(np.uint8)
    tokens = random.integers(20, VOCAB, starts[-1]).astype(np.uint16)
    save_file({"tokens": tokens, "weights": weights, "starts": starts}, folder / "examples-00000.safetensors")
    return folder


def silent(_: str) -> None:
    pass


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_checkpoint(folder / "model").tensors
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(start: Path, ten: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "faster_kind", lambda: "float32")
        folder = tmp_path_factory.mktemp("whole")
        train(start, ten, folder, PLAN, silent)
    return folder


def killed_after(steps: int, start: Path, examples: Path, folder: Path, plan: Plan = PLAN) -> None:
    taken = trainer._Run._step
    with pytest.MonkeyPatch.context() as patch:

        def step(run: trainer._Run) -> object:
            if run.done == steps:
                raise KilledError
            return taken(run)

        patch.setattr(trainer._Run, "_step", step)
        with pytest.raises(KilledError):
            train(start, examples, folder, plan, silent)


def test_a_tiny_model_learns_ten_examples_by_heart(start: Path, ten: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = train(start, ten, tmp_path, replace(PLAN, tokens=24_000, checkpoint_seconds=math.inf), said.append)
    losses = [line["loss"] for line in log(tmp_path)]
    assert losses[0] > 5 and losses[-1] < 0.1
    assert result["finished"] and result["steps"] == len(losses) == 60 and result["skipped"] == 0
    assert "step 60 of 60, loss 0.0" in said[-1] and "tokens/s" in said[-1]


def test_low_rank_factors_learn_and_leave_the_rest_alone(start: Path, ten: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, tokens=8000, rank=8, checkpoint_seconds=math.inf)
    train(start, ten, tmp_path, plan, silent)
    before, after = load_checkpoint(start).tensors, weights(tmp_path)
    assert log(tmp_path)[-1]["loss"] < 0.8 * log(tmp_path)[0]["loss"]
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in after if "_proj" in name}


def test_a_killed_run_goes_on_to_the_bit(start: Path, ten: Path, whole: Path, tmp_path: Path) -> None:
    killed_after(4, start, ten, tmp_path)
    said: list[str] = []
    train(start, ten, tmp_path, PLAN, said.append)
    assert said[0] == "Going on after step 4 of 6."
    assert same(weights(tmp_path), weights(whole))
    assert log(tmp_path) == log(whole)


def test_steps_after_the_last_state_are_taken_again(start: Path, ten: Path, whole: Path, tmp_path: Path) -> None:
    killed_after(3, start, ten, tmp_path)
    killed_after(5, start, ten, tmp_path, replace(PLAN, checkpoint_seconds=math.inf))
    train(start, ten, tmp_path, PLAN, silent)
    assert same(weights(tmp_path), weights(whole))
    assert [line["step"] for line in log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_state_is_set_aside_for_the_one_before(start: Path, ten: Path, whole: Path, tmp_path: Path) -> None:
    killed_after(4, start, ten, tmp_path)
    newest = tmp_path / "state-00000004.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    said: list[str] = []
    train(start, ten, tmp_path, PLAN, said.append)
    assert "state-00000004.safetensors is damaged" in said[0] and said[1] == "Going on after step 3 of 6."
    assert newest.with_name(newest.name + ".damaged").exists()
    assert same(weights(tmp_path), weights(whole))


def test_low_rank_runs_go_on_to_the_bit(start: Path, ten: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, rank=4)
    train(start, ten, tmp_path / "whole", plan, silent)
    killed_after(2, start, ten, tmp_path / "killed", plan)
    train(start, ten, tmp_path / "killed", plan, silent)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_a_finished_run_only_gives_its_model_again(start: Path, ten: Path, whole: Path) -> None:
    before = weights(whole)
    assert train(start, ten, whole, PLAN, silent)["finished"]
    assert same(weights(whole), before)


def test_a_run_out_of_time_stops_and_goes_on_later(start: Path, ten: Path, whole: Path, tmp_path: Path) -> None:
    result = train(start, ten, tmp_path, replace(PLAN, budget_seconds=1e-9), silent)
    assert not result["finished"] and result["steps"] < 6
    assert train(start, ten, tmp_path, PLAN, silent)["finished"]
    assert same(weights(tmp_path), weights(whole))


def test_another_plan_in_the_same_folder_is_refused(start: Path, ten: Path, whole: Path) -> None:
    with pytest.raises(InputError, match="another plan, start or examples"):
        train(start, ten, whole, replace(PLAN, seed=1), silent)


def test_layers_can_be_left_out(start: Path, ten: Path, tmp_path: Path) -> None:
    train(start, ten, tmp_path, replace(PLAN, layers=(1,), tokens=400), silent)
    assert load_checkpoint(tmp_path / "model").config.layers == 1


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Makes the loss of `steps` (from 0) infinite."""
    plain = trainer._Run._backward

    def backward(run: trainer._Run, *given: object) -> torch.Tensor:
        loss = plain(run, *given)
        return loss * math.inf if run.done in steps else loss

    monkeypatch.setattr(trainer._Run, "_backward", backward)


def test_a_step_with_an_infinite_loss_is_skipped_and_counted(
    start: Path, ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(start, ten, tmp_path, replace(PLAN, tokens=400), silent)  # so that there is something to lose
    spoil(monkeypatch, {0, 1})
    result = train(start, ten, tmp_path / "spoilt", replace(PLAN, tokens=800), silent)
    assert result["skipped"] == 2 and [line["loss"] for line in log(tmp_path / "spoilt")] == [None, None]
    before = load_checkpoint(start).tensors
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "spoilt").items())


def test_ten_infinite_losses_in_a_row_end_the_run(
    start: Path, ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, set(range(20)))
    with pytest.raises(InputError, match="not finite 10 steps in a row"):
        train(start, ten, tmp_path, replace(PLAN, tokens=8000, checkpoint_seconds=math.inf), silent)


def test_rounded_steps_learn_what_exact_ones_do(
    start: Path, ten: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "round", lambda *_: None)
    train(start, ten, tmp_path, PLAN, silent)
    exact, rounded = log(tmp_path), log(whole)
    assert rounded[0]["loss"] == pytest.approx(exact[0]["loss"], rel=1e-3)
    assert rounded[-1]["loss"] - exact[-1]["loss"] < 0.1 * (exact[0]["loss"] - exact[-1]["loss"])


def test_filled_batches_train_as_packed_ones(
    start: Path, ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of compiled code, without compiling; nothing is rounded there."""
    monkeypatch.setattr(Network, "round", lambda *_: None)
    train(start, ten, tmp_path / "packed", PLAN, silent)
    chosen = machine.choose_machine("cpu", "float32")
    monkeypatch.setattr(trainer, "choose_machine", lambda *_: replace(chosen, compiled=True, steps_between_reads=4))
    monkeypatch.setattr(Network, "compile_blocks", lambda _: None)
    monkeypatch.setattr(network, "varlen_attn", one_by_one)
    train(start, ten, tmp_path / "filled", PLAN, silent)
    for ours, other in zip(log(tmp_path / "filled"), log(tmp_path / "packed"), strict=True):
        assert ours["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_the_rate_rises_and_falls_as_planned() -> None:
    plan = Plan(tokens=1, peak_rate=1.0, warm_up=0.1, final=0.2)
    rates = [plan.rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.2) and rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"peak_rate": -1.0}, {"final": 2.0}, {"rank": -1}])
def test_senseless_plans_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Plan(**{"tokens": 10, **wrong})  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="choose auto, cpu, cuda or mps"):
        machine.choose_machine("abacus")


def test_only_the_last_two_states_are_kept(whole: Path) -> None:
    assert sorted(path.name for path in whole.glob("state-*")) == [
        f"state-0000000{step}.{end}" for step in (5, 6) for end in ("json", "safetensors")
    ]


def test_a_full_disk_is_one_sentence_and_leaves_the_states_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, {"a": torch.ones(3)}, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match="No space left"):
        save(tmp_path, 2, {"a": torch.ones(3)}, {})
    found = latest(tmp_path, silent)
    assert found and found[0]["step"] == 1 and torch.equal(found[1]["a"], torch.ones(3))


def test_a_folder_that_cannot_be_written_is_one_sentence(start: Path, ten: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        train(start, ten, tmp_path / "file", PLAN, silent)


def test_the_embedded_base_is_where_a_run_starts_by_default(
    start: Path, ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def loaded(folder: Path | None) -> Checkpoint:
        asked.append(folder)
        return load_checkpoint(start)

    monkeypatch.setattr(trainer, "load_checkpoint", loaded)
    train(None, ten, tmp_path, replace(PLAN, tokens=400), silent)
    assert asked == [None]
