"""Which added lines of a history are typed again, and what the file looks like around each of them.

A typist fills in a commit's changes to a file from the top down: above the cursor stands the file as the commit
leaves it, below it the same without the lines that the commit added there and that are still to come; what the commit
took out is gone already.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from habitab_adapters.handwork import content_of, is_typed, is_worth_typing
from habitab_adapters.repository import Added, Commit, Repository
from habitab_engine.errors import InputError
from habitab_engine.postprocess import MINIMUM_TEXT

SEED = 0
SHOWN_COST = 0.2  # of a character that is shown and not accepted
STRETCH = 6  # lines in a row that a sample takes: fewer would be no typing, more would be fewer commits
MOST_COMMITS = 2_000  # whose patches are read; of a longer history, as many spread over it
# Names of several words, which are neither a keyword nor prose; asked for behind `BEGUN` characters of them.
_NAME = re.compile(r"[^\W\d]\w*")
_SEVERAL_WORDS = re.compile(r"[^\W_]_+[^\W_]|[a-z0-9][A-Z]")
BEGUN, LEAST_LEFT = 3, 2


@dataclass(frozen=True, slots=True)
class Line:
    """One line to type: the file with it in place is `above + [text] + below`.

    `today` are those of `above` that the same commit added.
    """

    id: str
    path: str
    above: list[str]
    text: str
    below: list[str]
    today: list[str]

    @property
    def cursors(self) -> range:
        """The columns from the first character that is not blank to the last one."""
        return range(len(self.text) - len(self.text.lstrip()), len(self.text.rstrip()))

    @property
    def inner_cursor(self) -> int | None:
        """A column behind the first cursor, the same in every run; None where the line is too short for one."""
        inner = self.cursors[1:]
        return random.Random(f"{SEED} {self.id}").choice(inner) if inner else None

    def spread(self, count: int) -> list[int]:
        """The first cursor and others behind it, `count` in all or as many as there are, the same in every run.

        Others leave as much of the line as may be shown.
        """
        first, *inner = self.cursors
        inner = inner[: len(inner) + 1 - MINIMUM_TEXT]
        return [first, *sorted(random.Random(f"{SEED} {self.id}").sample(inner, min(count - 1, len(inner))))]

    @property
    def second_uses(self) -> dict[int, str]:
        """The names that were typed once today and stand nowhere else in the file: behind the first `BEGUN` characters
        of their second use, what is left of each."""
        today, around = _names(self.today), _names([*self.above, *self.below])
        begun = {found.group(): found.start() + BEGUN for found in reversed([*_NAME.finditer(self.text)])}
        second = [name for name in begun if today[name] == around[name] == 1 and _SEVERAL_WORDS.search(name)]
        return {begun[name]: name[BEGUN:] for name in second if len(name) >= BEGUN + LEAST_LEFT}

    @property
    def opened(self) -> str:
        """The file when the typist begins the line: its indentation is there."""
        return "\n".join([*self.above, self.text[: self.cursors[0]], *self.below])

    def rest(self, cursor: int) -> str:
        return self.text[cursor:].rstrip()


@dataclass(frozen=True, slots=True)
class Visit:
    """One file of one commit: the numbers of the lines to type, and of all lines that the commit added."""

    commit: Commit
    path: str
    typed: tuple[int, ...]
    added: frozenset[int]

    def id(self, number: int) -> str:
        return f"{self.commit.id}:{self.path}:{number + 1}"

    def lines(self, content: Sequence[str]) -> Iterator[Line]:
        """The lines to type in order; `content` are the lines of the file as the commit leaves it."""
        for number in self.typed:
            below = [text for i, text in enumerate(content[number + 1 :], number + 1) if i not in self.added]
            today = [content[i] for i in range(number) if i in self.added]
            yield Line(self.id(number), self.path, list(content[:number]), content[number], below, today)


def _names(lines: Sequence[str]) -> Counter[str]:
    return Counter(_NAME.findall("\n".join(lines)))


@dataclass(frozen=True)
class Plan:
    """What is typed, in order, and out of what it was chosen."""

    visits: tuple[Visit, ...]
    past: int
    replayed: int
    available: int

    @cached_property
    def lines(self) -> list[str]:
        """The ids of the lines to type, in order."""
        return [visit.id(number) for visit in self.visits for number in visit.typed]

    @property
    def commits(self) -> list[str]:
        """Of each of them the commit that wrote it."""
        return [visit.commit.id for visit in self.visits for _ in visit.typed]


@dataclass(frozen=True, slots=True)
class _Stretch:
    added: Added
    numbers: tuple[int, ...]


def make_plan(repository: Repository, split: float, events: int | None, author: str | None) -> Plan:
    """Choose the lines: of the commits (`author`'s alone) behind the first `split` of them, `events` of their lines.

    The choice is random with a fixed seed. Raises InputError where nothing is left to type.
    """
    commits = written_by(repository, author)
    begin = int(len(commits) * split)
    later = commits[begin:]
    if not later:
        raise InputError(f"None of the {len(commits)} commits is left to type: choose a smaller --split.")
    plan = plan_of(repository, later, events)
    if not plan.visits:
        raise InputError("The commits after the split added no line of source code: choose a smaller --split.")
    return replace(plan, past=begin)


def plan_of(
    repository: Repository, later: Sequence[Commit], events: int | None, longest: int = STRETCH, evenly: bool = False
) -> Plan:
    """The same of the commits `later`, in stretches of at most `longest` lines; empty where they added no code.

    `evenly`: a commit has its second stretch once each has its first, so that a few long ones do not make up the plan.
    """
    rng, replayed = random.Random(SEED), len(later)
    if replayed > MOST_COMMITS:
        later = [later[i] for i in sorted(rng.sample(range(replayed), MOST_COMMITS))]
    files = [added for added in repository.added([c.id for c in later]) if is_typed(added.path)]
    stretches = [stretch for added in files for stretch in _stretches(added, longest)]
    drawn = rng.sample(stretches, len(stretches))
    chosen = _choose(repository, _in_turns(drawn) if evenly else drawn, events)
    available = sum(len(stretch.numbers) for stretch in stretches)
    return Plan(tuple(_visits(later, files, chosen)), 0, replayed, available)


def written_by(repository: Repository, author: str | None) -> list[Commit]:
    """All commits, or those of one author (an e-mail address). Raises InputError where there are none."""
    repository.head()
    commits = repository.commits()
    if author is None:
        return commits
    own = [commit for commit in commits if commit.author == author.casefold()]
    if not own:
        raise InputError(f"No commit was written by {author}: `git shortlog -se` lists who wrote some.")
    return own


def _stretches(added: Added, longest: int) -> Iterator[_Stretch]:
    for hunk in added.hunks:
        numbers = tuple(n for n, line in hunk if n not in added.moved and is_worth_typing(line))
        for begin in range(0, len(numbers), longest):
            yield _Stretch(added, numbers[begin : begin + longest])


def _in_turns(stretches: Sequence[_Stretch]) -> list[_Stretch]:
    """The first of each commit, then the second of each, and so on."""
    before, turns = Counter[str](), list[int]()
    for stretch in stretches:
        turns.append(before[stretch.added.commit])
        before[stretch.added.commit] += 1
    return [stretch for _, stretch in sorted(zip(turns, stretches, strict=True), key=lambda pair: pair[0])]


def _choose(repository: Repository, stretches: Sequence[_Stretch], events: int | None) -> list[_Stretch]:
    """Those of files that a person wrote, in this order, until they have `events` lines."""
    chosen, missing = [], events if events is not None else sum(len(s.numbers) for s in stretches)
    known: dict[tuple[str, str], bool] = {}
    for stretch in stretches:
        if not missing:
            break
        key = stretch.added.commit, stretch.added.path
        if key not in known:
            known[key] = bool(content_of(repository, *key))
        if known[key]:
            chosen.append(_Stretch(stretch.added, stretch.numbers[:missing]))
            missing -= len(chosen[-1].numbers)
    return chosen


def _visits(commits: Sequence[Commit], files: Sequence[Added], chosen: Sequence[_Stretch]) -> Iterator[Visit]:
    by_id = {commit.id: commit for commit in commits}
    typed: dict[tuple[str, str], list[int]] = {}
    for stretch in chosen:
        typed.setdefault((stretch.added.commit, stretch.added.path), []).extend(stretch.numbers)
    for added in files:
        if numbers := typed.get((added.commit, added.path)):
            all_added = frozenset(number for hunk in added.hunks for number, _ in hunk)
            yield Visit(by_id[added.commit], added.path, tuple(sorted(numbers)), all_added)


def net_characters(line: Line, shown: Mapping[int, str]) -> float:
    """The characters that a typist accepts, less one for the key that does it and `SHOWN_COST` for each of those that
    are shown in vain, as in the replay. `shown` has by rising cursor what would be shown there ("" for nothing).

    What is on the screen stays there while it is typed through, and counts once.
    """
    lost, screen = 0.0, ""
    for cursor, rest in shown.items():
        typed = line.text[:cursor]
        if screen.startswith(typed) and screen != typed:
            continue
        screen = typed + rest
        if rest and rest == line.rest(cursor):
            return len(rest) - 1 - lost
        lost += SHOWN_COST * len(rest)
    return -lost
