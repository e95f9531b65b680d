"""The training examples of one document: what the engine would be asked with, what is to be written, and the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from habitab_adapters.pretrain.cursors import KINDS, Page, draw, to_line_end
from habitab_adapters.pretrain.related import Package
from habitab_engine.families import HABITAB
from habitab_engine.prompt import Budget, Prompt, build
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.types import CompletionRequest, Snippet

LONGEST = 1024
# Tokens of what is written, the healed part and the end included; the engine writes 96 at most.
ROOM = 128
_TRIES = 4  # places that are looked at for a gap of the wanted kind
_BEGINNING = 2  # characters before the document, for each token of an example, that count as its beginning
_PATHS = 4  # an example's budget is at least so many times its path

Ask = Callable[[CompletionRequest], tuple[Snippet, ...]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What examples are made of.

    `characters` of a document for each example that is made of it. `plain` is the share of examples without a gap, of
    `plain_tokens` (least and most). Of those with one, `snippets` is the share that asks for pieces of other places
    (nine in ten get some), `no_suffix` the share at the end of what is written so far, and `kinds` are the shares of
    `KINDS`. The budget of the prompt is within `short_tokens` for the share `short`, else within `long_tokens`; of a
    budget, pieces that are not there leave a third free. The weights of the loss are in sixteenths; what was healed is
    part of the middle.
    """

    characters: int = 1_000
    plain: float = 0.25
    plain_tokens: tuple[int, int] = (64, 256)
    snippets: float = 0.45
    no_suffix: float = 0.1
    kinds: tuple[float, ...] = (0.45, 0.2, 0.2, 0.15)
    short: float = 0.5
    short_tokens: tuple[int, int] = (140, 480)
    long_tokens: tuple[int, int] = (480, 1_000)
    plain_weight: int = 16
    prefix_weight: int = 12
    middle_weight: int = 48
    end_weight: int = 192


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens, and for each the weight of the loss of predicting it, in sixteenths."""

    kind: str
    tokens: list[int]
    weights: list[int]


@dataclass(frozen=True, slots=True)
class Document:
    """One file of a package."""

    package: str
    path: str
    language: str
    text: str


class Maker:
    """Makes examples by a recipe."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self._recipe, self._tokenizer = recipe, tokenizer
        self._end = tokenizer.special_ids[HABITAB.stops[0]]
        self._middle = tokenizer.special_ids["<fim_middle>"]

    def examples(self, document: Document, package: Package, rng: Random) -> Iterator[Example]:
        """As many as `Recipe.characters` says on average; a place without a gap that fits gives none."""
        page = Page.of(document.text, document.path, document.language)
        least = _PATHS * len(self._tokenizer.encode(document.path))
        for _ in range(int(len(document.text) / self._recipe.characters + rng.random())):
            is_plain = rng.random() < self._recipe.plain
            most = min(max(self._most(is_plain, rng), least), LONGEST)
            made = (
                self.plain(document.path, page, most, rng)
                if is_plain
                else self._with_gap(document.path, page, package, most, rng)
            )
            if made is not None and len(made.tokens) <= LONGEST:
                yield made

    def _most(self, is_plain: bool, rng: Random) -> int:
        recipe = self._recipe
        is_short = rng.random() < recipe.short
        return rng.randint(
            *(recipe.plain_tokens if is_plain else recipe.short_tokens if is_short else recipe.long_tokens)
        )

    def plain(self, path: str, page: Page, most: int, rng: Random) -> Example:
        """At most `most` tokens of text, from the beginning of a line on; the end token comes where the text ends."""
        # Any place has the same chance; the document's beginning counts as a few places more, for it is short.
        place = rng.randrange(-_BEGINNING * most, len(page.text) + 1)
        start = page.starts[page.line_at(max(place, 0))]
        text = page.text[start : start + LONGEST * 6]
        head = [self._tokenizer.special_ids["<filename>"], *self._tokenizer.encode(HABITAB.path_line % path)]
        body = self._tokenizer.encode(text) + [self._end] * (start + len(text) == len(page.text))
        body = body[: max(most - len(head), 0)]
        return Example("plain", head + body, [0] * len(head) + [self._recipe.plain_weight] * len(body))

    def _with_gap(self, path: str, page: Page, package: Package, most: int, rng: Random) -> Example | None:
        kind = rng.choices(KINDS, self._recipe.kinds)[0]
        gap = next(filter(None, (draw(kind, page, rng) for _ in range(_TRIES))), None)
        if gap is None:
            return None
        suffix = page.text[gap.end :]
        if rng.random() < self._recipe.no_suffix:
            gap, suffix = to_line_end(page, gap), ""
        request = CompletionRequest(path, path, page.text[: gap.start], suffix)
        last = page.line_at(gap.end)
        ask = partial(package.snippets, last=last) if rng.random() < self._recipe.snippets else _nothing
        # A window that is full has moved on from where it began by about as many characters as it has tokens.
        prompt = served(request, rng.randrange(most), ask, self._tokenizer, Budget.of(most))
        return self.filled(kind, prompt, page.text[gap.start : gap.end])

    def filled(self, kind: str, prompt: Prompt, middle: str) -> Example | None:
        """The prompt, what it left out for healing, the middle and the end; None where those take too many tokens."""
        recipe = self._recipe
        written = self._tokenizer.encode(prompt.healed + middle)
        tokens = [*prompt.tokens, *written, self._end]
        if len(written) >= ROOM:
            return None
        given = prompt.tokens.index(self._middle) + 1
        prefix = len(prompt.tokens) - given
        weights = [0] * given + [recipe.prefix_weight] * prefix
        return Example(kind, tokens, weights + [recipe.middle_weight] * len(written) + [recipe.end_weight])


def _nothing(request: CompletionRequest) -> tuple[Snippet, ...]:
    return ()


def served(request: CompletionRequest, typed: int, ask: Ask, tokenizer: Tokenizer, budget: Budget) -> Prompt:
    """The engine's prompt after the last `typed` characters before the cursor were typed in one place.

    As in `Engine.prompt`: the window and the snippets are those of the first of these keystrokes, until the window
    moves.
    """
    before = replace(request, prefix=request.prefix[: max(len(request.prefix) - typed, 0)])
    layout = build(before, tokenizer, HABITAB, budget).layout
    prompt = build(replace(request, snippets=ask(before)), tokenizer, HABITAB, budget, layout)
    if prompt.layout == layout:
        return prompt
    return build(replace(request, snippets=ask(request)), tokenizer, HABITAB, budget, prompt.layout)
