"""What typed lines come to: sums, the figures made of them, and how sure they are (a bootstrap)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from habitab_adapters.estimates import FEWEST_COMMITS, Array, interval, plain, resamples
from habitab_adapters.lines import SHOWN_COST


@dataclass(slots=True)
class Typed:
    """What one line came to; every figure is a quotient of sums of these.

    `exact` and `similarity` are of the first opportunity, `inner_exact` of the inner cursor (`inner` is 1 where there
    is one). `accepted` are characters in `accepts` suggestions, `unaccepted` those of suggestions that were shown and
    not accepted, each counted once. `shown` are opportunities with a suggestion on the screen. `bits` is what the
    rest of the line costs at the first opportunity, `bytes` its length in UTF-8. `names` are second uses of a name that
    was typed once today, `named` those whose rest the engine suggested after three characters.
    """

    lines: int = 1
    exact: int = 0
    similarity: float = 0.0
    inner: int = 0
    inner_exact: int = 0
    characters: int = 0
    accepted: int = 0
    accepts: int = 0
    unaccepted: int = 0
    opportunities: int = 0
    shown: int = 0
    bits: float = 0.0
    bytes: int = 0
    names: int = 0
    named: int = 0


NAMES = tuple(field.name for field in fields(Typed))


def figures(sums: Mapping[str, Array]) -> dict[str, Array]:
    """The figures of the protocol from sums by name of `Typed`; NaN where there was nothing to divide by."""
    net = sums["accepted"] - sums["accepts"] - SHOWN_COST * sums["unaccepted"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "exact_match": sums["exact"] / sums["lines"],
            "exact_match_inner": sums["inner_exact"] / sums["inner"],
            "edit_similarity": sums["similarity"] / sums["lines"],
            "completed_ratio": sums["accepted"] / sums["characters"],
            "net_chars_per_opportunity": net / sums["opportunities"],
            "bits_per_byte": sums["bits"] / sums["bytes"],
            "show_rate": sums["shown"] / sums["opportunities"],
            "second_use": sums["named"] / sums["names"],
        }


def summary(columns: Mapping[str, Sequence[Typed]], commits: Sequence[str]) -> dict[str, Any]:
    """Figures and 95 % intervals of each column, and the ratio of completed code of each to the one before it.

    The columns typed the same lines in the same order; `commits` names each line's commit. All columns are resampled
    together, so that the ratios are those of pairs.
    """
    names = sorted(set(commits))
    by_commit = len(names) >= FEWEST_COMMITS
    units = [names.index(commit) for commit in commits] if by_commit else list(range(len(commits)))
    weights = resamples(max(units) + 1)
    exact, resampled = {}, {}
    for column, lines in columns.items():
        sums = np.zeros((max(units) + 1, len(NAMES)))
        np.add.at(sums, units, np.array([astuple(line) for line in lines], dtype=np.float64))
        exact[column] = figures(_named(sums.sum(0)))
        resampled[column] = figures(_named(weights @ sums))
    return {
        "columns": {column: {name: plain(float(v)) for name, v in found.items()} for column, found in exact.items()},
        "intervals": {column: {name: interval(v) for name, v in found.items()} for column, found in resampled.items()},
        "ratios": _ratios(exact, resampled),
        "resampled": "commits" if by_commit else "lines",
    }


def _named(sums: Array) -> dict[str, Array]:
    return {name: sums[..., i] for i, name in enumerate(NAMES)}


def _ratios(exact: Mapping[str, dict[str, Array]], resampled: Mapping[str, dict[str, Array]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names = list(exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        for lower, upper in pairwise(names):
            ratio, spread = (of[upper]["completed_ratio"] / of[lower]["completed_ratio"] for of in (exact, resampled))
            found[f"{upper}/{lower}"] = {"completed_ratio": plain(float(ratio)), "interval": interval(spread)}
    return found
