"""The loop that trains an adapter: AdamW (arXiv 1711.05101) over low-rank factors, for as long as there is time.

One pass over what the person wrote, the newer the earlier, with a learning rate that falls with the time or the
examples that are left, whichever ends first. Every second step rehearses a place of public code, where the network is
to say what it said before: what is learned of one person changes little else. Lines that are not trained on say now and
then whether it still helps; the best state is what comes out.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from habitab_adapters.pretrain.checkpoints import latest, save
from habitab_adapters.pretrain.loss import weighted_cross_entropy
from habitab_adapters.pretrain.machine import choose_machine
from habitab_adapters.tuned import Lesson, Tuned
from habitab_engine.checkpoint import Checkpoint
from habitab_engine.errors import InputError
from habitab_engine.lora import Lora
from habitab_engine.trim import trim

BETAS = (0.9, 0.95)
WARM_UP, FINAL = 10, 0.1  # steps until the full rate, and its share at the end
NEWER = 3.0  # how many times as early the newest examples come as the oldest, on average
REHEARSING_STEPS = 2  # from one to the next
JUDGE_STEPS = 75  # steps between two looks at what is not trained on
SAVE_SECONDS = 120.0
TRIM_STEPS = 8  # batches of many shapes leave holes in memory that is kept
PATIENCE = 3  # steps in a row whose gradients may be no numbers


@dataclass(frozen=True, slots=True)
class Course:
    """How an adapter is trained; rate and `hold` are the best of what was tried (FINDINGS.md), a batch is one long
    example, the rest is usual."""

    rank: int = 16
    alpha: float = 32.0
    rate: float = 1e-3
    batch: int = 1
    passes: float = 1.0
    clip: float = 1.0
    hold: float = 2.0  # weight of KL(base || now) in nats a token where something is rehearsed
    seconds: float = 900.0
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the training is: `done` is a share of all, `loss` in nats a token of what was trained on lately."""

    step: int
    done: float
    loss: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Trained:
    """The best state; `losses` are (step, nats a token) on what was not trained on, beginning before the first step;
    `seen` are the examples that it has been trained on."""

    lora: Lora
    step: int
    steps: int
    tokens: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    seen: frozenset[int]


def order(count: int, passes: float, seed: int) -> list[int]:
    """The examples 0 (oldest) to `count` - 1 in the order in which they are trained on, newer ones earlier on average.

    Each pass has all of them: those with the smallest -log(u) / weight first (weighted sampling without replacement,
    Efraimidis and Spirakis, 2006).
    """
    rng, chosen = random.Random(seed), list[int]()
    while len(chosen) < round(count * passes):
        weights = [1 + (NEWER - 1) * i / max(1, count - 1) for i in range(count)]
        keys = [-math.log(1 - rng.random()) / weight for weight in weights]
        chosen += sorted(range(count), key=keys.__getitem__)
    return chosen[: round(count * passes)]


