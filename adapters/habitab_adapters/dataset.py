"""Training examples from a person's git history, in the very form in which the engine would have been asked.

A commit's changes to a file are typed from the top down, as in the replay: above the cursor stands the file as the
commit leaves it, below it the same without what is still to come. One example is a stretch of lines that the commit
added to one place: the engine's prompt at its beginning, then the lines, then the end token. Only what the person
wrote counts in the loss.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

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
LONGEST_STRETCH = 256  # tokens that are written, about as many as a person types in one go
WEIGHT = END_WEIGHT = 1.0  # of the loss of a token


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


class Writer:
    """Makes the examples of stretches, which must come in the order in which they were written."""

    def __init__(
        self, repository: Repository, bench: Workbench, shelves: Shelves, tokenizer: Tokenizer, budget: Budget
    ) -> None:
        self._repository, self._bench, self._shelves = repository, bench, shelves
        self._tokenizer, self._budget, self._scanner = tokenizer, budget, Scanner()
        self._end = tokenizer.special_ids[HABITAB.stops[0]]

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
        return Lesson(prompt.tokens, [*written, self._end], [*weights, END_WEIGHT])

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
