"""The verdict over developers as a picture: what an adapter gains each of them, and what another one's would; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from habitab_adapters.pretrain.curve import round_step

WIDTH, ROW, TOP, BOTTOM, NAMES, GAP, RIGHT = 760, 34, 64, 40, 130, 40, 16
OWN, OTHERS = "#1f4e79", "#b0793a"
_TICKS = 4  # marks on each side of nothing, at most

Spread = tuple[float, float, float]  # lowest, found, highest


def picture(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of the rows of `bench personal`: points of exact match, and bits saved in percent, both of an adapter
    over the memory alone, with 95 % intervals."""
    width, height = (WIDTH - NAMES - GAP - RIGHT) / 2, TOP + ROW * len(rows) + BOTTOM
    panels = [
        _panel(rows, NAMES, width, height, "exact match, points", _points),
        _panel(rows, NAMES + width + GAP, width, height, "bits saved, %", _saved),
    ]
    names = [
        f'<text x="{NAMES - 12}" y="{_middle(i) + 4}" text-anchor="end">{escape(row["name"])}</text>'
        for i, row in enumerate(rows)
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="white"/>'
    )
    key = (
        f'<text x="{NAMES}" y="20">Gain over context and memory on later lines: <tspan fill="{OWN}">own adapter</tspan>'
        f', <tspan fill="{OTHERS}">another developer\'s</tspan>; hollow: was not promoted</text>'
    )
    return "\n".join([head, key, *names, *(part for panel in panels for part in panel), "</svg>"]) + "\n"


def points_of(row: Mapping[str, Any], name: str) -> float:
    """What the column `name` gains over the memory alone, in points of exact match."""
    columns = row["columns"]
    return float(100 * (columns[name]["exact_match"] - columns["memory"]["exact_match"]))


def saved_of(row: Mapping[str, Any], name: str) -> float:
    """The share of the memory's bits that the column `name` saves."""
    columns = row["columns"]
    return float(1 - columns[name]["bits_per_byte"] / columns["memory"]["bits_per_byte"])


def _points(row: Mapping[str, Any], name: str) -> Spread:
    low, high = row[f"{name}_exact_points"] or (math.nan, math.nan)
    return low, points_of(row, name), high


def _saved(row: Mapping[str, Any], name: str) -> Spread:
    low, high = row[f"{name}_bits_ratio"] or (math.nan, math.nan)
    return 100 * (1 - high), 100 * saved_of(row, name), 100 * (1 - low)


def _middle(row: int) -> float:
    return TOP + ROW * (row + 0.5)


def _panel(
    rows: Sequence[Mapping[str, Any]],
    left: float,
    width: float,
    height: float,
    title: str,
    spread: Callable[[Mapping[str, Any], str], Spread],
) -> list[str]:
    found = {name: [spread(row, name) for row in rows] for name in ("adapter", "other")}
    ends = [abs(end) for spreads in found.values() for one in spreads for end in one if not math.isnan(end)]
    step = round_step(max([*ends, 0.1]) / _TICKS)
    most = step * math.ceil(max([*ends, 0.1]) / step)

    def x(value: float) -> float:
        return left + width * (value + most) / (2 * most)

    parts = [f'<text x="{left + width / 2:.1f}" y="46" text-anchor="middle">{title}</text>']
    for i in range(-round(most / step), round(most / step) + 1):
        at, colour = x(i * step), "#ddd" if i else "#888"
        parts.append(f'<path d="M{at:.1f} {TOP - 6}V{height - BOTTOM + 4}" stroke="{colour}"/>')
        mark = f"{i * step:+g}" if i else "0"
        parts.append(f'<text x="{at:.1f}" y="{height - BOTTOM + 20}" text-anchor="middle">{mark}</text>')
    for i, row in enumerate(rows):
        promoted = row["verdict"] == "promoted"
        parts += _whisker(found["adapter"][i], x, _middle(i) - 6, OWN, promoted)
        parts += _whisker(found["other"][i], x, _middle(i) + 6, OTHERS, True)
    return parts


def _whisker(spread: Spread, x: Callable[[float], float], y: float, colour: str, filled: bool) -> list[str]:
    low, found, high = spread
    line = f'<path d="M{x(low):.1f} {y}H{x(high):.1f}" stroke="{colour}" stroke-width="1.5"/>'
    dot = f'<circle cx="{x(found):.1f}" cy="{y}" r="4" stroke="{colour}" fill="{colour if filled else "white"}"/>'
    return [dot] if math.isnan(low) else [line, dot]
