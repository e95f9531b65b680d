"""The prompt under its token budget, laid out so that typing appends at the end; pure.

What stands before the text being typed must not move, or the KV cache behind it is lost. So a document keeps a
`Layout`: where its window of the prefix begins, moved in big steps only, and the suffix as it was taken, kept as
long as nothing but typing happened. Sources: the base's training form; token healing as in guidance (M. Ribeiro,
"Prompt boundaries and token healing", 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from habitab_engine.families import FimTemplate, Special, Text, segments, snippet_segments
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.types import CompletionRequest, Snippet

_CLOSERS = ")]}>\"'`;:, "  # what editors add on their own right of the cursor
_AUTO_CLOSED = 8  # characters by which an auto-closing editor may change the suffix
_CHARACTERS_A_TOKEN = 6  # on code 3 to 4; more only costs a longer text to measure
_REFILL = 0.6  # share of its budget that the prefix has after its window moved
_TOO_LITTLE = 0.25  # a window that covers less than this share is taken anew


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of the whole prompt and the most of its parts; the prefix has what the others' shares leave.

    A share is kept free even where it is not used: what is in it tomorrow must not move the prefix, and a shorter
    prompt is a faster one.
    """

    total: int = 1024
    suffix: int = 160
    snippets: int = 320

    @classmethod
    def of(cls, total: int) -> Budget:
        """The usual shares of a smaller prompt."""
        usual = cls()
        return cls(total, usual.suffix * total // usual.total, usual.snippets * total // usual.total)


@dataclass(frozen=True, slots=True)
class Layout:
    """What stays as it is while a person types in one place.

    `start` is the character of the document where the prefix's window begins; `suffix` the text after the cursor.
    """

    start: int
    suffix: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and the text before the cursor that they leave out for the model to write again (`healed`)."""

    tokens: list[int]
    healed: str
    layout: Layout


def build(
    request: CompletionRequest,
    tokenizer: Tokenizer,
    template: FimTemplate,
    budget: Budget,
    previous: Layout | None = None,
) -> Prompt:
    """The prompt of `request`, in the layout of the document's last prompt where that still fits."""
    suffix = _suffix(request.suffix if template.fills else "", tokenizer, budget.suffix, previous)
    snippets = _snippets(request.snippets, tokenizer, template, budget.snippets)
    frame = len(_encode(segments(template, request.path, "", ""), tokenizer))
    start = _start(request, tokenizer, budget.total - budget.suffix - budget.snippets - frame, previous)
    window = request.prefix[start - request.offset :]
    layout = Layout(start, suffix)
    if not template.cursor_last:
        return Prompt(_encode(segments(template, request.path, window, suffix, snippets), tokenizer), "", layout)
    before, healed = tokenizer.heal(window)
    return Prompt(_encode(segments(template, request.path, "", suffix, snippets), tokenizer) + before, healed, layout)


def _encode(parts: list[Special | Text], tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = []
    for part in parts:
        ids += [tokenizer.special_ids[part.token]] if isinstance(part, Special) else tokenizer.encode(part.text)
    return ids


def _suffix(text: str, tokenizer: Tokenizer, budget: int, previous: Layout | None) -> str:
    fresh = _head(text, tokenizer, budget)
    return previous.suffix if previous and _only_typed(previous.suffix, fresh) else fresh


def _only_typed(old: str, new: str) -> bool:
    """True when the suffixes differ by no more than brackets and quotes that an editor closed by itself."""
    a, b = old.lstrip(_CLOSERS), new.lstrip(_CLOSERS)
    short, long = sorted((a, b), key=len)
    return long.startswith(short) and len(long) - len(short) <= _AUTO_CLOSED and abs(len(old) - len(new)) <= 16


def _head(text: str, tokenizer: Tokenizer, budget: int) -> str:
    """The first whole lines of `text` within `budget` tokens, or a piece of the first line."""
    text = text[: budget * _CHARACTERS_A_TOKEN]
    used = end = 0
    for line in text.splitlines(keepends=True):
        used += len(tokenizer.encode(line))
        if used > budget:
            break
        end += len(line)
    return text[:end] if end else tokenizer.decode(tokenizer.encode(text)[:budget])


def _snippets(
    snippets: tuple[Snippet, ...], tokenizer: Tokenizer, template: FimTemplate, budget: int
) -> tuple[Snippet, ...]:
    """The last snippets (the best stand last) that fit."""
    kept: list[Snippet] = []
    for snippet in reversed(snippets):
        budget -= len(_encode(snippet_segments(template, snippet), tokenizer))
        if budget < 0:
            break
        kept.insert(0, snippet)
    return tuple(kept)


def _start(request: CompletionRequest, tokenizer: Tokenizer, budget: int, previous: Layout | None) -> int:
    if previous and _still_good(request, tokenizer, budget, previous.start):
        return previous.start
    tail = request.prefix[-budget * _CHARACTERS_A_TOKEN :]
    whole = len(tail) == len(request.prefix)
    if whole and len(tokenizer.encode(tail)) <= budget:
        return request.offset
    kept = sum(_lines_from_end(tail, tokenizer, int(budget * _REFILL)))
    return request.offset + len(request.prefix) - kept


def _still_good(request: CompletionRequest, tokenizer: Tokenizer, budget: int, start: int) -> bool:
    begin = start - request.offset
    if not 0 <= begin <= len(request.prefix) or (begin and request.prefix[begin - 1] != "\n"):
        return False
    window = request.prefix[begin:]
    if len(window) > budget * _CHARACTERS_A_TOKEN:
        return False
    used = len(tokenizer.encode(window))
    return used <= budget and (start == 0 or used >= budget * _TOO_LITTLE)


def _lines_from_end(text: str, tokenizer: Tokenizer, budget: int) -> Iterator[int]:
    """Lengths of the last whole lines within `budget` tokens; of a longer last line, a piece."""
    for i, line in enumerate(reversed(text.splitlines(keepends=True))):
        ids = tokenizer.encode(line)
        if len(ids) > budget:
            if i == 0:
                yield len(tokenizer.decode(ids[-budget:]))
            return
        budget -= len(ids)
        yield len(line)
