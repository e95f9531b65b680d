"""First-day learning: from what a person has written so far to an adapter that is proven better, or to the reasons why
none is.

What the newest commits hold is never trained on: the older third of them says when to stop, the rest decides, once.
Promoted is what costs fewer bits on the person's own later lines, surely so, without saving fewer net characters there
or breaking their syntax, and what stays within the bounds of `bounds.py`; what is too strong there is weakened first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from habitab_adapters.bounds import asked_base, weakened
from habitab_adapters.canaries import Canary, canaries, planted
from habitab_adapters.dataset import WEIGHT, Stretch, Writer, own_passages, own_stretches
from habitab_adapters.judge import Judge, gain, reasons
from habitab_adapters.library import Form, rehearsed
from habitab_adapters.lines import plan_of
from habitab_adapters.recurring import without_rare, words_of
from habitab_adapters.registry import Registry
from habitab_adapters.repository import Checkout, Commit, Repository, configured_author
from habitab_adapters.snapshot import WHO, as_history
from habitab_adapters.training import Course, Trained, Training
from habitab_adapters.tuned import Lesson
from habitab_adapters.workbench import Shelves, Workbench
from habitab_engine.base_files import load_vocabulary
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.errors import InputError
from habitab_engine.families import detect
from habitab_engine.home import Home, private_folder
from habitab_engine.locks import locked
from habitab_engine.lora import Lora
from habitab_engine.prompt import Budget
from habitab_engine.tokenizer import Tokenizer

NEWEST = 0.15  # of the commits, that are never trained on,
LEAST_NEWEST, MOST_NEWEST = 48, 90  # but enough to judge by, if that leaves two thirds, and not more than enough
SELECTING = 1 / 3  # of those, the older ones: they say when to stop
FEWEST_LESSONS, FEWEST_COMMITS = 20, 20  # to train on, and that decide
MOST_PASSAGES, MOST_STRETCHES, MOST_SELECTING, MOST_LINES = 800, 100, 24, 160
REHEARSED = 48  # places of public code, each again and again
MORE_LINES = 2.0  # at most, times as many where there is more than the usual time: few decide by chance
RUN = 3  # lines in a row that are judged: fewer in more commits say more
# A quarter of the engine's: the shorter a prompt, the more is learned in the same time.
PROMPT_TOKENS = 256
SECONDS = 1500.0  # in all; training has what reading and judging leave,
LEAST_TRAINING = 0.2  # at least this share
AGAIN = 2.0  # times as long as for the base takes the judge for an adapter, which may have to be weakened

T = TypeVar("T")
Tell = Callable[[str, float], None]
Written = tuple[Repository, Sequence[Commit]]  # one person's commits


@dataclass(frozen=True, slots=True)
class History:
    """One person's part of a repository, split by time."""

    repository: Repository
    past: list[Commit]
    selecting: list[Commit]
    deciding: list[Commit]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`verdict` is promoted, kept or too_little; `version` what serves from now on ("" for the base alone)."""

    verdict: str
    reasons: tuple[str, ...]
    metrics: Mapping[str, Any]
    version: str


@dataclass(frozen=True, slots=True)
class Material:
    """What an adapter is made of: `lessons` are all that is trained on, the person's from the oldest to the newest and
    random lines that are `hidden` among them; later lessons that are `unseen` tell when to stop; public code is
    `rehearsed`."""

    lessons: list[Lesson]
    hidden: list[Canary]
    unseen: list[Lesson]
    rehearsed: list[Lesson]

    @property
    def own(self) -> int:
        """How many lessons are the person's."""
        return len(self.lessons) - len(self.hidden)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter that is fit to be judged, or None, and then the verdict and the reason."""

    lora: Lora | None
    metrics: Mapping[str, Any]
    verdict: str = ""
    reason: str = ""


def learn(
    home: Home,
    base: Path | None,
    paths: Sequence[Path],
    *,
    author: str | None = None,
    since: datetime | None = None,
    seconds: float = SECONDS,
    tell: Tell = lambda phase, done: None,
) -> Outcome:
    """Train an adapter on what `author` (by default who git says) wrote in `paths`, and promote it if it is better.

    `tell` is told what is being done and how much of that is. A killed run goes on when it is called again in the same
    way. Raises InputError for what cannot be learned from, AdapterError and BaseModelError for what cannot be used.
    """
    home.prepare()
    with locked(home.user_folder / "learning.lock", 0) as held, ExitStack() as stack:
        if not held:
            raise InputError("Another `habitab learn` is running for this user: wait until it has finished.")
        known = [_written(path, author, since, stack) for path in paths]
        histories = split(by_time(known), [repository for repository, _ in known])
        checkpoint = load_checkpoint(base)
        work = _work_folder(home, checkpoint, histories, seconds)
        _, outcome = attempt(Registry(home, base), checkpoint, histories, work, seconds, tell)
        shutil.rmtree(work.parent)
        return outcome


def _written(path: Path, author: str | None, since: datetime | None, stack: ExitStack) -> Written:
    if not path.is_dir():
        raise InputError(f"There is no folder {path}: name a git repository or a folder with code.")
    who = author
    if not _is_repository(path):
        target = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="habitab-snapshot-")))
        path, who = as_history(path, target / "history"), WHO
    repository = stack.enter_context(Repository(path))
    repository.head()
    who = who or configured_author(path)
    commits = [
        commit
        for commit in repository.commits()
        if commit.author == who.casefold() and (since is None or commit.written >= since.timestamp())
    ]
    if not commits:
        raise InputError(
            f"No commit in {path} was written by {who}: name yourself with --author (`git shortlog -se` lists all)."
        )
    return repository, commits


def _is_repository(path: Path) -> bool:
    return any((place / ".git").exists() for place in (path, *path.resolve().parents)) or (path / "HEAD").is_file()


def split(dated: Sequence[tuple[Repository, Commit]], repositories: Sequence[Repository]) -> list[History]:
    """Of each repository its part of these commits, which stand as in `by_time` and are split at the same moments."""
    newest = min(max(round(NEWEST * len(dated)), LEAST_NEWEST), MOST_NEWEST, len(dated) // 3)
    selecting = round(SELECTING * newest)
    begin = len(dated) - newest
    parts = dated[:begin], dated[begin : begin + selecting], dated[begin + selecting :]
    return [
        History(repository, *([commit for where, commit in part if where is repository] for part in parts))
        for repository in repositories
    ]


def by_time(known: Sequence[Written]) -> list[tuple[Repository, Commit]]:
    """The commits that wrote some code, of all repositories: each one's in its order, which clocks may contradict."""
    dated = list[tuple[int, Repository, Commit]]()
    for repository, commits in known:
        wrote = {stretch.commit.id for stretch in own_stretches(repository, commits)}
        writing = [commit for commit in commits if commit.id in wrote]
        times = accumulate((commit.written for commit in writing), max)
        dated += [(time, repository, commit) for time, commit in zip(times, writing, strict=True)]
    return [(repository, commit) for _, repository, commit in sorted(dated, key=lambda one: one[0])]


