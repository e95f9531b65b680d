"""How strong an adapter may be: on strangers' code it may cost hardly more, and remember nothing that it met once.

What an update costs grows with the square of its scale, about, and what it remembers with the scale at most, so that
each try says how strong the next may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from habitab_adapters.canaries import Canary, exposure
from habitab_adapters.strangers import Strangers
from habitab_engine.checkpoint import Checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.lora import Lora
from habitab_engine.merging import merged
from habitab_engine.model import Model

MOST_BITS, MOST_KL = 0.02, 0.05  # on strangers' code: more bits a token, nats of KL(base || new)
MOST_EXPOSED = 1.0  # bits of canaries more than of the same lines before
LEAST_SCALE, CAUTION, TRIES = 0.1, 0.93, 5  # of an adapter; how much weaker it is made than seems enough; how often
SAMPLE = 5  # every fifth place tells whether all have to be asked


def asked_base(checkpoint: Checkpoint, answers: Path, tell: Callable[[str, float], None]) -> None:
    """Ask the base of strangers' code, which needs no adapter yet; what it says stands in the folder `answers`."""
    with closing(Strangers(checkpoint, EngineSettings(), answers)) as strangers:
        strangers.ask_base(lambda done: tell("Strangers", done))


def weakened(
    checkpoint: Checkpoint, lora: Lora, hidden: Sequence[Canary], answers: Path, tell: Callable[[str, float], None]
) -> tuple[Lora, dict[str, Any], str]:
    """The adapter as strong as it may be; what it costs then; what speaks against it ("" if nothing does).

    `hidden` are the canaries that were met in training; they are asked for first, since that is soon done. The scale is
    looked for at some of the strangers' places and then has to hold at all of them. `answers` is as in `asked_base`.
    """
    low, scale, metrics = 0.0, 1.0, dict[str, Any]()
    with closing(Strangers(checkpoint, EngineSettings(), answers)) as strangers:
        control = exposure(strangers.base, hidden) if hidden else 0.0
        for _ in range(TRIES):
            weak = merged(checkpoint, lora.scaled(scale))
            metrics["scale"] = round(scale, 4)
            too_much = _exposed(strangers, weak, hidden, control, metrics)
            for stride in (SAMPLE, 1):
                if too_much <= 1:
                    too_much = _cost(strangers, weak, stride, metrics, tell)
            if too_much <= 1:
                low = scale
            if low or scale == LEAST_SCALE:
                break
            scale = max(LEAST_SCALE, scale * CAUTION / too_much)
    if not low:
        return lora, metrics, "It cost too much on strangers' code or remembered random text, however weak it was made."
    return lora.scaled(low), metrics, ""


def _cost(
    strangers: Strangers, weak: Checkpoint, stride: int, metrics: dict[str, Any], tell: Callable[[str, float], None]
) -> float:
    """How many times too strong it is by what it costs on strangers' code."""
    found = strangers.compare(weak, lambda done: tell("Strangers", done), stride=stride)
    metrics.update(
        strangers_bits_per_token=round(found.bits_per_token_delta, 4),
        strangers_kl_nats=round(found.kl_nats, 4),
        strangers_exact_match=round(found.exact_match_delta, 4),
    )
    return math.sqrt(max(found.bits_per_token_delta / MOST_BITS, found.kl_nats / MOST_KL, 0.0))


def _exposed(
    strangers: Strangers, weak: Checkpoint, hidden: Sequence[Canary], control: float, metrics: dict[str, Any]
) -> float:
    """How many times too strong it is by what it remembers. Few canaries rank anywhere by chance, so that the `control`
    is what the base says of the same ones."""
    if not hidden:
        return 0.0
    more = exposure(Model(weak, strangers.base.kernels), hidden) - control
    metrics["canary_bits"] = round(more, 4)
    return more / MOST_EXPOSED
