"""The losses of a run as a picture: every step, and the mean of those around it; pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from habitab_adapters.pretrain.trainer import LOG
from habitab_engine.errors import InputError

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 360, 56, 16, 36, 44
AROUND = 10  # steps on each side of one that its mean takes in
_TICKS = 6  # lines across the picture at most

Point = tuple[float, float]


def curve(runs: Sequence[Path]) -> str:
    """An SVG of the loss by the tokens trained on; `runs` are folders of runs, each gone on with by the next.

    Raises InputError for a folder without losses.
    """
    points, ends = list[Point](), list[float]()
    for run in runs:
        points += _points(run, points[-1][0] if points else 0.0)
        ends.append(points[-1][0])
    losses = np.array([loss for _, loss in points])
    means = [float(losses[max(0, i - AROUND) : i + AROUND + 1].mean()) for i in range(len(losses))]
    smooth = [(tokens, mean) for (tokens, _), mean in zip(points, means, strict=True)]
    low, high = _bounds(losses)
    scale = _Scale(points[-1][0], low, high)
    parts = [*_grid(scale), _line(scale, points, "#9bb7d4", 1), _line(scale, smooth, "#1f4e79", 2.5)]
    parts += [_rule(scale, end) for end in ends[:-1]]
    return _framed(parts, f"{len(points):,} steps, {points[-1][0] / 1e6:.2f}M tokens")


def _points(run: Path, before: float) -> list[Point]:
    """(tokens so far, loss) of every step of a run that was not skipped."""
    try:
        rows = [json.loads(row) for row in (run / LOG).read_text(encoding="utf-8").splitlines()]
        tokens = np.cumsum([row["tokens"] for row in rows]) + before
        losses = [row["loss"] for row in rows]
        points = [(float(n), float(loss)) for n, loss in zip(tokens, losses, strict=True) if loss is not None]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run / LOG} cannot be read ({error}): name folders of `habitab base train run`.") from error
    if not points:
        raise InputError(f"{run / LOG} holds no losses yet: train for some steps first.")
    return points


def _bounds(losses: np.ndarray) -> tuple[float, float]:
    return math.floor(10 * losses.min()) / 10, math.ceil(10 * losses.max() + 0.01) / 10


class _Scale:
    """From tokens and nats to the picture's units."""

    def __init__(self, tokens: float, low: float, high: float) -> None:
        self.tokens, self.low, self.high = tokens, low, high

    def x(self, tokens: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * tokens / self.tokens

    def y(self, loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - loss) / (self.high - self.low)


def _grid(scale: _Scale) -> list[str]:
    """Lines across at round losses, and marks below at round numbers of tokens."""
    step = round_step((scale.high - scale.low) / _TICKS)
    parts = []
    for i in range(math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9) + 1):
        y = scale.y(i * step)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{i * step:.2f}</text>')
    step = round_step(scale.tokens / _TICKS)
    for i in range(math.floor(scale.tokens / step + 1e-9) + 1):
        x = scale.x(i * step)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{i * step / 1e6:g}M</text>')
    return parts


def round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def _line(scale: _Scale, points: Sequence[Point], colour: str, width: float) -> str:
    path = "L".join(f"{scale.x(tokens):.1f} {scale.y(loss):.1f}" for tokens, loss in points)
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _rule(scale: _Scale, tokens: float) -> str:
    x = scale.x(tokens)
    return f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#888" stroke-dasharray="4 3"/>'


def _framed(parts: Sequence[str], title: str) -> str:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12">'
    texts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22">Training loss in nats a token, by weight: {title}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">tokens</text>',
    ]
    return "\n".join([head, *texts, *parts, "</svg>"]) + "\n"