def _work_folder(home: Home, checkpoint: Checkpoint, histories: Sequence[History], seconds: float) -> Path:
    """Where a run that is killed finds what it had; another one for other commits, another base or other settings."""
    commits = [commit.id for h in histories for part in (h.past, h.selecting, h.deciding) for commit in part]
    key = json.dumps([checkpoint.sha256, commits, seconds, asdict(Course()), PROMPT_TOKENS, Registry(home).active])
    folder = home.user_folder / "learning" / hashlib.sha256(key.encode()).hexdigest()[:16]
    private_folder(folder.parent)
    private_folder(folder)
    return folder


def attempt(
    registry: Registry, checkpoint: Checkpoint, histories: Sequence[History], work: Path, seconds: float, tell: Tell
) -> tuple[Lora | None, Outcome]:
    """Train a candidate on the past of `histories`, and promote it if the lines that were put aside say so.

    Returns it, too, if it held the bounds. `work` keeps what is finished.
    """
    lines = shares(lines_judged(seconds), [len(h.deciding) for h in histories])
    plans = [
        (h.repository, plan_of(h.repository, h.deciding, count, RUN, evenly=True))
        for h, count in zip(histories, lines, strict=True)
    ]
    judge = Judge(registry, checkpoint, plans, work / "lines.jsonl", tell)
    found = _candidate(checkpoint, judge, histories, work, seconds, tell)
    if found.lora is None:
        return None, Outcome(found.verdict, (found.reason,), found.metrics, judge.active)
    own = judge.after(found.lora)
    metrics = {**found.metrics, **own}
    if against := reasons(own):
        return found.lora, Outcome("kept", against, metrics, judge.active)
    version = registry.add(found.lora, _facts_of(checkpoint, judge.active, metrics))
    registry.activate(version)
    return found.lora, Outcome("promoted", (gain(own),), metrics, version)


