"""`habitab learn` says what it learned in a table or as JSON, and what is wrong in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from habitab_adapters import learn
from habitab_adapters.learn import Outcome
from habitab_server import cli

METRICS = {
    "exact_before": 0.2,
    "exact_after": 0.25,
    "exact_points": [2.0, 8.0],
    "net_before": 1234.5,
    "net_after": 1250.0,
    "net_gain": [-80.25, 1111.0],
    "bits_before": 0.8,
    "bits_after": 0.7,
    "bits_ratio": [0.85, 0.9],
    "strangers_bits_per_token": 0.0123,
}


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["--home", str(home), *arguments])


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What learning comes to, and what it was called with."""
    called: dict[str, Any] = {"outcome": Outcome("promoted", ("It is better.",), METRICS, "v1")}

    def fake(home: object, base: object, paths: object, **options: Any) -> Outcome:
        called.update(options, paths=paths)
        options["tell"]("Training", 0.5)
        return called["outcome"]

    monkeypatch.setattr(learn, "learn", fake)
    return called


def test_a_person_sees_a_table_and_what_serves(tmp_path: Path, outcome: dict[str, Any]) -> None:
    done = run(tmp_path, "learn", str(tmp_path), "--author", "ada@x.org", "--since", "2025-01-02", "--minutes", "3")
    assert done.exit_code == 0
    for figure in ("20.0%", "+2.0 to +8.0 points", "1,250", "-80 to +1,111 characters", "0.850 to 0.900", "0.0123"):
        assert figure in done.stdout
    assert "It is better.\nThe adapter v1 serves from now on.\n" in done.stdout
    assert outcome["author"] == "ada@x.org" and outcome["seconds"] == 180 and outcome["since"].year == 2025


def test_a_program_gets_one_object(tmp_path: Path, outcome: dict[str, Any]) -> None:
    done = run(tmp_path, "--json", "learn", str(tmp_path))
    assert json.loads(done.stdout) == {
        "verdict": "promoted",
        "reasons": ["It is better."],
        "metrics": METRICS,
        "version": "v1",
    }


def test_what_was_kept_needs_no_table(tmp_path: Path, outcome: dict[str, Any]) -> None:
    outcome["outcome"] = Outcome("too_little", ("There are 3 places.",), {}, "")
    done = run(tmp_path, "learn", str(tmp_path))
    assert done.stdout == "There are 3 places.\nWhat served before goes on serving.\n"


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [(200, "It was trained on 200 of 800 examples: `--minutes 55` would be enough for all."), (790, ""), (0, "")],
)
def test_too_little_time_is_said_with_how_much_would_be_enough(
    tmp_path: Path, outcome: dict[str, Any], seen: int, sentence: str
) -> None:
    """Ten minutes of training for a quarter: thirty more for the rest."""
    known = METRICS | {"examples": 800, "examples_seen": seen, "seconds": 600.0}
    outcome["outcome"] = Outcome("promoted", ("It is better.",), known, "v1")
    output = run(tmp_path, "learn", "code").output
    assert (sentence in output) if sentence else ("examples" not in output)
