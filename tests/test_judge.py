"""The judge says what is surely better and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from habitab_adapters.evaluate import Known
from habitab_adapters.judge import compared, reasons


def known(exact: int, bits: float) -> Known:
    return Known(2, exact, 9 * exact, bits, 10, 2, 1)


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
        assert found["saved_before"] == found["saved_after"] == 9 * 30 and found["saved_ratio"] == [1.0, 1.0]
        assert found["parsed_before"] == found["parsed_after"] == 0.5 and found["parsed_points"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("saved", "exact", "ratio", "counts"),
    [
        (100, 0.3, [0.9, 1.1], False),
        (99, 0.4, [0.9, 1.1], False),  # by chance, where more is right
        (99, 0.3, [0.9, 1.1], True),
        (80, 0.4, [0.7, 0.9], True),
    ],
)
def test_fewer_characters_count_where_they_are_sure_or_nothing_else_is_won(
    saved: int, exact: float, ratio: list[float], counts: bool
) -> None:
    own = {"bits_ratio": [0.9, 0.95], "saved_before": 100, "exact_before": 0.3, "parsed_points": [0.0, 0.0]}
    found = reasons(own | {"saved_after": saved, "exact_after": exact, "saved_ratio": ratio})
    assert found == (("It would have saved you fewer characters.",) if counts else ())