def lines_judged(seconds: float) -> int:
    """How many lines decide in a run of so many seconds."""
    return round(MOST_LINES * min(max(seconds / SECONDS, 1.0), MORE_LINES))


def _facts_of(checkpoint: Checkpoint, parent: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the registry wants to know of an adapter that was learned."""
    base = {"id": checkpoint.base_id, "sha256": checkpoint.sha256}
    return {"base": base, "method": "ce", "parent": parent or None, "metrics": metrics}


def _candidate(
    checkpoint: Checkpoint, judge: Judge, histories: Sequence[History], work: Path, seconds: float, tell: Tell
) -> Candidate:
    """What was trained in the time that is left, stopped by what was put aside for selecting, within the bounds."""
    begun = time.monotonic()
    commits = len(set(judge.commits))
    if commits < FEWEST_COMMITS:
        return Candidate(None, {}, "too_little", _too_little("newer commits to judge by", commits, FEWEST_COMMITS))
    found = material(checkpoint, histories, tell)
    if found.own < FEWEST_LESSONS or not found.unseen:
        reason = _too_little("places to learn from", found.own, FEWEST_LESSONS)
        return Candidate(None, {}, "too_little", reason)
    read, answers = time.monotonic(), work / "strangers"
    judge.before()
    asked_base(checkpoint, answers, tell)
    judging = time.monotonic() - read
    left = seconds - (read - begun) - (1 + AGAIN) * judging
    course = Course(seconds=max(left, LEAST_TRAINING * seconds))
    trained = Training(checkpoint, found.lessons, course, work, found.rehearsed).run(
        found.unseen, lambda moment: tell("Training", moment.done)
    )
    met = [canary for canary in found.hidden if any(found.lessons[i].written is canary.planted for i in trained.seen)]
    metrics = _trained(trained, found.own, len(trained.seen) - len(met))
    if not trained.step:
        return Candidate(None, metrics, "kept", "Training did not help on lines that it had not seen.")
    lora, costs, fault = weakened(checkpoint, trained.lora, met, answers, tell)
    return Candidate(None if fault else lora, metrics | costs, "kept", fault)


def material(checkpoint: Checkpoint, histories: Sequence[History], tell: Tell) -> Material:
    """Read what `histories` have for training and for selecting."""
    form = _form(checkpoint)
    learning = [bool(h.past) for h in histories]
    passages, additions = shares(MOST_PASSAGES, learning), shares(MOST_STRETCHES, learning)
    later = shares(MOST_SELECTING, [len(h.selecting) for h in histories])
    learned = [_to_learn(h, *counts) for h, *counts in zip(histories, passages, additions, strict=True)]
    selected = [_latest(h, h.selecting, count) for h, count in zip(histories, later, strict=True)]
    read = partial(_lessons, form.tokenizer, histories, tell=tell)
    last = [(h.repository, h.past[-1]) for h in histories if h.past]
    hidden = canaries(form, ":".join(commit.id for _, commit in last))
    counts = sum((words_of(*one) for one in last), Counter[bytes]())
    often = partial(without_rare, counts=counts, pieces=form.tokenizer.pieces)
    return Material(
        lessons=often(planted(read(learned), hidden)),
        hidden=hidden,
        # What is judged is lines alone, without their ends.
        unseen=often(read(selected, end_weight=0.0)),
        rehearsed=_to_rehearse(form),
    )


def shares(count: int, weights: Sequence[float]) -> list[int]:
    """`count` by these weights."""
    whole = sum(weights)
    return [round(count * weight / whole) if whole else 0 for weight in weights]


def _to_learn(history: History, passages: int, additions: int) -> list[Stretch]:
    """The newest of what still stands, and of what was added lately: from the oldest to the newest."""
    standing = own_passages(history.repository, history.past)
    return _last(standing, passages) + _latest(history, history.past, additions)


def _latest(history: History, commits: Sequence[Commit], count: int) -> list[Stretch]:
    """Each of the commits wrote one stretch at least, so that older ones need not be read."""
    return _last(list(own_stretches(history.repository, _last(commits, count))), count)


def _last(found: Sequence[T], count: int) -> list[T]:
    return list(found[max(0, len(found) - count) :])


def _lessons(
    tokenizer: Tokenizer,
    histories: Sequence[History],
    chosen: Sequence[Sequence[Stretch]],
    tell: Tell,
    end_weight: float = WEIGHT,
) -> list[Lesson]:
    """Those of what is `chosen` of each history, from its oldest to its newest: histories run side by side."""
    aged = list[tuple[float, Lesson]]()
    for history, stretches in zip(histories, chosen, strict=True):
        found = list(written(history.repository, tokenizer, stretches, PROMPT_TOKENS, tell, end_weight))
        aged += [(i / len(found), lesson) for i, lesson in enumerate(found)]
    return [lesson for _, lesson in sorted(aged, key=lambda one: one[0])]


def _form(checkpoint: Checkpoint) -> Form:
    template = detect(load_vocabulary(checkpoint.folder, checkpoint.config))
    return Form(Tokenizer(checkpoint.folder, template.tokens), template, Budget.of(PROMPT_TOKENS))


def _to_rehearse(form: Form) -> list[Lesson]:
    """Public code, by which an adapter is not judged."""
    return [
        Lesson(place.tokens[: place.given], tokens := place.tokens[place.given :], [1.0] * len(tokens))
        for place in rehearsed(form, REHEARSED)
    ]


def written(
    repository: Repository,
    tokenizer: Tokenizer,
    stretches: Sequence[Stretch],
    prompt_tokens: int,
    tell: Tell,
    end_weight: float = WEIGHT,
) -> Iterator[Lesson]:
    """The lessons of stretches, each with the snippets that the engine would have chosen then."""
    shelves = Shelves()
    try:
        with tempfile.TemporaryDirectory(prefix="habitab-learn-") as folder:
            bench = Workbench(shelves, Checkout(repository, Path(folder)))
            writer = Writer(repository, bench, shelves, tokenizer, Budget.of(prompt_tokens), end_weight)
            for number, stretch in enumerate(stretches, 1):
                yield from writer.lessons(stretch)
                tell("Reading", number / len(stretches))
    finally:
        shelves.close()


def _trained(trained: Trained, lessons: int, seen: int) -> dict[str, Any]:
    """`seen` of the `lessons` are what the adapter was trained on: time may have been short."""
    return {
        "examples": lessons,
        "examples_seen": seen,
        "steps": trained.steps,
        "best_step": trained.step,
        "tokens": trained.tokens,
        "seconds": round(trained.seconds, 1),
        "loss_before": round(trained.losses[0][1], 4),
        "loss_after": round(min(loss for _, loss in trained.losses), 4),
    }


def _too_little(what: str, found: int, least: int) -> str:
    return f"There are {found} {what}, and at least {least} are needed."
