"""`habitab base eval`: how well models know lines that were written after them, at the cursors of `positions.py`.

Each model is asked under the prompt that the engine serves, without pieces of other files and without the memory:
with the text before the cursor alone, and where it can see what follows, with that too. Bits per byte are of the true
text, with white space and the last word healed; exact match and edit similarity are of what the engine suggests, its
first line or all lines of a block. "Ends right" is of the suggestions that are exactly right: the share where the end
token is likelier than any other behind the true text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import habitab_engine
from habitab_adapters import estimates, handwork, repository
from habitab_adapters.estimates import FEWEST_COMMITS, Array, interval, plain, resamples
from habitab_adapters.handwork import content_of, is_typed, is_worth_typing
from habitab_adapters.pretrain import asking, positions
from habitab_adapters.pretrain.answers import Answers, Ledger
from habitab_adapters.pretrain.asking import PREFIX_ONLY
from habitab_adapters.pretrain.positions import TASKS, Change, Place, in_turn, questions
from habitab_adapters.repository import Repository
from habitab_engine.base_files import base_id
from habitab_engine.checkpoint import describe
from habitab_engine.errors import InputError
from habitab_engine.tree import language_for

SINCE = date(2025, 7, 1)
HEAD = ("model", "language", "task", "bits per byte", "exact match", "edit similarity", "ends right", "n")
FIGURES = ("bits_per_byte", "exact_match", "edit_similarity", "ends_right")
# What of the engine decides the figures: another state of these files, and everything is measured anew.
_DECISIVE = ("decode", "engine", "families", "postprocess", "prompt", "stopping", "surroundings", "syntax", "tokenizer")

Result = dict[str, Any]
Advance = Callable[[int, int], object]


def evaluate(
    repositories: Sequence[Path],
    models: Mapping[str, Path | None],
    folder: Path,
    *,
    per_language: Mapping[str, int],
    since: date = SINCE,
    progress: Advance = lambda done, total: None,
) -> Result:
    """The JSON of `base eval`: `rows`, by model, language and task.

    `models` are folders of base models by the names they shall have (None: the embedded one); each row's `ratio`
    compares it with the first of them. `per_language` says how many places are asked, as far as there are. What is
    finished lies in `folder`, without any code in it: a run that was killed goes on there. `progress` is told the
    places done and all of them.

    Raises InputError where there is nothing to ask or `folder` cannot be written to, BaseModelError and its kin for a
    model that cannot be read.
    """
    with ExitStack() as stack:
        histories = {str(path): stack.enter_context(Repository(path)) for path in repositories}
        plan = choose(histories, per_language, since)
        found: dict[str, list[Answers]] = {}
        for number, (name, base) in enumerate(models.items()):

            def advance(done: int, before: int = number * len(plan)) -> None:
                progress(before + done, len(models) * len(plan))

            with Ledger(_ledger_file(folder, base)) as ledger:
                _ask_all(plan, histories, base, ledger, advance)
                found[name] = [ledger[place.id] for place in plan]
    return {"rows": _rows(plan, found), "since": since.isoformat()}


def choose(histories: Mapping[str, Repository], per_language: Mapping[str, int], since: date) -> list[Place]:
    """The places to ask, by language; of files that a person wrote.

    Raises InputError for a wanted language without any.
    """
    every = [change for name, history in histories.items() for change in changes(name, history, since)]
    chosen = list[Place]()
    for language, count in per_language.items():
        places = in_turn(change for change in every if change.language == language)
        found = list(islice(_askable(places, histories), count))
        if count and not found:
            raise InputError(f"No {language} was added to these histories since {since}: name others.")
        chosen += found
    if not chosen:
        raise InputError("There is nothing to ask: give at least one language a number of places above 0.")
    return chosen


def _askable(places: Iterator[Place], histories: Mapping[str, Repository]) -> Iterator[Place]:
    """Those in files that a person wrote, with something to ask."""
    for place in places:
        content = _content(place, histories)
        if content and questions(place, content):
            yield place


def _content(place: Place, histories: Mapping[str, Repository]) -> list[str]:
    return content_of(histories[place.change.history], place.change.commit, place.change.path)


def changes(name: str, history: Repository, since: date) -> Iterator[Change]:
    """What the commits that were written from `since` on (0:00 UTC) added to files of code."""
    history.head()
    begin = datetime.combine(since, time(), UTC).timestamp()
    for added in history.added([commit.id for commit in history.commits() if commit.written >= begin]):
        if is_typed(added.path):
            lines = {number: text for hunk in added.hunks for number, text in hunk}
            own = frozenset(lines.keys() - added.moved)
            asked = tuple(number for number in sorted(own) if is_worth_typing(lines[number]))
            language = language_for(added.path).removesuffix("react")  # TSX counts as TypeScript
            yield Change(name, added.commit, added.path, language, frozenset(lines), own, asked)


def _ask_all(
    plan: Sequence[Place],
    histories: Mapping[str, Repository],
    base: Path | None,
    ledger: Ledger,
    advance: Callable[[int], object],
) -> None:
    """Ask one model at all places that the ledger has not."""
    if all(place.id in ledger for place in plan):
        advance(len(plan))
        return
    engine = asking.load(base)
    try:
        for number, place in enumerate(plan):
            if place.id not in ledger:
                ledger.add(place.id, asking.ask_at(engine, place, _content(place, histories)))
            advance(number + 1)
    finally:
        engine.close()


def _ledger_file(folder: Path, base: Path | None) -> Path:
    """Another file for every other model or state of the code that decides."""
    code = hashlib.sha256()
    engine = Path(habitab_engine.__file__).parent
    own = [Path(str(module.__file__)) for module in (asking, estimates, handwork, positions, repository)]
    for file in [Path(__file__), *own, *(engine / f"{name}.py" for name in _DECISIVE)]:
        code.update(file.read_bytes())
    key = hashlib.sha256(f"{code.hexdigest()} {describe(base)['sha256']}".encode()).hexdigest()
    return folder / f"quality-{base_id(base)}-{key[:16]}.jsonl"


def _rows(plan: Sequence[Place], found: Mapping[str, Sequence[Answers]]) -> list[dict[str, Any]]:
    rows, first = [], next(iter(found))
    for language in dict.fromkeys(place.change.language for place in plan):
        here = [i for i, place in enumerate(plan) if place.change.language == language]
        units = _units([plan[i].change.commit for i in here])
        weights = resamples(max(units) + 1)
        sums = {model: _sums([answers[i] for i in here], units) for model, answers in found.items()}
        for model, tasks in sums.items():
            for task in sorted(tasks, key=_order):
                row = {"model": model, "language": language, "task": task}
                other = sums[first].get(task, sums[first].get(f"{task.partition(',')[0]}, {PREFIX_ONLY}"))
                rows.append(
                    row | _figures(tasks[task], weights) | {"ratio": _ratio(first, tasks[task], other, weights)}
                )
    return rows


def _order(task: str) -> tuple[int, str]:
    return TASKS.index(task.partition(",")[0]), task


def _units(commits: Sequence[str]) -> list[int]:
    """What is drawn together in the bootstrap: the places of a commit, or where there are too few, each alone."""
    numbers = {commit: i for i, commit in enumerate(dict.fromkeys(commits))}
    return [numbers[commit] for commit in commits] if len(numbers) >= FEWEST_COMMITS else list(range(len(commits)))


def _sums(answers: Sequence[Answers], units: Sequence[int]) -> dict[str, Array]:
    """By task `[units, 6]`: questions, bits, bytes, exact ones, similarities, exact ones that end right."""
    sums: dict[str, Array] = {}
    for unit, by_task in zip(units, answers, strict=True):
        for task, a in by_task.items():
            total = sums.setdefault(task, np.zeros((max(units) + 1, 6)))
            total[unit] += (1, a.bits, a.bytes, a.exact, a.similarity, a.exact and a.ends)
    return sums


def _quotients(sums: Array) -> dict[str, Array]:
    """The figures of sums `[…, 6]`; NaN where there was nothing to divide by."""
    n, bits, size, exact, similar, ended = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return dict(zip(FIGURES, (bits / size, exact / n, similar / n, ended / exact), strict=True))


def _figures(sums: Array, weights: Array) -> dict[str, Any]:
    figures = {name: plain(float(value)) for name, value in _quotients(sums.sum(0)).items()}
    intervals = {name: interval(values) for name, values in _quotients(weights @ sums).items()}
    return figures | {"n": int(sums[:, 0].sum()), "intervals": intervals}


def _ratio(to: str, sums: Array, other: Array | None, weights: Array) -> dict[str, Any] | None:
    """Bits per byte over those of another model at the same places, drawn together."""
    if other is None:
        return None
    one, spread = (
        _quotients(total)["bits_per_byte"] / _quotients(base)["bits_per_byte"]
        for total, base in ((sums.sum(0), other.sum(0)), (weights @ sums, weights @ other))
    )
    return {"to": to, "bits_per_byte": plain(float(one)), "interval": interval(spread)}


def table(result: Result) -> list[list[str]]:
    """The rows for a person, under `HEAD`; in brackets 95 % intervals."""
    return [
        [row["model"], row["language"], row["task"], *(_cell(row, name) for name in FIGURES), f"{row['n']:,}"]
        for row in result["rows"]
    ]


def _cell(row: Mapping[str, Any], name: str) -> str:
    value, spread = row[name], row["intervals"][name]
    return "–" if value is None or spread is None else f"{value:.3f} ({spread[0]:.3f}–{spread[1]:.3f})"
