"""Training examples from a person's git history, in the very form in which the engine would have been asked.

There are two kinds. Passages are what the person wrote and still stands: the files as the newest commit leaves them are
cut into pieces, and each is written between what stands above and below it. A text is learned once, however often it
was changed on the way, and most tokens of an example count. Stretches are what a commit added in one place, typed from
the top down as in the replay: above the cursor stands the file as the commit leaves it, below it the same without what
is still to come. They show where a person ends.

An example is the engine's prompt, then the lines, then the end token. Only what the person wrote counts in the loss.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import median

from habitab_adapters.handwork import content_of, is_typed, is_worth_typing
from habitab_adapters.pretrain.fim import served
from habitab_adapters.repository import Added, Commit, Repository
from habitab_adapters.tuned import Lesson
from habitab_adapters.workbench import Shelves, Workbench
from habitab_engine.families import HABITAB
from habitab_engine.prompt import Budget
from habitab_engine.secret_scan import Scanner
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.types import SOURCES, CompletionRequest, Snippet

# Lines of other origin between two added ones that still make them one stretch.
GAP = 3
LONGEST_STRETCH = 1_024  # tokens that are written in one example
# Characters: all lengths between are as frequent. In long ones most tokens see as much before them as in serving, and
# little time goes into prompts.
SHORTEST_PASSAGE, LONGEST_PASSAGE = 600, 3_600
SEED = 0
WEIGHT = 1.0  # of the loss of a token


@dataclass(frozen=True, slots=True)
class Stretch:
    """Lines `first` to `last` (exclusive) of a file as its commit leaves it; `own` of them were typed.

    `added` are all lines that the commit added to the file.
    """

    commit: Commit
    path: str
    first: int
    last: int
    own: frozenset[int]
    added: frozenset[int]

    @property
    def id(self) -> str:
        return f"{self.commit.id}:{self.path}:{self.first + 1}"


def stretches(commit: Commit, added: Added) -> Iterator[Stretch]:
    """What the commit wrote into one file, place by place."""
    lines = {number: text for hunk in added.hunks for number, text in hunk}
    typed, every, begin = sorted(lines.keys() - added.moved), frozenset(lines), 0
    for i in range(1, len(typed) + 1):
        if i < len(typed) and typed[i] - typed[i - 1] <= GAP + 1:
            continue
        part = typed[begin:i]
        begin = i
        while part and not lines[part[-1]].strip():  # what ends in blank lines ends before them
            part.pop()
        if any(is_worth_typing(lines[number]) for number in part):
            yield Stretch(commit, added.path, part[0], part[-1] + 1, frozenset(part), every)


def own_passages(repository: Repository, commits: Sequence[Commit]) -> list[Stretch]:
    """What these commits wrote and still stands in the files as the last of them leaves them, the newest last."""
    if not commits:
        return []
    last, typed = commits[-1], _when_typed(repository, commits)
    found, as_left = list[tuple[float, Stretch]](), replace(last, parent=last.id)
    for path, blob in repository.changes(repository.empty_tree, last.id):
        content = content_of(repository, last.id, path) if blob and is_typed(path) else []
        for begin, end in _pieces(content, random.Random(f"{SEED} {path}")):
            lines = range(begin, end)
            own = frozenset(number for number in lines if content[number] in typed)
            ages = [typed[content[number]] for number in own if is_worth_typing(content[number])]
            if ages and 2 * len(own) >= len(lines):
                found.append((median(ages), Stretch(as_left, path, begin, end, own, frozenset(lines))))
    return [passage for _, passage in sorted(found, key=lambda known: known[0])]


def _when_typed(repository: Repository, commits: Sequence[Commit]) -> dict[str, int]:
    """Of each line that they added, wherever it stands by now, the number of the last of them that did."""
    numbers, typed = {commit.id: number for number, commit in enumerate(commits)}, dict[str, int]()
    for added in repository.added(list(numbers)):
        if is_typed(added.path):
            texts = [text for hunk in added.hunks for number, text in hunk if number not in added.moved]
            typed |= dict.fromkeys(texts, numbers[added.commit])
    return typed


def _pieces(content: Sequence[str], rng: random.Random) -> Iterator[tuple[int, int]]:
    """Where a file is cut: the first line of each piece and the one behind its last, without blank lines there."""
    first = last = 0
    while last < len(content):
        first, left = last, rng.randint(SHORTEST_PASSAGE, LONGEST_PASSAGE)
        while last < len(content) and left > 0:
            left -= len(content[last]) + 1
            last += 1
        filled = [number for number in range(first, last) if content[number].strip()]
        if filled:
            yield filled[0], filled[-1] + 1


class Writer:
    """Makes the examples of stretches; the files of the last ones stay open, as in an editor.

    The end token's loss weighs `end_weight`.
    """

    def __init__(
        self,
        repository: Repository,
        bench: Workbench,
        shelves: Shelves,
        tokenizer: Tokenizer,
        budget: Budget,
        end_weight: float = WEIGHT,
    ) -> None:
        self._repository, self._bench, self._shelves = repository, bench, shelves
        self._tokenizer, self._budget, self._scanner = tokenizer, budget, Scanner()
        self._end, self._end_weight = tokenizer.special_ids[HABITAB.stops[0]], end_weight

    def lessons(self, stretch: Stretch) -> Iterator[Lesson]:
        """Those of one stretch: several where it is long, none where a secret stands in it."""
        content = content_of(self._repository, stretch.commit.id, stretch.path)
        if not content or self._scanner.holds_secret("\n".join(content[stretch.first : stretch.last])):
            return
        self._bench.go_to(stretch.commit)
        for first, last in self._cut(content, stretch):
            typed = sum(len(line) + 1 for line in content[stretch.first : first])
            yield self._lesson(content, replace(stretch, first=first, last=last), typed)

    def _cut(self, content: Sequence[str], stretch: Stretch) -> Iterator[tuple[int, int]]:
        """Parts of at most `LONGEST_STRETCH` tokens, in lines."""
        first, size = stretch.first, 0
        for number in range(stretch.first, stretch.last):
            cost = len(self._tokenizer.encode("\n" + content[number]))
            if number > first and size + cost > LONGEST_STRETCH:
                yield first, number
                first, size = number, 0
            size += cost
        yield first, stretch.last

    def _lesson(self, content: Sequence[str], part: Stretch, typed: int) -> Lesson:
        """Of a part that comes after `typed` characters of its stretch."""
        above, below = (
            content[: part.first],
            [text for i, text in enumerate(content[part.last :], part.last) if i not in part.added],
        )
        request = CompletionRequest(
            document=self._bench.uri(part.path),
            path=part.path,
            prefix="".join(f"{line}\n" for line in above),
            suffix="".join(f"\n{line}" for line in below),
            root=str(self._bench.root),
            file=str(self._bench.root / part.path),
            sources=SOURCES,
        )
        self._bench.show(part.path, request.prefix + request.suffix)
        self._bench.settle()
        prompt = served(request, typed, self._snippets, self._tokenizer, self._budget)
        text = "\n".join(content[part.first : part.last])
        written = self._tokenizer.encode(prompt.healed + text)
        written = written[:LONGEST_STRETCH]
        weights = self._weights(prompt.healed, content, part, written)
        self._bench.show(part.path, "\n".join([*content[: part.last], *below]))
        return Lesson(prompt.tokens, [*written, self._end], [*weights, self._end_weight])

    def _snippets(self, request: CompletionRequest) -> tuple[Snippet, ...]:
        return self._shelves.snippets(request)

    def _weights(self, healed: str, content: Sequence[str], part: Stretch, written: Sequence[int]) -> list[float]:
        """Of the loss of each token written: none in lines that were there before."""
        sizes = [len(content[number].encode()) + 1 for number in range(part.first, part.last)]
        ends = list(accumulate(sizes))
        weights, at = list[float](), -len(healed.encode())
        for token in written:
            number = part.first + min(bisect_right(ends, max(at, 0)), len(ends) - 1)
            weights.append(WEIGHT if number in part.own else 0.0)
            at += len(self._tokenizer.pieces[token])
        return weights


def own_stretches(repository: Repository, commits: Sequence[Commit]) -> Iterator[Stretch]:
    """All that these commits wrote by hand, in their order."""
    by_id = {commit.id: commit for commit in commits}
    for added in repository.added([commit.id for commit in commits]):
        if is_typed(added.path):
            yield from stretches(by_id[added.commit], added)
