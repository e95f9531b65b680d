"""KV caches kept between requests: a few slots, one per recently edited document, of bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from habitab_engine.prompt import Layout
from habitab_engine.types import Snippet

MOST_KNOWN = 24  # logits kept in a slot, 0.13 MB each


@dataclass(slots=True)
class Slot:
    """The cache of one document: `tokens` are the ids that count, whose keys and values `cache` holds, in order.

    `layout`, `snippets` and `sources` are those of the document's last prompt. `rest` are ids that stand in the cache
    behind `tokens`: what was written there, or drafted. `known` are the logits after so many of `tokens` and `rest`.
    So what was written once is not computed again while what is typed agrees with it; with token healing that is at
    most keystrokes inside a word.
    """

    cache: Tensor
    tokens: list[int] = field(default_factory=list)
    layout: Layout | None = None
    snippets: tuple[Snippet, ...] = ()
    sources: tuple[str, ...] = ()
    rest: list[int] = field(default_factory=list)
    known: dict[int, Tensor] = field(default_factory=dict)

    def reuse(self, tokens: Sequence[int]) -> int:
        """Let only the longest common prefix with `tokens` count, and return its length."""
        held = self.tokens + self.rest
        n = common_prefix(held, tokens)
        self.tokens, self.rest = held[:n], held[n:]
        return n

    def follow(self, token: int) -> Tensor | None:
        """The logits after `token`, which then counts, if it stands next in the cache; else None."""
        if self.rest[:1] != [token] or len(self.tokens) + 1 not in self.known:
            return None
        self.tokens.append(self.rest.pop(0))
        return self.known[len(self.tokens)]

    def overwrite(self, begin: int) -> None:
        """Keys and values from position `begin` on are about to change."""
        del self.tokens[begin:]
        self.rest.clear()
        self.known = {position: logits for position, logits in self.known.items() if position <= begin}

    def learn(self, position: int, logits: Tensor) -> None:
        """The logits after `position` tokens. Of too many the first are kept, and those that are still to be used."""
        if len(self.known) >= MOST_KNOWN and (used := [p for p in self.known if p < len(self.tokens)]):
            del self.known[max(used)]
        self.known[position] = logits


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


class KVCaches:
    """At most `most` slots; the least recently used document gives way. A slot belongs to one adapter."""

    def __init__(self, new: Callable[[], Tensor], most: int) -> None:
        self._new, self._most = new, most
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._latest = ""

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, document: str) -> Slot:
        """The document's slot, made or taken from the document used least recently."""
        slot = self._slots.get(document) or self._empty()
        self._slots[document] = slot
        self._slots.move_to_end(document)
        self._latest = document
        return slot

    @property
    def latest(self) -> tuple[str, Slot] | None:
        """The document used last, unless it was forgotten, and its slot; may be asked from any thread."""
        document = self._latest
        slot = self._slots.get(document)
        return None if slot is None else (document, slot)

    def _empty(self) -> Slot:
        if len(self._slots) < self._most:
            return Slot(self._new())
        return Slot(self._slots.popitem(last=False)[1].cache)

    def forget(self, document: str) -> None:
        self._slots.pop(document, None)

    def replace(self, document: str, slot: Slot | None) -> None:
        """Forget everything, as an adapter swap makes every cache worthless; `document` has this slot from now on."""
        self._slots.clear()
        if slot is not None:
            self._slots[document] = slot

    @property
    def bytes(self) -> int:
        return sum(slot.cache.nbytes for slot in self._slots.values())
