"""How far to trust the memory: p = (1 − λ)·p_model + λ·p_memory (kNN-LM, arXiv 1911.00172), λ fitted on past text.

Two kinds of evidence: what followed the longest match (λ by its length, and by whether what followed was always the
same), and the names that begin as the word before the cursor does (λ by how much has been typed and how sure they are).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # the last match length of each row of the table but the last
UNANIMOUS = 0.9  # probability of the first token from which on the second column holds
# Fitted with `fit` on 34,900 tokens of four Python packages, written as in serving: the embedded base reads the text
# on both sides without snippets, the memory holds the rest of the file and the other files of the package.
WEIGHTS = (
    (0.02, 0.11),
    (0.06, 0.19),
    (0.09, 0.25),
    (0.14, 0.27),
    (0.14, 0.32),
    (0.09, 0.35),
    (0.19, 0.46),
    (0.29, 0.56),
    (0.18, 0.66),
    (0.53, 0.87),
)
NAMES = 0.65  # λ of names: the one with which most were completed, on 9,200 beginnings in seven packages
_UNLIKELY = 1e-6  # what the model gives at least to a token that begins a name; and less is not foreseen
_SUREST = 0.999  # λ stays below 1, so that every token keeps some probability


@dataclass(frozen=True, slots=True)
class Prediction:
    """The next token as the memory sees it: `ids` with their probabilities `probs`, to be mixed in with `weight`.

    `length` is that of the match in tokens, and 0 for names: then the model's own probabilities choose among them,
    as what has been typed and what the model says are independent evidence. What `probs` lack to 1 is the share of
    the names that have ended here.
    """

    length: int
    ids: Ids
    probs: Floats
    weight: float

    def mixed(self, model: Floats) -> tuple[Floats, float]:
        """The probabilities of `ids`, given the model's; and the factor for those of all other tokens."""
        own, weight = self._own(model)
        return (1 - weight) * model + weight * own, 1 - weight

    def belief(self, token: int, model: Floats) -> float:
        """The probability that it was the memory which wrote `token`; `model` as in `mixed`."""
        own, weight = self._own(model)
        at = self.ids == token
        share = weight * float(own[at].sum())
        return min(share / (share + (1 - weight) * float(model[at].sum())), _SUREST) if share else 0.0

    def among(self, allowed: Sequence[int], agreed: float) -> Prediction | None:
        """The same where only `allowed` tokens can come; None if hardly any of them is foreseen.

        To all of them together the model gives the probability `agreed`. That they agree with what was typed speaks
        for who expected it: λ follows Bayes' rule. That of names holds for what has been typed already.
        """
        kept = np.isin(self.ids, allowed)
        foreseen = float(self.probs[kept].sum())
        if foreseen < _UNLIKELY:
            return None
        ended, weight = max(0.0, 1 - float(self.probs.sum())), self.weight
        if self.length:
            share = weight * foreseen
            weight = min(share / (share + (1 - weight) * agreed), _SUREST)
        return replace(self, ids=self.ids[kept], probs=self.probs[kept] / (foreseen + ended), weight=weight)

    def _own(self, model: Floats) -> tuple[Floats, float]:
        """The memory's probabilities of `ids`, adding up to 1, and their weight."""
        if self.length:
            return self.probs, self.weight
        judged = self.probs * (model + _UNLIKELY)
        going = float(judged.sum())
        ended = (1 - float(self.probs.sum())) * (max(0.0, 1 - float(model.sum())) + _UNLIKELY)
        return judged / going, self.weight * going / (going + max(0.0, ended))


@dataclass(frozen=True, slots=True)
class Spelling:
    """The names that may stand here, as the tokens of each that are still to come, with its share.

    `weight` follows Bayes' rule from token to token, so that whole names are mixed in, not single tokens.
    """

    names: tuple[tuple[tuple[int, ...], float], ...]
    weight: float = NAMES

    def predict(self) -> Prediction | None:
        """The next token; None where no name goes on."""
        shares: dict[int, float] = defaultdict(float)
        for ids, share in self.names:
            if ids:
                shares[ids[0]] += share
        if not shares:
            return None
        total = sum(share for _, share in self.names)
        return Prediction(0, np.array(list(shares)), np.array(list(shares.values())) / total, self.weight)

    def after(self, token: int, belief: float) -> Spelling:
        """What is left of it once `token` is written; `belief` is the prediction's of it."""
        return Spelling(tuple((ids[1:], share) for ids, share in self.names if ids[:1] == (token,)), belief)


def cell(length: int, best: float) -> tuple[int, int]:
    """Row and column of the table for a match of `length` tokens whose likeliest next token has probability `best`."""
    return bisect_left(LENGTHS, length), int(best >= UNANIMOUS)


def fit(cells: npt.NDArray[np.integer], model: Floats, memory: Floats, rounds: int = 50) -> Floats:
    """The table of λ that makes past tokens likeliest, by expectation maximisation; 0 where nothing was seen.

    For each token: its cell `[N, 2]`, and the probability that the model and the memory gave it, `[N]` each.
    """
    shape = (len(LENGTHS) + 1, 2)
    weights = np.full(shape, 0.5)
    place = np.ravel_multi_index((cells[:, 0], cells[:, 1]), shape)
    seen = np.bincount(place, minlength=weights.size)
    for _ in range(rounds):
        share = weights.ravel()[place] * memory
        share /= np.maximum(share + (1 - weights.ravel()[place]) * model, 1e-30)
        weights = (np.bincount(place, share, weights.size) / np.maximum(seen, 1)).reshape(shape)
    return weights
