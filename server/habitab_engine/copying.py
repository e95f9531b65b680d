"""The rest of a line as the longest match in the workspace goes on, and whether that or the model's line is right.

p = (1 − λ)·p_model + λ·p_memory over whole lines: a copy's first token is less likely than what the model says, as a
rule, and behind it hardly anything is lost, so that mixing token by token seldom writes it to its end. λ depends on
the match; how likely each of the two lines is right, on what both have for them. That decides which one is suggested,
and by it the gate shows or hides that one. All are logistic regressions fitted on the past.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from habitab_engine.memory import Memory
from habitab_engine.windows import AHEAD

# Fitted at every cursor of 237 lines in six histories (Rust, JavaScript, Python, Java, Go, C), none of them one of the
# README's: that a copy is the rest of the line (5,700 cursors), and that the model's line is (8,500). With the weights
# of the other five each history but one had more characters completed than without copies, 9 % in the median.
COPY = (-2.405, 0.705, -0.145, 0.648, 1.097, 0.349, -1.019, -0.059, -0.683)
OWN = (1.134, 1.236, 1.47, -0.28, 0.035)
# What the two say of their own lines weighed together: 1, the logits of the model's and of λ, and the logarithm of the
# copy's length. Fitted at all cursors of 480 lines in eight histories (Python, TypeScript, JavaScript, Go, Rust, Java;
# 18,574 cursors), none of them one of the README's. Long copies are right more often than λ says.
ALONE = (-0.33, 1.016)
ALIKE = (1.2, 0.49, 0.763)
OWN_BESIDE = (1.193, 0.954, -0.102, -0.618)
COPY_BESIDE = (-3.733, -0.194, 1.085, 0.862)
LEAST = 0.01  # what is less likely counts as this likely
MOST_STEPS = 4  # of `AHEAD` tokens each: no copy is longer


@dataclass(frozen=True, slots=True)
class Copy:
    """`ids` are the tokens behind the prompt's, the one that ends the line included; `text` stands behind the cursor.

    `matched` characters before `text` stand there too, and of all `places` with them `share` go on with its beginning.
    `typed` characters of its line stand before the cursor.
    """

    ids: tuple[int, ...]
    text: str
    matched: int
    share: float
    places: int
    typed: int

    @property
    def trust(self) -> float:
        """λ: that it is right, whatever the model says."""
        length = math.log(self.matched)
        return _logistic(
            COPY,
            (
                1.0,
                length,
                length**2,
                self.share,
                self.share * length,
                math.log(self.places),
                math.log1p(len(self.text)),
                math.log1p(self.typed),
                float(self.typed == 0),
            ),
        )


def own_probability(logprobs: Sequence[float]) -> float:
    """That the model's line is right, from the log-probabilities of its tokens."""
    if not logprobs:
        return 0.0
    total = math.fsum(logprobs)
    return _logistic(OWN, (1.0, total / len(logprobs), total, min(logprobs), len(logprobs)))


def first_line(text: str) -> str:
    """What of a suggestion is compared with the rest of a line."""
    return text.partition("\n")[0].rstrip()


def weighed(own: float, text: str, copy: Copy | None) -> tuple[float, float]:
    """That the first line of the model's `text` is right, by itself so with the probability `own`, and that `copy` is.

    The second is 0 where there is no copy, or none that says something else; both are 0 for what is not there.
    """
    if copy is None:
        return _logistic(ALONE, (1.0, _logit(own))) if own else 0.0, 0.0
    sure = 1.0, _logit(own), _logit(copy.trust)
    if first_line(text) == copy.text:
        return _logistic(ALIKE, sure), 0.0
    beside = *sure, math.log1p(len(copy.text))
    return _logistic(OWN_BESIDE, beside) if own else 0.0, _logistic(COPY_BESIDE, beside)


def _logistic(weights: Sequence[float], features: Sequence[float]) -> float:
    score = math.fsum(w * x for w, x in zip(weights, features, strict=True))
    return 1 / (1 + math.exp(min(-score, 700.0)))  # beyond that it would overflow


def _logit(probability: float) -> float:
    bounded = min(max(probability, LEAST), 1 - LEAST)
    return math.log(bounded / (1 - bounded))


Places = list[tuple[list[int], float]]  # the tokens behind each, and its weight


def copied(memory: Memory, pieces: Sequence[bytes], context: Sequence[int], healed: bytes, typed: int) -> Copy | None:
    """What the memory would write behind the tokens `context`, to the end of the line; it begins with `healed`.

    None where no match agrees with that, or its line does not end. `pieces` are the bytes of each token, `typed` is as
    in `Copy`.
    """
    length, places = _agreeing(memory, pieces, context, healed)
    shares: dict[bytes, float] = defaultdict(float)
    for ids, weight in places:
        shares[_line(ids, pieces, healed)] += weight
    best = max(shares, key=shares.__getitem__, default=b"")
    if not best.strip():
        return None
    begun = next(ids for ids, _ in places if _line(ids, pieces, healed) == best)
    ids = _to_the_end(memory, pieces, context, begun, healed)
    text = _line(ids, pieces, healed).decode("utf-8", "ignore")
    matched = sum(len(pieces[i]) for i in context[-length:]) + len(healed)
    share = shares[best] / sum(shares.values())
    return Copy(tuple(ids), text, matched, share, len(places), typed) if ids else None


def _agreeing(memory: Memory, pieces: Sequence[bytes], context: Sequence[int], healed: bytes) -> tuple[int, Places]:
    """The places behind the longest match that go on with `healed`, or behind one of half its length, and so on."""
    length = len(context)
    while length and (found := memory.followers(context[-length:], AHEAD)):
        length, places = found
        agreeing = [(ids, weight) for ids, weight in places if _written(ids, pieces).startswith(healed)]
        if agreeing:
            return length, agreeing
        length //= 2
    return 0, []


def _written(ids: Sequence[int], pieces: Sequence[bytes]) -> bytes:
    return b"".join(pieces[i] for i in ids)


def _line(ids: Sequence[int], pieces: Sequence[bytes], healed: bytes) -> bytes:
    """The rest of the line behind `healed`, without blanks at its end."""
    return _written(ids, pieces)[len(healed) :].partition(b"\n")[0].rstrip()


def _to_the_end(
    memory: Memory, pieces: Sequence[bytes], context: Sequence[int], begun: Sequence[int], healed: bytes
) -> list[int]:
    """`begun` up to the token that ends the line, which is gone on with where that is further away; none if it is not
    found."""
    ids = list(begun)
    for _ in range(MOST_STEPS):
        if b"\n" in _written(ids, pieces)[len(healed) :]:
            return next(
                ids[:end] for end in range(1, len(ids) + 1) if b"\n" in _written(ids[:end], pieces)[len(healed) :]
            )
        more = memory.draft([*context, *ids], AHEAD)
        if not more:
            break
        ids += more
    return []
