"""The benches count what they say they count; no time is asserted."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from habitab_engine.errors import InputError, MissingExtraError
from habitab_server import bench, bench_engine, bench_latency
from habitab_server.bench_latency import Replies, places, source_files

CODE = "import os\n\n\n" + "".join(
    f"def name_{i}(path):\n    folder = os.path.dirname(path)\n    return os.path.join(folder, '{i}')\n\n\n"
    for i in range(90)
)


def test_quantiles_are_nearest_rank() -> None:
    assert [bench.quantile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert math.isnan(bench.quantile([], 0.5)) and math.isnan(bench.median([]))


def test_a_place_and_its_typed_text_make_the_file_again(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CODE)
    spots = places(source_files(tmp_path), random.Random(1))
    for place in (next(spots) for _ in range(20)):
        assert place.before + place.typed + place.after == CODE
        assert place.language == "python" and place.typed.strip()


def test_a_folder_without_source_code_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(CODE)
    with pytest.raises(InputError, match="--path"):
        source_files(tmp_path)


@pytest.mark.parametrize(
    ("ghost", "key", "kind"),
    [("turn x", "t", "typed_through"), ("turn x", "r", "model"), ("t", "t", "model"), ("", "t", "model")],
)
def test_a_reply_is_typed_through_only_if_the_ghost_goes_on(ghost: str, key: str, kind: str) -> None:
    assert bench_latency._kind(ghost, key) == kind


def test_what_was_not_measured_is_null_in_the_json() -> None:
    replies = Replies(model=[10.0, 30.0], rss=[5.0, 6.0, 6.0], keystrokes=2)
    result = json.loads(json.dumps(bench_latency._result(replies, 3.0), allow_nan=False))
    assert result["p50_ms"] == 10.0 and result["typed_through_p95_ms"] is None


def test_ratios_are_taken_round_by_round() -> None:
    seconds = {
        task: {"habitab": [1.0, 2.0, 1.0], "habitab_plain": [2.0, 2.0, 2.0], "llama_cpp": [2.0, 2.0, 4.0]}
        for task in bench_engine.TASKS
    } | {"undrafted": {"habitab": [6.0, 6.0, 3.0]}, "drafted": {"habitab": [3.0, 2.0, 1.0]}}
    seconds["read"] = {"habitab": [1 / 128, 1 / 64, 1 / 128]}
    result = bench_engine._result(seconds)
    assert result["ratio"] == dict.fromkeys(bench_engine.TASKS, 2.0)
    assert result["speculation"] == {"tok_s": 48.0, "ratio_undrafted": 3.0, "ratio_llama_cpp": 1.5}
    assert result["spread"]["ratio"]["decode"] == [1.0, 4.0]
    assert result["habitab"]["decode_tok_s"] == 64.0 and result["decode_share_of_ceiling"] == 0.5
    assert result["ceiling_tok_s"] == 128.0


def test_without_llama_cpp_the_bench_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"habitab\[bench\]"):
        bench_engine.measure(None, 1)
