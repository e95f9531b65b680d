"""The training loop: the same on a CPU, CUDA and MPS, resumable to the bit on a CPU.

AdamW (arXiv 1711.05101) on float32 weights, a linear warm-up and a cosine (arXiv 1608.03983). The host never waits for
the device between two readings of the losses. On a CPU without matrix units each step computes with int8 rows, rounded
at random as they are for export.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from habitab_adapters.pretrain.batches import Batch, Examples, filled, load_examples, packed, schedule
from habitab_adapters.pretrain.checkpoints import latest, save, write_model, writing
from habitab_adapters.pretrain.loss import weighted_cross_entropy
from habitab_adapters.pretrain.machine import choose_machine
from habitab_adapters.pretrain.network import Network, floats, pruned
from habitab_adapters.pretrain.report import Report, Step, flops, forget_after
from habitab_engine.checkpoint import at_random, load_checkpoint
from habitab_engine.errors import InputError
from habitab_engine.trim import trim

LOG, MODEL = "log.jsonl", "model"
BETAS = (0.9, 0.95)
# Batches of many shapes leave holes in memory that is kept: three times what one step needs within fifty.
TRIM_STEPS = 8

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does. `warm_up` is a share of all steps, `final` of the peak rate.

    `rank` above 0 trains low-rank factors of the matrices and nothing else; `layers` are those of the start that are
    kept (None: all). `budget_seconds` ends one call early; the same call again goes on.
    """

    tokens: int
    step_tokens: int = 16_384
    peak_rate: float = 1.3e-4
    warm_up: float = 0.05
    final: float = 0.05
    decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    device: str = "auto"
    rank: int = 0
    layers: tuple[int, ...] | None = None
    checkpoint_seconds: float = 600.0
    budget_seconds: float = math.inf

    def __post_init__(self) -> None:
        """Raises InputError for numbers that make no sense."""
        if min(self.tokens, self.step_tokens, self.clip) <= 0 or min(self.peak_rate, self.decay, self.rank) < 0:
            raise InputError("Tokens, tokens a step and clip must be above 0, and rate, decay and rank not below it.")
        if not (0 <= self.warm_up <= 1 and 0 <= self.final <= 1):
            raise InputError("Warm-up and final rate are shares: choose them between 0 and 1.")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of `step` (from 0) of `steps`."""
        warm = max(1, round(self.warm_up * steps))
        if step < warm:
            return self.peak_rate * (step + 1) / warm
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        return self.peak_rate * (self.final + (1 - self.final) * cosine)

    def identity(self) -> dict[str, Any]:
        """What two calls must have in common to be one run; where and how long they run may differ."""
        return {k: v for k, v in asdict(self).items() if k not in ("device", "checkpoint_seconds", "budget_seconds")}


def train(start: Path | None, examples: Path, folder: Path, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Trains the model in `start` (None: the embedded base) on `examples`, and goes on where `folder` left off.

    `folder` gets the states, the log and the model (float32, as `load_checkpoint` reads it). Returns steps, finished,
    model, and of this call tokens, seconds, tokens_per_second, share_of_peak, loss, skipped. Raises InputError for
    what cannot be used or written and where the loss stays infinite, BaseModelError for a start that cannot be read.
    """
    source = load_checkpoint(start)
    config, tensors = source.config, floats(source)
    if plan.layers is not None:
        config, tensors = pruned(config, tensors, plan.layers)
    data = load_examples(examples, config.vocab)
    run = _Run(Network(config, tensors, plan.rank, plan.seed), data, folder, plan, progress)
    with writing(folder):
        run.resume(_digest(plan.identity(), source.sha256, data))
        result = run.to_the_end()
        write_model(folder / MODEL, source, config, run.network.tensors())
    return result | {"model": str(folder / MODEL)}


