"""A run's losses become a picture that any browser reads, and a folder without losses is named."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from habitab_adapters.pretrain.curve import curve
from habitab_engine.errors import InputError

SVG = "{http://www.w3.org/2000/svg}"


def run(folder: Path, losses: list[float | None]) -> Path:
    folder.mkdir()
    rows = [{"step": i, "loss": loss, "tokens": 8000} for i, loss in enumerate(losses, 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_step_that_counted_is_a_point_and_runs_follow_each_other(tmp_path: Path) -> None:
    runs = [run(tmp_path / "one", [2.0, None, 1.75]), run(tmp_path / "two", [1.5, 1.25])]
    root = ElementTree.fromstring(curve(runs))
    every = next(path for path in root.iter(f"{SVG}path") if path.get("fill") == "none")
    points = [tuple(map(float, point.split())) for point in str(every.get("d"))[1:].split("L")]
    assert len(points) == 4 and points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert sum(path.get("stroke-dasharray") is not None for path in root.iter(f"{SVG}path")) == 1
    assert any("4 steps, 0.04M tokens" in str(text.text) for text in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("losses", [[], [None]])
def test_a_folder_without_losses_is_named(losses: list[float | None], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no losses"):
        curve([run(tmp_path / "run", losses)])


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        curve([tmp_path])