class Training:
    """One run; `folder` keeps its state, so that a killed run goes on."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        lessons: Sequence[Lesson],
        course: Course,
        folder: Path,
        rehearsed: Sequence[Lesson] = (),
    ) -> None:
        """`lessons` from the oldest to the newest; what is `rehearsed` is not learned but kept as it is."""
        machine = choose_machine(course.device)
        self._base_id, self._course, self._folder, self._lessons = checkpoint.base_id, course, folder, lessons
        self._network = Tuned(checkpoint, course.rank, course.alpha, course.seed, machine.kind, machine.device)
        self._params = dict(self._network.factors.items())
        self._optimiser = torch.optim.AdamW(self._params.values(), lr=0.0, betas=BETAS, weight_decay=0.0)
        self._order = order(len(lessons), course.passes, course.seed)
        self._steps = -(-len(self._order) // course.batch)
        self._step, self._spent, self._tokens, self._odd = 0, 0.0, 0, 0
        self._losses: list[tuple[int, float]] = []
        self._best: dict[str, Tensor] = self._copied()
        self._rehearsed, self._said = rehearsed, self._before(rehearsed)

    def run(self, unseen: Sequence[Lesson], tell: Callable[[Moment], None]) -> Trained:
        """Train until the examples or the seconds are used up, and return the state that was best on `unseen`.

        Raises InputError where the loss is no number, or `folder` cannot be written.
        """
        self._resume()
        begun = saved = time.monotonic() - self._spent
        recent: list[float] = []
        if not self._losses:
            self._look(unseen)
        while (done := self._done()) < 1:
            recent = [*recent[-19:], self._train(done)]
            self._spent = time.monotonic() - begun
            tell(Moment(self._step, self._done(), sum(recent) / len(recent), self._tokens / self._spent))
            if self._step % TRIM_STEPS == 0:
                trim()
            if self._step % JUDGE_STEPS == 0 or self._done() >= 1:
                self._look(unseen)
            if time.monotonic() - saved >= SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()
        step = min(self._losses, key=lambda found: found[1])[0]
        seen = frozenset(self._order[: step * self._course.batch])
        return Trained(self._lora(), step, self._step, self._tokens, self._spent, tuple(self._losses), seen)

    def _done(self) -> float:
        return min(1.0, max(self._step / max(1, self._steps), self._spent / self._course.seconds))

    def _train(self, done: float) -> float:
        """One update; it is left out where a gradient is no number."""
        size = self._course.batch
        chosen = [self._lessons[i] for i in self._order[self._step * size : (self._step + 1) * size]]
        loss = self._backward(chosen)
        turn, rest = divmod(self._step, REHEARSING_STEPS)
        if self._rehearsed and not rest:
            self._hold(turn % len(self._rehearsed))
        norm = nn.utils.clip_grad_norm_(self._params.values(), self._course.clip)
        if bool(torch.isfinite(norm + loss)):
            for group in self._optimiser.param_groups:
                group["lr"] = self._rate(done)
            self._optimiser.step()
            self._odd = 0
        elif self._odd < PATIENCE:
            self._odd += 1
        else:
            raise InputError("The training's loss is no number any more: learn again with fewer examples.")
        self._optimiser.zero_grad()
        self._step += 1
        self._tokens += sum(len(lesson.prompt) + len(lesson.written) for lesson in chosen)
        return float(loss)

    def _rate(self, done: float) -> float:
        """A linear warm-up, then a cosine (arXiv 1608.03983) to `FINAL`."""
        fallen = FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * done))
        return self._course.rate * min(1.0, (self._step + 1) / WARM_UP) * fallen

    def _backward(self, lessons: Sequence[Lesson]) -> Tensor:
        """Form the gradients of the mean loss of what counts, in nats a token, and return it."""
        counted = max(sum(sum(lesson.weights) for lesson in lessons), 1e-6)
        whole = torch.zeros(())
        for written, hidden in self._network.passes(lessons):
            loss = self._loss(written, hidden) / counted
            loss.backward()
            whole += loss.detach().cpu()
        return whole

    @torch.no_grad()
    def _before(self, lessons: Sequence[Lesson]) -> list[Tensor]:
        """The base's last hidden states of each lesson: no update has begun yet."""
        return [self._network([lesson]) for lesson in lessons]

    def _hold(self, which: int) -> None:
        """Add the gradients of `hold` times the mean KL(base || now) of one lesson that is rehearsed."""
        hidden, head = self._network([self._rehearsed[which]]), self._network.embed
        with torch.no_grad():
            # The gradient of KL(p || q) by q's logits is q - p.
            said, now = self._network.logits(self._said[which]), self._network.logits(hidden)
            slope = (now.float().softmax(1) - said.float().softmax(1)) * (self._course.hold / len(hidden))
        hidden.backward(slope.to(head.dtype) @ head)

    def _loss(self, lessons: Sequence[Lesson], hidden: Tensor) -> Tensor:
        """The sum of the loss of what counts, in nats, where `hidden` are the states before each token written."""
        weights = torch.tensor([w for lesson in lessons for w in lesson.weights], device=hidden.device)
        targets = torch.tensor([t for lesson in lessons for t in lesson.written], device=hidden.device)
        counted = weights > 0
        head, logits = self._network.embed, self._network.logits
        return weighted_cross_entropy(hidden[counted], head, targets[counted], weights[counted], logits)

    @torch.no_grad()
    def _look(self, unseen: Sequence[Lesson]) -> None:
        """Note the loss of what is not trained on; keep the state if it is the best so far."""
        counted = sum(sum(lesson.weights) for lesson in unseen)
        loss = sum(float(self._loss(*one)) for one in self._network.passes(unseen)) / counted if counted else 0.0
        if all(loss < known for _, known in self._losses) or not counted:
            self._best = self._copied()
        self._losses.append((self._step, loss))

    def _copied(self) -> dict[str, Tensor]:
        return {name: p.detach().to("cpu", copy=True) for name, p in self._params.items()}

    def _lora(self) -> Lora:
        """The best state, rounded as it is stored."""
        with torch.no_grad():
            for name, p in self._params.items():
                p.copy_(self._best[name])
        factors = {name: (a.half().numpy(), b.half().numpy()) for name, a, b in self._network.updates()}
        return Lora(self._course.rank, self._course.alpha, self._base_id, factors)

    def _save(self) -> None:
        tensors = {f"now.{name}": p.detach().cpu() for name, p in self._params.items()}
        tensors |= {f"best.{name}": p for name, p in self._best.items()}
        for name, p in self._params.items():
            tensors |= {f"{key}.{name}": value.cpu() for key, value in self._optimiser.state[p].items()}
        notes = {"spent": self._spent, "tokens": self._tokens, "losses": self._losses, "seconds": self._course.seconds}
        save(self._folder, self._step, tensors, notes)

    def _resume(self) -> None:
        notes, tensors = latest(self._folder, lambda sentence: None) or ({}, {})
        if not notes:
            return
        self._step, self._spent, self._tokens = notes["step"], notes["spent"], notes["tokens"]
        self._losses = [(step, loss) for step, loss in notes["losses"]]
        self._course = replace(self._course, seconds=notes.get("seconds", self._course.seconds))  # as it began
        self._best = {name: tensors[f"best.{name}"] for name in self._params}
        for name, p in self._params.items():
            with torch.no_grad():
                p.copy_(tensors[f"now.{name}"])
            keys = ("step", "exp_avg", "exp_avg_sq")
            self._optimiser.state[p] = {key: tensors[f"{key}.{name}"].to(p.device) for key in keys}
