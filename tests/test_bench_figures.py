"""Figures are the protocol's quotients; intervals hold them, and all columns are resampled together."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters.estimates import FEWEST_COMMITS
from habitab_server.bench_figures import Typed, summary

TAKEN = Typed(
    exact=1, similarity=1.0, inner=1, inner_exact=1, characters=20, accepted=16, accepts=1, opportunities=1, shown=1,
    bits=8.0, bytes=16, names=3, named=2,
)  # fmt: skip
TYPED = Typed(similarity=0.5, inner=1, characters=30, unaccepted=10, opportunities=20, shown=5, bits=40.0, bytes=20)


def test_figures_are_quotients_of_sums() -> None:
    found = summary({"base": [TAKEN, TYPED]}, ["c", "c"])["columns"]["base"]
    assert found == {
        "exact_match": 0.5,
        "exact_match_inner": 0.5,
        "edit_similarity": 0.75,
        "completed_ratio": 16 / 50,
        "net_chars_per_opportunity": round((16 - 1 - 0.2 * 10) / 21, 4),
        "bits_per_byte": round(48 / 36, 4),
        "show_rate": round(6 / 21, 4),
        "second_use": round(2 / 3, 4),
    }


def test_what_was_not_measured_is_null() -> None:
    result = summary({"base": [replace(TYPED, inner=0)], "context": [TYPED]}, ["c"])
    assert result["columns"]["base"]["exact_match_inner"] is None
    assert result["intervals"]["base"]["exact_match_inner"] is None
    assert result["ratios"]["context/base"] == {"completed_ratio": None, "interval": None}
    json.dumps(result, allow_nan=False)


def test_commits_are_resampled_where_there_are_enough_and_lines_elsewhere() -> None:
    few = [f"c{i}" for i in range(FEWEST_COMMITS - 1)]
    assert summary({"base": [TYPED] * len(few)}, few)["resampled"] == "lines"
    enough = [*few, "one more"] * 2
    assert summary({"base": [TYPED] * len(enough)}, enough)["resampled"] == "commits"


def test_lines_of_one_commit_are_drawn_together() -> None:
    """Within commits the lines are alike, so the interval is as wide as that of the commits alone."""
    commits = [f"c{i % 25}" for i in range(250)]
    lines = [TAKEN if i % 25 < 12 else TYPED for i in range(250)]
    low, high = summary({"base": lines}, commits)["intervals"]["base"]["exact_match"]
    alone = summary({"base": lines[:25]}, commits[:25])["intervals"]["base"]["exact_match"]
    assert [low, high] == alone and low < 12 / 25 < high


@given(st.lists(st.sampled_from([TAKEN, TYPED]), min_size=1, max_size=30))
def test_an_interval_holds_its_figure(lines: list[Typed]) -> None:
    result = summary({"base": lines}, ["c"] * len(lines))
    low, high = result["intervals"]["base"]["completed_ratio"]
    assert low <= result["columns"]["base"]["completed_ratio"] <= high


def test_ratios_are_those_of_pairs() -> None:
    """A column that completes exactly twice as much does so in every resample."""
    half = [replace(TAKEN, accepted=8), replace(TAKEN, accepted=2)] * 9
    whole = [replace(TAKEN, accepted=16), replace(TAKEN, accepted=4)] * 9
    result = summary({"base": half, "context": whole, "memory": whole}, ["c"] * 18)
    assert result["ratios"]["context/base"] == {"completed_ratio": 2.0, "interval": [2.0, 2.0]}
    assert result["ratios"]["memory/context"] == {"completed_ratio": 1.0, "interval": [1.0, 1.0]}
