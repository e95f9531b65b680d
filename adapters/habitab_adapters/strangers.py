"""What an adapter costs on other people's code: a fixed choice of places in Python's standard library, asked twice.

Each place is asked as the engine asks. Everything behind the prompt's last special token counts. Text in any other
form, say whole files without lines below, would be cheaper by a tenth and would say less: a person never meets the
model there, and an adapter has never seen it.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from habitab_adapters.library import Place, judged
from habitab_adapters.pretrain.checkpoints import latest, save
from habitab_engine.checkpoint import Checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.copying import first_line
from habitab_engine.decode import CHUNK
from habitab_engine.engine import Engine, Prepared
from habitab_engine.model import Model, cut

RIGHT = "right"  # the name of the flags among the answers
_ROWS = 128  # positions whose logits exist at once: 17 MB of each model


@dataclass(frozen=True, slots=True)
class Forgetting:
    """New less base, over `tokens` tokens and `cursors` cursors; `bits_per_token` and `exact_match` are the base's.

    `kl_nats` is the mean of KL(base || new) over the whole vocabulary; `exact_match` the share of cursors behind which
    the rest of the line is suggested to the letter.
    """

    bits_per_token_delta: float
    kl_nats: float
    exact_match_delta: float
    bits_per_token: float
    exact_match: float
    tokens: int
    cursors: int


class Strangers:
    """What a base says of strangers' code, computed once and kept (115 MB), so that several adapters can be compared
    with it.

    `answers` is a folder in which all that the base says stands once `ask_base` is done.
    """

    def __init__(self, base: Checkpoint, settings: EngineSettings | None = None, answers: Path | None = None) -> None:
        """Raises InputError where the standard library is not there as source code."""
        self._engine = Engine(base, settings or EngineSettings())
        self._base, self._places = self._engine.model, list(judged(self._engine))
        self._answers = answers
        self._said = _kept(answers, _mark(self._places)) if answers else {}

    @property
    def base(self) -> Model:
        """For what is asked beside."""
        return self._base

    def ask_base(self, tell: Callable[[float], object] = bool, stop: threading.Event | None = None) -> None:
        """Ask the base at every place that it was not asked at; `tell` is told the share that is done.

        Raises Cancelled once `stop` is set, InputError where the answers cannot be written.
        """
        missing = [i for i in range(len(self._places)) if i not in self._said]
        for number, i in enumerate(missing, 1):
            self._said[i] = self._look(self._places[i], stop or threading.Event())
            tell(number / len(missing))
        if missing and self._answers:
            right = torch.tensor([self._said[i][1] for i in range(len(self._places))])
            states = {str(i): hidden for i, (hidden, _) in self._said.items()}
            save(self._answers, len(states), states | {RIGHT: right}, {"places": _mark(self._places)})

    def compare(
        self,
        new: Checkpoint,
        tell: Callable[[float], object] = bool,
        stop: threading.Event | None = None,
        stride: int = 1,
    ) -> Forgetting:
        """`new` against the base, at every `stride`th place; `tell` is told the share that is done.

        Raises Cancelled once `stop` is set.
        """
        stop, chosen = stop or threading.Event(), range(0, len(self._places), stride)
        missing = [i for i in chosen if i not in self._said]
        counted = count(1)

        def look(i: int) -> tuple[Tensor, bool]:
            found = self._look(self._places[i], stop)
            tell(next(counted) / (len(missing) + len(chosen)))
            return found

        self._said |= {i: look(i) for i in missing}
        model, costs, right = Model(new, self._base.kernels), torch.zeros(3, dtype=torch.float64), 0
        self._engine.exchange(Prepared("", model))
        try:
            for i in chosen:
                place, (after, is_right) = self._places[i], look(i)
                costs += _costs(self._base, self._said[i][0], model, after, place.tokens[place.given :])
                right += is_right
        finally:
            self._engine.exchange(Prepared("", self._base))
        return self._forgetting(costs, right, chosen)

    def _forgetting(self, costs: Tensor, right: int, chosen: range) -> Forgetting:
        tokens = sum(len(self._places[i].tokens) - self._places[i].given for i in chosen)
        base, new, divergence = (costs / tokens).tolist()
        right_before, cursors = sum(self._said[i][1] for i in chosen), len(chosen)
        return Forgetting(
            bits_per_token_delta=(new - base) / math.log(2),
            kl_nats=divergence,
            exact_match_delta=(right - right_before) / cursors,
            bits_per_token=base / math.log(2),
            exact_match=right_before / cursors,
            tokens=tokens,
            cursors=cursors,
        )

    def _look(self, place: Place, stop: threading.Event) -> tuple[Tensor, bool]:
        """The last hidden states before each token that counts, `[N, width]`, and whether the line is right.

        The suggestion finds its prompt in the KV cache that the tokens leave behind.
        """
        model, slot, tokens = self._engine.model, self._engine.slot(place.request.document), place.tokens[:-1]
        slot.overwrite(0)
        parts = [
            model.prefill(tokens[begin:end], slot.cache, begin, stop.is_set) for begin, end in cut(len(tokens), CHUNK)
        ]
        slot.tokens = list(tokens)
        found = self._engine.complete(place.request, stop).suggestions
        suggested = first_line(found[0].text) if found else ""
        return torch.cat(parts)[place.given - 1 :], suggested == place.rest

    def close(self) -> None:
        self._engine.close()


def compare(
    base: Checkpoint,
    new: Checkpoint,
    tell: Callable[[float], object] = bool,
    stop: threading.Event | None = None,
    settings: EngineSettings | None = None,
) -> Forgetting:
    """One comparison, as in `Strangers`."""
    strangers = Strangers(base, settings)
    try:
        return strangers.compare(new, tell, stop)
    finally:
        strangers.close()


def _mark(places: Sequence[Place]) -> str:
    """Of what is asked: another Python has another library."""
    return hashlib.sha256(json.dumps([place.tokens for place in places]).encode()).hexdigest()


def _kept(answers: Path, mark: str) -> dict[int, tuple[Tensor, bool]]:
    """What the base answered in an earlier run; nothing where that is missing, damaged, or of other places."""
    notes, tensors = latest(answers, lambda sentence: None) or ({}, {})
    if notes.get("places") != mark:
        return {}
    return {i: (tensors[str(i)], right) for i, right in enumerate(tensors.get(RIGHT, torch.empty(0)).tolist())}


@torch.inference_mode()
def _costs(base: Model, before: Tensor, new: Model, after: Tensor, targets: list[int]) -> Tensor:
    """Sums over N positions, float64 `[3]` in nats: the cost of `targets` by either model, and KL(base || new)."""
    costs = torch.zeros(3, dtype=torch.float64)
    for begin, end in cut(len(targets), _ROWS):
        old, changed = base.logits(before[begin:end]).log_softmax(1), new.logits(after[begin:end]).log_softmax(1)
        at = torch.tensor(targets[begin:end])[:, None]
        divergence = functional.kl_div(changed, old, reduction="sum", log_target=True)
        costs += torch.stack([-old.gather(1, at).sum(), -changed.gather(1, at).sum(), divergence])
    return costs
