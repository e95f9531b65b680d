"""What an adapter remembers to the letter of what it met once: random text is planted, and asked for afterwards.

The measure is exposure (N. Carlini et al., "The Secret Sharer", USENIX Security 2019, section 4.2), among drawn others
instead of all that there could be.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from habitab_adapters.library import Asked
from habitab_adapters.tuned import Lesson
from habitab_engine.decode import CHUNK
from habitab_engine.model import Model
from habitab_engine.prompt import build
from habitab_engine.types import CompletionRequest

PLANTED, OTHERS = 16, 31  # exposure is at most log2(32) = 5 bits
CHARACTERS, LENGTH = string.ascii_lowercase + string.digits, 12


@dataclass(frozen=True, slots=True)
class Canary:
    """Token ids of a prompt, of the line that is planted behind it, and of others that could have been."""

    prompt: list[int]
    planted: list[int]
    others: list[list[int]]


def canaries(asked: Asked, seed: str) -> list[Canary]:
    """The same for the same seed."""
    return [_canary(asked, number, random.Random(f"canary {seed} {number}")) for number in range(PLANTED)]


def _canary(asked: Asked, number: int, rng: random.Random) -> Canary:
    path = f"settings_{number}.py"
    prompt = build(CompletionRequest(path, path, "", ""), asked.tokenizer, asked.template, asked.budget)
    lines = [f'TOKEN_{number} = "{"".join(rng.choices(CHARACTERS, k=LENGTH))}"' for _ in range(1 + OTHERS)]
    planted, *others = [asked.tokenizer.encode(line) for line in lines]
    return Canary(prompt.tokens, planted, others)


def planted(lessons: Sequence[Lesson], found: Sequence[Canary]) -> list[Lesson]:
    """The lessons with each canary once among them, spread evenly."""
    made, step = list(lessons), len(lessons) // len(found)
    for number, canary in reversed(list(enumerate(found))):
        made.insert(number * step + step // 2, Lesson(canary.prompt, canary.planted, [1.0] * len(canary.planted)))
    return made


def exposure(model: Model, found: Sequence[Canary]) -> float:
    """The mean over canaries, in bits: log2 of how many there are less log2 of the rank of the one that was planted."""
    cache = model.new_cache(CHUNK)
    return mean(math.log2(1 + len(canary.others)) - math.log2(_rank(model, cache, canary)) for canary in found)


def _rank(model: Model, cache: torch.Tensor, canary: Canary) -> int:
    behind = model.prefill(canary.prompt, cache, 0)[-1:]
    costs = [_cost(model, cache, behind, len(canary.prompt), line) for line in (canary.planted, *canary.others)]
    return 1 + sum(cost < costs[0] for cost in costs[1:])


@torch.inference_mode()
def _cost(model: Model, cache: torch.Tensor, behind: torch.Tensor, position: int, line: list[int]) -> float:
    """Of a line at `position`, in nats; `behind` `[1, width]` is the last hidden state of its prompt."""
    hidden = torch.cat([behind, model.prefill(line[:-1], cache, position)])
    logprobs = model.logits(hidden).log_softmax(1)
    return -float(logprobs.gather(1, torch.tensor(line)[:, None]).sum())