class _Run:
    """One call of `train`: the weights, the optimiser and the place in the schedule."""

    def __init__(self, network: Network, data: Examples, folder: Path, plan: Plan, progress: Progress) -> None:
        self.network, self.data, self.folder, self.plan, self.progress = network, data, folder, plan, progress
        self.steps = schedule(data.lengths, plan.tokens, plan.step_tokens, plan.seed)

    def resume(self, identity: str) -> None:
        """Takes up the newest state in the folder, if any; raises InputError where it is of another run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        notes, tensors = latest(self.folder, self.progress) or ({"step": 0, "skipped": 0, "kind": None}, {})
        if notes.setdefault("identity", identity) != identity:
            raise InputError(f"{self.folder} holds a run with another plan, start or examples; choose another folder.")
        self.machine = choose_machine(self.plan.device, notes["kind"])
        self.network.to(self.machine.device)
        if self.machine.compiled:
            self.network.compile_blocks()
        self.params = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.optimiser = _optimiser(self.params.values(), self.plan.decay)
        if tensors:
            _restore(self.params, self.optimiser, tensors)
            self.progress(f"Going on after step {notes['step']:,} of {len(self.steps):,}.")
        self.notes = {"identity": identity, "kind": self.machine.kind_name}
        self.done, self.skipped = notes["step"], notes["skipped"]
        forget_after(self.folder / LOG, self.done)

    def to_the_end(self) -> dict[str, Any]:
        """Steps until the schedule or the time is over; the state is saved in between and at the end."""
        report = Report(self.folder / LOG, self.machine, len(self.steps), self.skipped, self.progress)
        begun, before = time.monotonic(), self.done
        saved = begun
        while self.done < len(self.steps) and time.monotonic() - begun < self.plan.budget_seconds:
            report.add(self._step())
            if self.done % TRIM_STEPS == 0:
                trim()
            if time.monotonic() - saved >= self.plan.checkpoint_seconds:
                self._save(report)
                saved = time.monotonic()
        if self.done > before:
            self._save(report)
        return report.summary() | {"steps": self.done, "finished": self.done == len(self.steps)}

    def _step(self) -> Step:
        """One update; it is left out where a gradient is not finite, which only the device knows as yet."""
        if self.machine.rounded:  # the same numbers when a killed run takes this step again
            random = torch.Generator().manual_seed((self.plan.seed << 32) + self.done)
            self.network.round(partial(at_random, random))
        batches = list(self._batches())
        total = max(sum(float(batch.weights.sum()) for batch in batches), 1e-6)
        loss = torch.zeros((), device=self.machine.device)
        for batch in batches:
            loss += self._backward(batch.to(self.machine.device), total)
        norm = nn.utils.clip_grad_norm_(self.params.values(), self.plan.clip)
        rate = self.plan.rate(self.done, len(self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # As a gradient scaler does it: where this is 1, the fused kernel leaves weights and moments as they are.
        self.optimiser.found_inf = (~torch.isfinite(norm + loss)).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=False)
        self.done += 1
        tokens = sum(sum(batch.lengths) for batch in batches)
        return Step(self.done, loss, norm, rate, tokens, flops(self.network, batches))

    def _batches(self) -> Iterator[Batch]:
        chosen, most = self.steps.step(self.done), self.machine.batch_tokens
        return (filled if self.machine.compiled else packed)(self.data, chosen, most)

    def _backward(self, batch: Batch, total: float) -> Tensor:
        """Adds the gradients of one batch; returns its share of the step's mean loss."""
        seams = batch.ends if self.machine.compiled else batch.groups
        hidden = self.network(batch.tokens, batch.positions, seams, self.machine.kind)
        counted, head = hidden.index_select(0, batch.picked), self.network.head(self.machine.kind)
        loss = weighted_cross_entropy(counted, head, batch.targets, batch.weights, self.network.logits) / total
        loss.backward()
        return loss.detach()

    def _save(self, report: Report) -> None:
        report.read()
        save(self.folder, self.done, _state(self.params, self.optimiser), self.notes | {"skipped": report.skipped})


def _optimiser(params: Iterable[nn.Parameter], decay: float) -> torch.optim.AdamW:
    """AdamW, fused; only matrices decay, since a norm's gain has no reason to be small."""
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": decay}, {"params": [], "weight_decay": 0.0}]
    for p in params:
        groups[p.dim() == 1]["params"].append(p)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=BETAS, fused=True)


def _state(params: Mapping[str, nn.Parameter], optimiser: torch.optim.AdamW) -> dict[str, Tensor]:
    """Everything a run needs to go on, on the CPU."""
    named: dict[str, Tensor] = {}
    for name, p in params.items():
        named[f"weight.{name}"] = p.detach()
        named |= {f"{key}.{name}": value for key, value in optimiser.state[p].items()}
    return {name: tensor.cpu() for name, tensor in named.items()}


def _restore(params: Mapping[str, nn.Parameter], optimiser: torch.optim.AdamW, state: Mapping[str, Tensor]) -> None:
    for name, p in params.items():
        with torch.no_grad():
            p.copy_(state[f"weight.{name}"])
        keys = ("step", "exp_avg", "exp_avg_sq")
        optimiser.state[p] = {key: state[f"{key}.{name}"].to(p.device) for key in keys}


def _digest(plan: Mapping[str, Any], start: str, data: Examples) -> str:
    """One sha256 of all that decides what a run computes."""
    whole = hashlib.sha256(json.dumps([plan, start]).encode())
    for array in (data.tokens, data.weights, data.starts):
        whole.update(array.tobytes())
    return whole.hexdigest()
