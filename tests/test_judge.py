"""The judge says what is surely better and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from habitab_adapters.evaluate import Known
from habitab_adapters.judge import compared, reasons


def known(exact: int, bits: float) -> Known:
    return Known(2, exact, 9.0 * exact, bits, 10, 2, 1)


def lines(gain: float) -> Iterator[tuple[Known, Known, str]]:
    for i in range(60):
        yield known(i % 2, 10.0 + i % 3), known(i % 2, 10.0 + i % 3 - gain), f"commit {i // 2}"


def test_a_gain_in_every_commit_is_sure_and_none_is_not() -> None:
    for gain, sure in ((0.5, True), (0.0, False)):
        before, after, commits = zip(*lines(gain), strict=True)
        found = compared(before, after, commits)
        assert (found["bits_ratio"][1] < 1) is sure
        assert found["positions"] == 120 and found["commits"] == 30
        assert found["exact_points"] == [0.0, 0.0]
        assert found["net_before"] == found["net_after"] == 9 * 30 and found["net_gain"] == [0.0, 0.0]
        assert found["parsed_before"] == found["parsed_after"] == 0.5 and found["parsed_points"] == [0.0, 0.0]


BETTER = {"bits_ratio": [0.85, 0.95], "net_before": 100.0, "net_after": 100.0, "parsed_points": [-1.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"bits_ratio": [0.9, 1.01]}, ["not surely better"]),
        ({"bits_ratio": None}, ["not surely better"]),
        ({"net_after": 99.9}, ["fewer characters"]),
        ({"parsed_points": [-9.0, -0.5]}, ["breaks the syntax"]),
        ({"net_after": 99.9, "parsed_points": [-9.0, -0.5]}, ["fewer characters", "breaks the syntax"]),
    ],
)
def test_each_fault_is_a_reason_of_its_own(change: dict[str, object], words: list[str]) -> None:
    found = reasons(BETTER | change)
    assert len(found) == len(words) and all(word in sentence for word, sentence in zip(words, found, strict=True))
