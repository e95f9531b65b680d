"""Finished places are read again as they were, and a file that cannot be used is named"""

from __future__ import annotations

from pathlib import Path

import pytest

from habitab_adapters.pretrain.answers import Answer, Ledger
from habitab_engine.errors import InputError

ANSWERS = {
    "rest of line, prefix": Answer(12.5, 7, True, 1.0, False),
    "block, prefix": Answer(0.1, 3, False, 0.2, False),
}


def test_what_is_finished_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    with Ledger(path) as ledger:
        ledger.add("one", ANSWERS)
    path.write_bytes(path.read_bytes() + b'{"place": "tw')  # killed here
    for _ in range(2):
        with Ledger(path) as ledger:
            assert ledger["one"] == ANSWERS and "tw" not in ledger
            ledger.add("three", {})
    with Ledger(path) as ledger:
        assert "three" in ledger and path.stat().st_mode & 0o077 == 0


def test_runs_side_by_side_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Ledger(path) as one, Ledger(path) as other:
        one.add("one", ANSWERS)
        other.add("two", ANSWERS)
    with Ledger(path) as both:
        assert both["one"] == both["two"] == ANSWERS


def test_a_ledger_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"place": 1}\n')
    with pytest.raises(InputError, match=r"a\.jsonl is damaged"):
        Ledger(tmp_path / "a.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Ledger(tmp_path / "file" / "a.jsonl")
