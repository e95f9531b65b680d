"""Both sides of the comparison are given the same examples in the same batches, and only what they did is counted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from conftest import write_tiny
from habitab_adapters.pretrain import machine
from habitab_adapters.training import Course, Training
from habitab_adapters.tuned import Lesson, Tuned
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.errors import MissingExtraError
from habitab_engine.export import export_hf
from habitab_server import bench_training, cli
from habitab_server.bench_training import IGNORED, Theirs, Turn, lessons


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "faster_kind", lambda: "float32")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("bases") / "small", hidden_size=32, head_dim=8)


@pytest.fixture(scope="module")
def base(small: Path) -> Checkpoint:
    return load_checkpoint(small)


def test_lessons_are_as_long_as_a_person_s_and_the_same_in_every_run(base: Checkpoint) -> None:
    found = lessons(base, 60)
    assert found == lessons(base, 60)
    prompts, texts = ([len(getattr(one, part)) for one in found] for part in ("prompt", "written"))
    assert 70 <= sum(prompts) / len(found) <= 140 and 450 <= sum(texts) / len(found) <= 700
    assert all(len(one.weights) == len(one.written) and set(one.weights) == {1.0} for one in found)


def test_a_batch_counts_what_is_written_and_nothing_else() -> None:
    batch = bench_training._padded([Lesson([5, 6], [7], [1.0]), Lesson([8], [9, 10, 11], [1.0] * 3)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [8, 9, 10, 11]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, IGNORED], [IGNORED, 9, 10, 11]]


def test_both_sides_begin_with_the_same_loss_and_learn_the_same(base: Checkpoint, small: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    export_hf(tmp_path / "hf", small)
    course = Course(rank=4, alpha=8.0, rate=1e-2, batch=4, seconds=math.inf, device="cpu")
    given = [Lesson(one.prompt[-40:], one.written[:20], [1.0] * len(one.written[:20])) for one in lessons(base, 8)]
    theirs = Theirs(tmp_path / "hf", course, steps=2)
    network = Tuned(base, 4, 8.0, 0, torch.float32, torch.device("cpu"))
    targets = torch.tensor([token for one in given for token in one.written])
    with torch.no_grad():
        before = float(torch.nn.functional.cross_entropy(network(given) @ network.embed.T, targets))
    assert theirs.loss(given) == pytest.approx(before, rel=1e-4)
    assert theirs.train(given[:4]) > 0 and theirs.train(given[4:]) > 0
    ours = Training(base, given, course, tmp_path / "ours").run(given, lambda moment: None)
    assert theirs.loss(given) < before and ours.losses[-1][1] < before
    assert theirs.loss(given) == pytest.approx(ours.losses[-1][1], rel=0.05)


def test_turns_have_the_same_batches_and_the_first_is_not_counted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    own, other = list[list[Lesson]](), list[list[Lesson]]()
    step, train = Training._backward, Theirs.train

    def ours(self: Training, batch: Sequence[Lesson]) -> torch.Tensor:
        own.append(list(batch))
        return step(self, batch)

    def theirs(self: Theirs, batch: list[Lesson]) -> float:
        other.append(batch)
        return train(self, batch)

    monkeypatch.setattr(Training, "_backward", ours)
    monkeypatch.setattr(Theirs, "train", theirs)
    result = bench_training.measure(small, 1_500)
    assert own == other and len(own) == 4 and all(len(batch) == Course().batch for batch in own)
    assert result["tokens"] == sum(len(one.prompt) + len(one.written) for batch in own[1:] for one in batch)


def test_tokens_are_divided_by_each_side_s_own_seconds() -> None:
    turns = [Turn(1000, ours=2.0, theirs=4.0), Turn(3000, ours=2.0, theirs=6.0)]
    result = bench_training._result(turns, (3.0, 2.5, 2.25))
    assert (result["habitab_tok_s"], result["transformers_tok_s"], result["ratio"]) == (1000.0, 400.0, 2.5)
    assert result["loss_gap"] == 0.25 and result["spread"] == [2.0, 3.0]


def test_without_the_extra_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"habitab\[bench\]"):
        bench_training.measure(None, 1)
    assert cli.run(["bench", "training"]) == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_the_command_prints_json_last(
    small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    done = [Turn(10, 1.0, 1.0), Turn(1000, 2.0, 4.0)], (3.0, 2.5, 2.25)
    monkeypatch.setattr(bench_training, "_compete", lambda *given: done)
    assert cli.run(["--base", str(small), "bench", "training", "--tokens", "1"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert list(result)[:4] == ["habitab_tok_s", "transformers_tok_s", "ratio", "loss_gap"]
    assert (result["ratio"], result["tokens"]) == (2.0, 1000)
