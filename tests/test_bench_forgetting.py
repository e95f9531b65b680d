"""The bench says what the active adapter costs strangers' code, or in one sentence why there is nothing to measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from habitab_adapters import library
from habitab_adapters.registry import WEIGHTS, Registry
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.home import Home
from habitab_server import bench_forgetting, cli
from loras import facts_of, random_lora

KEYS = {"bits_per_token_delta", "exact_match_delta", "kl_nats"}  # the protocol's


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Checkpoint:
    return load_checkpoint(tiny_base)


@pytest.fixture
def registry(tmp_path: Path, tiny_base: Path, base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A person with two versions, the second of which changes more; none is active."""
    monkeypatch.setattr(library, "TOKENS", 700)
    registry = Registry(Home.locate(tmp_path / "home"), tiny_base)
    for by in (0.1, 1.0):
        registry.add(random_lora(base).scaled(by), facts_of(base))
    return registry


def run(registry: Registry, *options: str) -> int:
    return cli.run(["--home", str(registry.home.path), "--base", str(registry.base), "bench", "forgetting", *options])


def test_the_active_adapter_is_measured_unless_another_is_named(
    registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    registry.activate("v2")
    found = []
    for options in ([], ["--adapter", "v1"]):
        assert run(registry, *options) == 0
        found.append(json.loads(capfd.readouterr().out.splitlines()[-1]))
    assert [result["version"] for result in found] == ["v2", "v1"]
    assert all(result.keys() >= KEYS | {"tokens"} and result["tokens"] >= 700 for result in found)
    assert found[0]["kl_nats"] > found[1]["kl_nats"] > 0
    assert registry.active == "v2"


def test_a_person_reads_a_table_of_the_base_and_the_change(
    registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(registry, "--adapter", "v2") == 0
    out, err = capfd.readouterr()
    assert out.startswith("v2 on ") and "bits per token" in out and "KL divergence" in out
    assert "Reading" in err and "100%" in err


def test_without_an_active_adapter_one_sentence_says_what_to_do(
    registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    (registry.path("v1") / WEIGHTS).write_bytes(b"damaged")
    for options, why in (([], "--adapter"), (["--adapter", "v7"], "no version v7"), (["--adapter", "v1"], "damaged")):
        assert run(registry, *options) == 1
        out, err = capfd.readouterr()
        assert not out and why in err and err.startswith("habitab: ") and err.count("\n") == 1


def test_a_figure_without_one_of_the_base_stands_alone() -> None:
    numbers = {"bits_per_token": 2.0, "bits_per_token_delta": 0.01, "exact_match": 0.25, "exact_match_delta": -0.02}
    rows = bench_forgetting.rows(numbers | {"kl_nats": 0.003})
    assert [row[1:] for row in rows] == [["2.0000", "+0.0100"], ["0.2500", "-0.0200"], ["", "+0.0030"]]
