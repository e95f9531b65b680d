"""Does a person's adapter know what base, context and memory do not? Asked of several developers' real histories.

The most frequent author of each history stands for a person, and histories with the same one are that person's. Of the
commits in which they wrote code the newest are put aside, wherever they are, as many as have the lines that may be
asked, at most 15 %: an adapter is learned every night, and old ones serve nobody.
`habitab learn` is given the rest, with its own judge and verdict. Then lines of the newest are asked, which nothing has
seen: with every column, and with the adapter of the developer named beside in the place of one's own. It is a
simulation; each line's figures are kept without any of its text, so that a killed run goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from habitab_adapters import learn
from habitab_adapters.estimates import interval, resamples
from habitab_adapters.evaluate import CURSORS, Known, View, known_of
from habitab_adapters.judge import compared
from habitab_adapters.ledger import Ledger
from habitab_adapters.lines import Plan, plan_of
from habitab_adapters.registry import Registry
from habitab_adapters.repository import Commit, Repository
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.errors import InputError
from habitab_engine.home import Home
from habitab_engine.lora import Lora, read_lora, write_lora
from habitab_engine.merging import merged
from habitab_engine.types import SOURCES
from habitab_server.verdict import picture, points_of, saved_of

NEWEST = 0.15  # of the commits that wrote code, at most
MOST_LINES = 1_800 // CURSORS  # of one developer; those of a run that asks fewer are among them
MOST_OF_ONE = 24  # lines of a commit that count when they are put aside: many commits say more than a long one
# What is asked of the bare base together, by column: the prompts of `context` and `memory` are the same.
PLAIN = ({"base": View((), memory=False)}, {"context": View(SOURCES, memory=False), "memory": View()})
ADAPTED = ("adapter", "other")
COLUMNS = (*(name for views in PLAIN for name in views), *ADAPTED)
PICTURE = "verdict.svg"
WORSE = 0.05  # of all developers together (Holm, 1979)

Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Developer:
    """The main author of some histories: what `learn` is given, and the lines that are asked afterwards."""

    name: str
    histories: list[learn.History]
    plans: list[tuple[Repository, Plan]]

    @property
    def commits(self) -> list[str]:
        """Of each line that is asked the commit that wrote it."""
        return [commit for _, plan in self.plans for commit in plan.commits]


def measure(base: Path | None, paths: Sequence[Path], positions: int, seconds: float, folder: Path, tell: Tell) -> Any:
    """The JSON of `bench personal`; what is finished stands in `folder`. Raises InputError for unfit histories."""
    checkpoint = load_checkpoint(base)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        people = developers([stack.enter_context(Repository(path)) for path in paths], positions)
        if len(people) < 2:
            raise InputError("Name the histories of two people at least: one's adapter is tried on the other's lines.")
        learned = [_learned(person, base, checkpoint, folder / person.name, seconds, tell) for person in people]
        rows = []
        for i, person in enumerate(people):
            other = learned[_beside(i, len(people))]
            loras = {"adapter": _lora(learned[i], checkpoint), "other": _lora(other, checkpoint)}
            rows.append(_figures(person, learned[i], _asked(person, checkpoint, loras, folder / person.name, tell)))
    (folder / PICTURE).write_text(picture(rows), encoding="utf-8")
    return {"developers": rows, "base": checkpoint.base_id} | summary(rows)


def _beside(i: int, count: int) -> int:
    """The other of the pair, so that pairs can be run one after the other and then together; the last of an odd number
    has the one before."""
    return i ^ 1 if i ^ 1 < count else i - 1


def developers(repositories: Sequence[Repository], positions: int) -> list[Developer]:
    """Of each main author of `repositories`, in their order. Raises InputError where one wrote no code lately."""
    people = dict[str, list[learn.Written]]()
    for repository in repositories:
        commits = repository.commits()
        author, _ = Counter(commit.author for commit in commits).most_common(1)[0]
        people.setdefault(author, []).append((repository, [commit for commit in commits if commit.author == author]))
    return [_developer(known, positions) for known in people.values()]


def _developer(known: Sequence[learn.Written], positions: int) -> Developer:
    name = _name(known[0][0].path) + (f"+{len(known) - 1}" if known[1:] else "")
    dated = learn.by_time(known)
    newest = _newest(dated, known)
    past = dated[: len(dated) - sum(map(len, newest.values()))]
    lines = learn.shares(positions // CURSORS, [sum(newest[repository].values()) for repository, _ in known])
    plans = [
        (repository, plan_of(repository, list(newest[repository]), count, learn.RUN, evenly=True))
        for (repository, _), count in zip(known, lines, strict=True)
    ]
    if not any(plan.visits for _, plan in plans):
        raise InputError(f"The newest commits in {name} have no line of code: name another history.")
    return Developer(name, learn.split(past, [repository for repository, _ in known]), plans)


def _newest(
    dated: Sequence[tuple[Repository, Commit]], known: Sequence[learn.Written]
) -> dict[Repository, dict[Commit, int]]:
    """The newest of these commits that have the `MOST_LINES`, or all that may be put aside: with their lines."""
    last = dated[len(dated) - round(NEWEST * len(dated)) :]
    counts = Counter[str]()
    for repository, _ in known:
        for visit in plan_of(repository, [commit for where, commit in last if where is repository], None).visits:
            counts[visit.commit.id] += len(visit.typed)
    found, lines = {repository: dict[Commit, int]() for repository, _ in known}, 0
    for repository, commit in reversed(last):
        if lines < MOST_LINES:
            found[repository] = {commit: min(counts[commit.id], MOST_OF_ONE)} | found[repository]
            lines += found[repository][commit]
    return found


def _name(path: Path) -> str:
    """The folder's name; of a bare clone in a folder `repo`, the one above."""
    named = path.parent if path.name in ("repo", ".git") else path
    return named.name.removesuffix(".git").replace("+", "-")


