"""Which recipe makes the better adapter? All are trained on the past of one history and asked the same later lines.

The past, the later lines and the prompts are those of `bench personal`. No verdict is passed and nothing is weakened:
what an adapter costs on strangers' code stands beside what it gains, at its full strength. A column is known by all of
its recipe, so that a killed run goes on, and another one adds recipes to what is known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from habitab_adapters import learn
from habitab_adapters.bounds import SAMPLE
from habitab_adapters.evaluate import Known, View, known_of
from habitab_adapters.judge import compared
from habitab_adapters.ledger import Ledger
from habitab_adapters.repository import Repository
from habitab_adapters.strangers import Strangers
from habitab_adapters.training import Course, Training
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.errors import InputError
from habitab_engine.lora import Lora, read_lora, write_lora
from habitab_engine.merging import merged
from habitab_server.bench_personal import Developer, Tell, developers, weights_of

USUAL = "default"
MEMORY = "memory"  # the column without an adapter


def recipes(tries: Iterable[str], seconds: float) -> dict[str, Course]:
    """By what was written, "rate=5e-4,batch=4" say, the course that it means; the usual one comes first.

    Raises InputError for what is no setting of a course, or no number where it has one.
    """
    usual = Course(seconds=seconds)
    return {USUAL: usual} | {text: replace(usual, **dict(_setting(part) for part in text.split(","))) for text in tries}


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = (part.strip() for part in text.partition("="))
    kinds = {field.name: type(getattr(Course(), field.name)) for field in fields(Course)}
    if name not in kinds:
        raise InputError(f"There is no setting {name or text!r} of a recipe: choose among {', '.join(kinds)}.")
    try:
        return name, kinds[name](value)
    except ValueError as exc:
        raise InputError(f"{value!r} is no value of {name}: write it as in {name}={getattr(Course(), name)}.") from exc


class _Comparison:
    """One developer and what is made of the past; what is finished stands in `folder`."""

    def __init__(self, checkpoint: Checkpoint, person: Developer, folder: Path, tell: Tell) -> None:
        self._checkpoint, self._person, self._folder, self._tell = checkpoint, person, folder, tell

    @cached_property
    def _material(self) -> learn.Material:
        """Read only where an adapter is still to be made."""
        return learn.material(self._checkpoint, self._person.histories, self._tell)

    def trained(self, name: str, course: Course) -> tuple[Lora, dict[str, Any]]:
        """The adapter of this course, and what its training took."""
        place = self._folder / _key(course)
        notes = place / "training.json"
        if not notes.exists():
            place.mkdir(parents=True, exist_ok=True)
            material = self._material
            found = Training(self._checkpoint, material.lessons, course, place, material.rehearsed).run(
                material.unseen, lambda moment: self._tell(f"Training {name}", moment.done)
            )
            write_lora(place / "adapter", found.lora)
            facts = {"step": found.step, "steps": found.steps, "tokens": found.tokens, "seconds": round(found.seconds)}
            notes.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        lora = read_lora(place / "adapter", self._checkpoint.base_id, self._checkpoint.config)
        return lora, json.loads(notes.read_text(encoding="utf-8"))

    def asked(self, column: str, key: str, lora: Lora | None, ledger: Ledger[Known]) -> list[Known]:
        """What is known of the later lines with this adapter."""
        weights, shown = partial(weights_of, self._checkpoint, lora), partial(self._tell, f"Asking {column}")
        return known_of(weights, {key: View()}, self._person.plans, ledger, shown)[key]

    def strangers(self, loras: Mapping[str, Lora]) -> dict[str, float]:
        """By the recipe's key, bits a token more on some of strangers' code; only what is not known yet is asked."""
        path = self._folder / "strangers.json"
        known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        missing = {key: lora for key, lora in loras.items() if key not in known}
        if missing:
            with closing(Strangers(self._checkpoint, EngineSettings())) as strangers:
                for key, lora in missing.items():
                    weights = merged(self._checkpoint, lora)
                    found = strangers.compare(weights, lambda done: self._tell("Strangers", done), stride=SAMPLE)
                    known[key] = round(found.bits_per_token_delta, 4)
                    path.write_text(json.dumps(known) + "\n", encoding="utf-8")
        return known


def _key(course: Course) -> str:
    """Of all that a course says, so that another default is another recipe."""
    return hashlib.sha256(json.dumps(asdict(course)).encode()).hexdigest()[:12]


def measure(
    base: Path | None, path: Path, tries: Sequence[str], positions: int, seconds: float, folder: Path, tell: Tell
) -> dict[str, Any]:
    """The JSON of `bench recipe`. Raises InputError for an unfit history or recipe."""
    courses, checkpoint = recipes(tries, seconds), load_checkpoint(base)
    with Repository(path) as repository:
        person, *_ = developers([repository], positions)
        folder = folder / person.name
        folder.mkdir(parents=True, exist_ok=True)
        comparison = _Comparison(checkpoint, person, folder, tell)
        keys = {name: _key(course) for name, course in courses.items()}
        made = {name: comparison.trained(name, course) for name, course in courses.items()}
        costs = comparison.strangers({keys[name]: lora for name, (lora, _) in made.items()})
        with Ledger(folder / "lines.jsonl", Known) as ledger:
            before = comparison.asked(MEMORY, MEMORY, None, ledger)
            after = {name: comparison.asked(name, keys[name], lora, ledger) for name, (lora, _) in made.items()}
    rows = [
        {"recipe": name, **made[name][1], "strangers_bits_per_token": costs[keys[name]]}
        | compared(before, lines, person.commits)
        for name, lines in after.items()
    ]
    return {"name": person.name, "base": checkpoint.base_id, "recipes": rows}


HEAD = ["recipe", "steps", "tokens", "seconds", "strangers", "bits", "95 %", "exact match", "points"]


def title(result: Mapping[str, Any]) -> str:
    first = result["recipes"][0]
    return f"{result['name']}: {first['positions']:,} later cursors in {first['commits']} commits"


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """A row for each recipe: what it cost and what it gains over context and memory."""
    return [
        [
            row["recipe"],
            f"{row['step']} of {row['steps']}",
            f"{row['tokens']:,}",
            f"{row['seconds']:,}",
            f"{row['strangers_bits_per_token']:+.4f}",
            f"{100 * (row['bits_after'] / row['bits_before'] - 1):+.1f} %",
            _spread(row["bits_ratio"], ".3f"),
            f"{100 * row['exact_before']:.1f} → {100 * row['exact_after']:.1f} %",
            _spread(row["exact_points"], "+.1f"),
        ]
        for row in result["recipes"]
    ]


def _spread(found: Sequence[float] | None, form: str) -> str:
    return " to ".join(format(bound, form) for bound in found) if found else ""
