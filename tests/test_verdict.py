"""The picture of the verdict shows every developer's gain where it is, losers and unknown intervals included."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from habitab_server.verdict import OTHERS, OWN, picture

SVG = "{http://www.w3.org/2000/svg}"


def row(name: str, points: float, saved: float, verdict: str = "promoted") -> dict[str, Any]:
    """The other's adapter loses what the own one gains."""

    def column(sign: int) -> dict[str, float]:
        return {"exact_match": 0.3 + sign * points / 100, "bits_per_byte": 1.0 - sign * saved / 100}

    return {
        "name": name,
        "verdict": verdict,
        "columns": {"memory": column(0), "adapter": column(1), "other": column(-1)},
        "adapter_exact_points": [points - 1, points + 1],
        "other_exact_points": [-points - 1, -points + 1],
        "adapter_bits_ratio": [0.99 - saved / 100, 1.01 - saved / 100],
        "other_bits_ratio": None,
    }


def circles(svg: str) -> list[dict[str, str]]:
    return [found.attrib for found in ElementTree.fromstring(svg).iter(f"{SVG}circle")]


def test_more_gain_is_farther_right_and_a_loser_left_of_nothing() -> None:
    found = circles(picture([row("ann", 3, 5), row("bob", -2, -1)]))
    own = [float(c["cx"]) for c in found if c["stroke"] == OWN]
    others = [float(c["cx"]) for c in found if c["stroke"] == OTHERS]
    ann_points, bob_points, ann_saved, bob_saved = own
    assert bob_points < (ann_points + others[0]) / 2 < ann_points  # nothing is in the middle between them
    assert bob_saved < (ann_saved + others[2]) / 2 < ann_saved


def test_what_was_not_promoted_is_hollow() -> None:
    found = circles(picture([row("ann", 3, 5), row("bob", 1, 1, verdict="kept")]))
    assert [c["fill"] for c in found if c["stroke"] == OWN] == [OWN, "white"] * 2
    assert {c["fill"] for c in found if c["stroke"] == OTHERS} == {OTHERS}


@pytest.mark.parametrize("rows", [[], [row("<ann & bob>", 0, 0)]])
def test_any_rows_make_a_picture(rows: list[dict[str, Any]]) -> None:
    texts = [found.text for found in ElementTree.fromstring(picture(rows)).iter(f"{SVG}text")]
    assert "bits saved, %" in texts and all(one["name"] in texts for one in rows)


def test_intervals_are_lines_and_an_unknown_one_is_none() -> None:
    paths = [p.attrib for p in ElementTree.fromstring(picture([row("ann", 3, 5)])).iter(f"{SVG}path")]
    whiskers = [p["stroke"] for p in paths if p.get("stroke-width")]
    assert whiskers == [OWN, OTHERS, OWN]