def _learned(
    person: Developer, base: Path | None, checkpoint: Checkpoint, folder: Path, seconds: float, tell: Tell
) -> Path:
    """The folder in which the developer's candidate and the verdict on it stand."""
    verdict = folder / "verdict.json"
    if not verdict.exists():
        work = folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        registry = Registry(Home(folder, "developer"), base)
        lora, outcome = learn.attempt(registry, checkpoint, person.histories, work, seconds, tell)
        if lora is not None:
            write_lora(folder / "adapter", lora)
        verdict.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")
    return folder


def _lora(folder: Path, checkpoint: Checkpoint) -> Lora | None:
    place = folder / "adapter"
    return read_lora(place, checkpoint.base_id, checkpoint.config) if place.exists() else None


def _asked(
    person: Developer, checkpoint: Checkpoint, loras: Mapping[str, Lora | None], folder: Path, tell: Tell
) -> dict[str, list[Known]]:
    """By column; an adapter that was not made is the base."""
    passes: list[tuple[dict[str, View], Lora | None]] = [(views, None) for views in PLAIN]
    passes += [({name: View()}, loras[name]) for name in ADAPTED]
    found = dict[str, list[Known]]()
    with Ledger(folder / "lines.jsonl", Known) as ledger:
        for views, lora in passes:
            shown = partial(tell, f"{person.name} {' and '.join(views)}")
            found |= known_of(partial(weights_of, checkpoint, lora), views, person.plans, ledger, shown)
    return found


def weights_of(checkpoint: Checkpoint, lora: Lora | None) -> Checkpoint:
    """Those of the base where no adapter was made."""
    return merged(checkpoint, lora) if lora else checkpoint


def _figures(person: Developer, folder: Path, found: Mapping[str, Sequence[Known]]) -> dict[str, Any]:
    """One developer's row; points are of exact match, ratios of bits, both against the memory alone."""
    outcome = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    commits = person.commits
    against = {name: compared(found["memory"], found[name], commits) for name in ADAPTED}
    return {
        "name": person.name,
        "positions": against["adapter"]["positions"],
        "commits": against["adapter"]["commits"],
        "columns": {name: _column(lines) for name, lines in found.items()},
        "verdict": outcome["verdict"],
        "strangers_bits_per_token": outcome["metrics"].get("strangers_bits_per_token"),
        **{f"{name}_{key}": against[name][key] for name in ADAPTED for key in ("exact_points", "bits_ratio")},
        "worse": _worse(found["memory"], found["adapter"], commits),
    }


def _column(lines: Sequence[Known]) -> dict[str, float]:
    return {
        "exact_match": round(sum(k.exact for k in lines) / sum(k.asked for k in lines), 4),
        "bits_per_byte": round(sum(k.bits for k in lines) / sum(k.bytes for k in lines), 4),
    }


def _worse(before: Sequence[Known], after: Sequence[Known], commits: Sequence[str]) -> float:
    """How often a bootstrap over commits finds the adapter no worse in bits: the p of "it is worse"."""
    names = {commit: i for i, commit in enumerate(dict.fromkeys(commits))}
    gains = np.zeros(len(names))
    for commit, old, new in zip(commits, before, after, strict=True):
        gains[names[commit]] += old.bits - new.bits
    return round(float(np.mean(resamples(len(names)) @ gains >= 0)), 4)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over all developers: what was kept counts as no gain."""
    promoted = [row for row in rows if row["verdict"] == "promoted"]
    points = [points_of(row, "adapter") if row in promoted else 0.0 for row in rows]
    saved = [saved_of(row, "adapter") if row in promoted else 0.0 for row in rows]
    drawn = resamples(len(rows)) @ np.array(points) / len(rows)
    return {
        "median_points": round(median(points), 2),
        "median_bits_saved": round(median(saved), 4),
        "mean_points_interval": interval(drawn),
        "promoted": len(promoted),
        "worse": len(list(_holm([row["worse"] for row in promoted]))),
    }


def _holm(chances: Sequence[float]) -> Iterator[float]:
    """Those that stay below `WORSE` when all are tested together (S. Holm, 1979)."""
    for i, chance in enumerate(sorted(chances)):
        if chance > WORSE / (len(chances) - i):
            return
        yield chance


HEAD = ["developer", "positions", *COLUMNS[:3], "memory + adapter", "memory + other's", "points", "bits", "verdict"]


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """A row for each developer: exact match by column, the adapter's gain in points and in bits, the verdict."""
    return [
        [
            row["name"],
            f"{row['positions']:,}",
            *(f"{100 * row['columns'][name]['exact_match']:.1f} %" for name in COLUMNS),
            "{:+.1f} to {:+.1f}".format(*row["adapter_exact_points"]),
            "{:.3f} to {:.3f}".format(*row["adapter_bits_ratio"]),
            row["verdict"],
        ]
        for row in result["developers"]
    ]
