"""What a training run tells: a JSON line a step, a line for a person now and then, and the sums at the end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from habitab_adapters.pretrain.batches import Batch
from habitab_adapters.pretrain.machine import Machine
from habitab_adapters.pretrain.network import Network
from habitab_engine.errors import InputError

# Losses in a row that are not finite and end the run, and seconds between two lines of progress.
MOST_SKIPPED, TELL_SECONDS = 10, 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it was issued; `loss` and `norm` (of the gradient) may still be on their way on the device."""

    number: int
    loss: Tensor
    norm: Tensor
    rate: float
    tokens: int
    flops: float


class Report:
    """Reads losses from the device several steps at a time, writes the log and counts what was skipped."""

    def __init__(self, path: Path, machine: Machine, steps: int, skipped: int, tell: Callable[[str], None]) -> None:
        self.skipped = skipped
        self._path, self._machine, self._steps, self._tell = path, machine, steps, tell
        self._waiting: list[Step] = []
        self._losses: list[float] = []
        self._begun = time.monotonic()
        self._tokens, self._flops, self._in_row = 0, 0.0, 0
        self._told = (self._begun, 0, 0.0)  # when, and the tokens and operations until then

    def add(self, step: Step) -> None:
        """Takes a step; every few steps all are read, which waits for the device.

        Raises InputError where ten losses in a row are not finite.
        """
        self._waiting.append(step)
        if len(self._waiting) >= self._machine.steps_between_reads:
            self.read()

    def read(self) -> None:
        """Everything that waits, read, written to the log and counted."""
        if not self._waiting:
            return
        values = torch.stack([torch.stack([step.loss, step.norm]) for step in self._waiting]).tolist()
        lines = []
        for step, (loss, norm) in zip(self._waiting, values, strict=True):
            good = math.isfinite(loss) and math.isfinite(norm)
            lines.append(_line(step, loss if good else None, norm if good else None))
            self._count(step, loss, good)
        self._waiting = []
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        if self._in_row >= MOST_SKIPPED:
            raise InputError(f"The loss was not finite {MOST_SKIPPED} steps in a row; train with a lower rate.")

    def _count(self, step: Step, loss: float, good: bool) -> None:
        self._in_row = 0 if good else self._in_row + 1
        self.skipped += not good
        self._losses += [loss] if good else []
        self._tokens += step.tokens
        self._flops += step.flops
        if time.monotonic() - self._told[0] >= TELL_SECONDS or step.number == self._steps:
            self._tell(self._said(step, loss))

    def _said(self, step: Step, loss: float) -> str:
        """One line; speeds are since the last line, so that compiling slows down the first one only."""
        then, self._told = self._told, (time.monotonic(), self._tokens, self._flops)
        seconds, tokens, flops = (new - old for new, old in zip(self._told, then, strict=True))
        speed = tokens / seconds
        peak = f", {flops / seconds / self._machine.peak:.0%} of the chip's peak" if self._machine.peak else ""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        left = (self._steps - step.number) * step.tokens / speed / 60
        return (
            f"step {step.number:,} of {self._steps:,}, loss {loss:.3f}, rate {step.rate:.1e}, "
            f"{speed:,.0f} tokens/s{peak}{skipped}, {left:,.0f} min left"
        )

    def summary(self) -> dict[str, Any]:
        """Tokens, seconds and speed of this call, and the mean loss of its last tenth (nats a token by weight)."""
        seconds = time.monotonic() - self._begun
        last = self._losses[-max(1, len(self._losses) // 10) :]
        return {
            "tokens": self._tokens,
            "seconds": seconds,
            "tokens_per_second": self._tokens / seconds,
            "share_of_peak": self._flops / seconds / self._machine.peak if self._machine.peak else None,
            "loss": sum(last) / len(last) if last else None,
            "skipped": self.skipped,
        }


def _line(step: Step, loss: float | None, norm: float | None) -> str:
    fields = {"step": step.number, "loss": loss, "norm": norm, "rate": step.rate, "tokens": step.tokens}
    return json.dumps(fields) + "\n"


def forget_after(path: Path, step: int) -> None:
    """Drops the log's lines after `step`: they are of steps that will be taken again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if 0 < _number(line) <= step), encoding="utf-8")


def _number(line: str) -> int:
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["step"])
    return 0  # a line that was being written when the run was killed


def flops(network: Network, batches: Sequence[Batch]) -> float:
    """Floating-point operations that one training step needs, padding and what is computed twice not counted.

    Six a matrix weight and token (arXiv 2001.08361, section 2.1; four where the weights are frozen), the head for
    the positions that count only, and causal attention with its half of the scores: 6·H·D·T² a layer and sequence.
    """
    config, matrices = network.config, network.matrix_weights()
    tokens = sum(sum(batch.lengths) for batch in batches)
    counted = sum(len(batch.picked) for batch in batches)
    squares = sum(length**2 for batch in batches for length in batch.lengths)
    each = 6 if network.embed.requires_grad else 4
    linear = each * (matrices * tokens + network.embed.numel() * counted)
    return linear + 6.0 * config.layers * config.heads * config.head_dim * squares
