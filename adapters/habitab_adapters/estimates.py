"""How sure a figure is: a bootstrap (B. Efron, 1979) over what was drawn together."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2_000
FEWEST_COMMITS = 20  # with fewer, lines are resampled
LEVEL = (2.5, 97.5)


def resamples(units: int) -> Array:
    """How often each unit is drawn, `[RESAMPLES, units]`."""
    rng = np.random.default_rng(0)
    return rng.multinomial(units, [1 / units] * units, size=RESAMPLES).astype(np.float64)


def interval(values: Array) -> list[float] | None:
    """The middle 95 % of resampled values; None where none of them is a number."""
    finite = values[np.isfinite(values)]
    return [round(float(v), 4) for v in np.percentile(finite, LEVEL)] if len(finite) else None


def plain(value: float) -> float | None:
    """JSON knows no NaN: where nothing was measured stands null."""
    return round(value, 4) if math.isfinite(value) else None
