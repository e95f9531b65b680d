"""The judge: a person's own newest lines, asked of what serves now and of a candidate, and what speaks against it.

What serves now can be asked before there is a candidate: how long that takes says what the rest of the judging will.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from habitab_adapters.estimates import Array, interval, resamples
from habitab_adapters.evaluate import Known, View, known_of
from habitab_adapters.ledger import Ledger
from habitab_adapters.lines import Plan
from habitab_adapters.registry import Registry
from habitab_adapters.repository import Repository
from habitab_engine.checkpoint import Checkpoint
from habitab_engine.lora import Lora
from habitab_engine.merging import merged, with_version

BEFORE = "before"


class Judge:
    """Asks the lines of `plans`, each of its own repository; what is asked stands in `ledger`, and is not asked again.

    `active` is the version that served when the judge was made ("" for the base alone).
    """

    def __init__(
        self,
        registry: Registry,
        checkpoint: Checkpoint,
        plans: Sequence[tuple[Repository, Plan]],
        ledger: Path,
        tell: Callable[[str, float], None],
    ) -> None:
        self.active = registry.active or ""
        self._registry, self._checkpoint, self._plans = registry, checkpoint, plans
        self._ledger, self._tell = ledger, tell

    @property
    def commits(self) -> list[str]:
        """Of each line the commit that wrote it."""
        return [commit for _, plan in self._plans for commit in plan.commits]

    def before(self) -> list[Known]:
        """What is known of the lines with what serves now."""
        return self._asked(BEFORE, self._serving, "Before")

    def after(self, lora: Lora) -> dict[str, Any]:
        """What `lora` changes."""
        found = self._asked(f"{lora.alpha:g}", lambda: merged(self._checkpoint, lora), "After")
        return compared(self.before(), found, self.commits)

    def _serving(self) -> Checkpoint:
        return with_version(self._checkpoint, self._registry.folder, self.active) if self.active else self._checkpoint

    def _asked(self, column: str, weights: Callable[[], Checkpoint], phase: str) -> list[Known]:
        with Ledger(self._ledger, Known) as ledger:
            return known_of(weights, {column: View()}, self._plans, ledger, partial(self._tell, phase))[column]


def compared(before: Sequence[Known], after: Sequence[Known], commits: Sequence[str]) -> dict[str, Any]:
    """What changed on the same lines, with 95 % intervals of a bootstrap over their commits."""
    names = {commit: i for i, commit in enumerate(dict.fromkeys(commits))}
    sums = np.zeros((len(names), 12))
    for commit, old, new in zip(commits, before, after, strict=True):
        sums[names[commit]] += (
            *(old.asked, old.bytes, old.exact, new.exact),
            *(old.bits, new.bits, old.net, new.net),
            *(old.suggested, new.suggested, old.parsed, new.parsed),
        )
    drawn = resamples(len(names)) @ sums
    asked, size, exact, exact_new, bits, bits_new, net, net_new, *_ = sums.sum(0)
    points = 100 * (drawn[:, 3] - drawn[:, 2]) / drawn[:, 0]
    sound, sound_new = _shares(sums.sum(0, keepdims=True))
    return {
        "positions": int(asked),
        "commits": len(names),
        "exact_before": round(exact / asked, 4),
        "exact_after": round(exact_new / asked, 4),
        "exact_points": interval(points),
        "net_before": round(net, 1),
        "net_after": round(net_new, 1),
        "net_gain": interval(drawn[:, 7] - drawn[:, 6]),
        "bits_before": round(bits / size, 4),
        "bits_after": round(bits_new / size, 4),
        "bits_ratio": interval(drawn[:, 5] / drawn[:, 4]),
        "parsed_before": round(float(sound[0]), 4),
        "parsed_after": round(float(sound_new[0]), 4),
        "parsed_points": interval(100 * np.subtract(*_shares(drawn)[::-1])),
    }


def _shares(sums: Array) -> tuple[Array, Array]:
    """Of what was suggested, the part that could be parsed, before and after: [n] each of sums [n, 12]."""
    return sums[:, 10] / np.maximum(sums[:, 8], 1), sums[:, 11] / np.maximum(sums[:, 9], 1)


def reasons(own: Mapping[str, Any]) -> tuple[str, ...]:
    """What speaks against it; nothing if it is better."""
    found = []
    if own["bits_ratio"] is None or own["bits_ratio"][1] >= 1:
        found.append("It is not surely better on your own later lines.")
    if own["net_after"] < own["net_before"]:
        found.append("What it shows would have saved you fewer characters.")
    if own["parsed_points"] is not None and own["parsed_points"][1] < 0:
        found.append("What it suggests breaks the syntax of your files more often.")
    return tuple(found)


def gain(own: Mapping[str, Any]) -> str:
    saved = 100 * (1 - own["bits_after"] / own["bits_before"])
    points = 100 * (own["exact_after"] - own["exact_before"])
    return f"Your own later lines cost {saved:.1f} % fewer bits, and {points:+.1f} % more of them were right."
