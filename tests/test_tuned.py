"""An adapter's network computes what the served model computes, and learns through what was written alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import write_tiny
from habitab_adapters.pretrain.network import Network, floats
from habitab_adapters.tuned import Lesson, Tuned
from habitab_engine.checkpoint import Checkpoint, RowInt8, load_checkpoint
from habitab_engine.lora import Lora
from habitab_engine.merging import update_of

LESSONS = [
    Lesson(list(range(20, 60)), [7, 300, 41, 5], [1.0, 1.0, 0.0, 1.0]),
    Lesson([21, 22], [33], [1.0]),
    Lesson(list(range(100, 117)), list(range(50, 75)), [1.0] * 25),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(write_tiny(tmp_path_factory.mktemp("tuned"), hidden_size=32, head_dim=8))


def tuned(base: Checkpoint, seed: int = 0) -> Tuned:
    """A network whose updates are not nothing."""
    made = Tuned(base, 4, 8.0, seed, torch.float32, torch.device("cpu"))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in made.factors.items():
            if name.endswith("_b"):
                p.copy_(torch.randn(p.shape, generator=random) / 20)
    return made


def alone(checkpoint: Checkpoint, lesson: Lesson) -> torch.Tensor:
    """The hidden states before each token written, by the network that trains the base."""
    network = Network(checkpoint.config, floats(checkpoint))
    ids = torch.tensor([*lesson.prompt, *lesson.written[:-1]])
    hidden = network(ids, torch.arange(len(ids)), ((1, len(ids)),), torch.float32)
    return hidden[len(lesson.prompt) - 1 :]


def exactly_merged(base: Checkpoint, lora: Lora) -> Checkpoint:
    whole = {n: t.float() if isinstance(t, RowInt8) else t for n, t in base.tensors.items()}
    return replace(base, tensors=whole | {name: whole[name] + update_of(lora, name) for name in lora.factors})


def along_something(hidden: torch.Tensor) -> torch.Tensor:
    """A number that all of `hidden` has a part in."""
    return (hidden * torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)).sum()


def lora_of(network: Tuned, base: Checkpoint) -> Lora:
    factors = {name: (a.numpy(), b.numpy()) for name, a, b in network.updates()}
    return Lora(network.rank, network.alpha, base.base_id, factors)


def test_lessons_side_by_side_come_to_what_each_comes_to_alone_in_the_merged_base(base: Checkpoint) -> None:
    network = tuned(base)
    merged = exactly_merged(base, lora_of(network, base))
    with torch.no_grad():
        right = torch.cat([alone(merged, lesson) for lesson in LESSONS])
        assert torch.allclose(network(LESSONS), right, atol=1e-4)


def test_a_long_text_is_written_in_passes_that_see_what_came_before(
    base: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tuned(base)
    monkeypatch.setattr("habitab_adapters.tuned.MOST_WRITTEN", 4)
    passes = []
    for written, hidden in network.passes(LESSONS):
        along_something(hidden).backward()
        passes.append((written, hidden.detach()))
    assert [len(lesson.written) for written, _ in passes for lesson in written] == [4, 1, 4, 4, 4, 4, 4, 4, 1]
    assert [t for written, _ in passes for x in written for t in x.written] == [t for x in LESSONS for t in x.written]
    assert [w for written, _ in passes for x in written for w in x.weights] == [w for x in LESSONS for w in x.weights]
    with torch.no_grad():
        assert torch.allclose(torch.cat([hidden for _, hidden in passes]), network(LESSONS), atol=1e-4)
    assert all(p.grad is not None for p in network.parameters())


def test_a_new_adapter_changes_nothing(base: Checkpoint) -> None:
    network = Tuned(base, 4, 8.0, 0, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        assert torch.allclose(network(LESSONS[:1]), alone(base, LESSONS[0]), atol=1e-4)


def test_the_gradient_is_that_of_the_loss_with_the_prompt_held_still(
    base: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, step = tuned(base), 3e-2
    name = "1_down_b"
    factor = network.factors[name]
    along_something(network(LESSONS[:1])).backward()
    assert factor.grad is not None
    along = factor.grad / factor.grad.norm()
    values, still = [], network._read([LESSONS[0].prompt[:-1]])
    monkeypatch.setattr(network, "_read", lambda prompts: still)
    with torch.no_grad():
        for sign in (1, -1):
            factor.add_(sign * step * along)
            values.append(float(along_something(network(LESSONS[:1]))))
            factor.sub_(sign * step * along)
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(float(factor.grad.norm()), rel=0.02)


def test_the_base_gets_no_gradient_and_every_factor_may(base: Checkpoint) -> None:
    network = tuned(base)
    along_something(network(LESSONS)).backward()
    assert not network.embed.requires_grad
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_every_matrix_of_every_layer_has_its_update(base: Checkpoint) -> None:
    matrices = {name for name, shape in base.config.shapes().items() if len(shape) == 2 and "layers" in name}
    shapes = base.config.shapes()
    found = {name: (b.shape[0], a.shape[1]) for name, a, b in tuned(base).updates()}
    assert found == {name: shapes[name] for name in matrices}


def test_the_same_seed_gives_the_same_factors(base: Checkpoint) -> None:
    first, second = (Tuned(base, 4, 8.0, 3, torch.float32, torch.device("cpu")) for _ in range(2))
    assert all(torch.equal(p, second.factors[name]) for name, p in first.factors.items())
