"""KV caches kept between requests: a few slots, one per recently edited document, of bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from habitab_engine.prompt import Layout
from habitab_engine.types import Snippet


@dataclass(slots=True)
class Slot:
    """The cache of one document: `tokens` are the ids whose keys and values `cache` holds, in order.

    `layout`, `snippets` and `sources` are those of the document's last prompt. `ahead` keeps the logits after it, so
    that asking for the same prompt again (healing often does, within a word) computes nothing.
    """

    cache: Tensor
    tokens: list[int] = field(default_factory=list)
    layout: Layout | None = None
    snippets: tuple[Snippet, ...] = ()
    sources: tuple[str, ...] = ()
    ahead: tuple[tuple[int, ...], Tensor] | None = None

    def reuse(self, tokens: Sequence[int]) -> int:
        """Crop to the longest common prefix with `tokens` and return its length."""
        n = common_prefix(self.tokens, tokens)
        del self.tokens[n:]
        return n

    def logits_after(self, tokens: Sequence[int]) -> Tensor | None:
        return self.ahead[1] if self.ahead and self.ahead[0] == tuple(tokens) else None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


class KVCaches:
    """At most `most` slots; the least recently used document gives way. A slot belongs to one adapter."""

    def __init__(self, new: Callable[[], Tensor], most: int) -> None:
        self._new, self._most = new, most
        self._slots: OrderedDict[str, Slot] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, document: str) -> Slot:
        """The document's slot, made or taken from the document used least recently."""
        slot = self._slots.get(document) or self._empty()
        self._slots[document] = slot
        self._slots.move_to_end(document)
        return slot

    def _empty(self) -> Slot:
        if len(self._slots) < self._most:
            return Slot(self._new())
        return Slot(self._slots.popitem(last=False)[1].cache)

    def forget(self, document: str) -> None:
        self._slots.pop(document, None)

    def clear(self) -> None:
        """Forget everything; an adapter swap makes every cache worthless."""
        self._slots.clear()

    @property
    def bytes(self) -> int:
        return sum(slot.cache.nbytes for slot in self._slots.values())
