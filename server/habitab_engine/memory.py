"""`Memory`: what the workspace's files and today's text say comes next, over tokens, and which names they have.

Exact longest matches as in SAM decoding (arXiv 2411.10666), but over text that is edited anywhere: today's documents
(`windows`) at once, the other files (`suffixes`) in the background. A document that is open counts as the editor has
it, not as it is on disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from habitab_engine.mixing import WEIGHTS, Prediction, Spelling, cell
from habitab_engine.suffixes import Files, Pause
from habitab_engine.units import Encode, Encoder
from habitab_engine.windows import AHEAD, REACH, Document, Windows
from habitab_engine.words import Today, ranked

MOST_CHARACTERS = 1_000_000  # of a document; nobody typed a longer one
MOST_CODES = 300_000  # of today's documents together, at about 140 bytes each
# How much more an occurrence weighs in today's text than in another file, and with each token more of a match.
TODAY, LONGER = 13.0, 11.0
_SHORTER = 1  # tokens; a match in the files that is shorter by more than today's weighs too little to be read


class Memory:
    """One thread updates and asks; another may call `add_file`, `remove_file` and `build` in the background.

    `encode` is the tokenizer's, `vocabulary` one more than its greatest id. `pause` is called between the steps of
    the background's work, which take up to about 0.1 s each; it may block.
    """

    def __init__(self, encode: Encode, vocabulary: int, pause: Pause = lambda: None) -> None:
        self._encoder = Encoder(encode, vocabulary)
        self._documents: dict[str, Document] = {}  # the one that changed last stands last
        self._paths: dict[str, str] = {}
        self._left_out: set[str] = set()  # open, but too large
        self._cursor: str | None = None  # the document with a hole
        self._windows = Windows(self._encoder.width)
        self._today = Today()
        self._files = Files(self._encoder, pause)
        self.weights: Sequence[Sequence[float]] = WEIGHTS

    def update(self, document: str, text: str, hole: tuple[int, int] | None = None, path: str = "") -> None:
        """Take `text` as what the document holds now; the time it takes grows with the change alone.

        `hole` are the characters from the end of the prompt's tokens to the cursor: they do not count, and nothing
        is seen across, so that what stands right of the cursor is not foreseen at the cursor. `path` is the
        document's place as `add_file` names it; that file does not count while the document is open.
        """
        self._open(document, path)
        if document in self._left_out or len(text) > MOST_CHARACTERS:
            self._leave_out(document)
            return
        if hole and self._cursor not in (None, document):
            self._show(self._cursor, self._documents[self._cursor].text, None)
        self._show(document, text, hole)
        self._cursor = document if hole else None if self._cursor == document else self._cursor
        while sum(map(len, self._documents.values())) > MOST_CODES:
            oldest = next(iter(self._documents))
            self._leave_out(oldest) if oldest == document else self.forget(oldest)

    def knows(self, document: str) -> bool:
        """Whether an `update` of the document costs its change only."""
        return document in self._documents or document in self._left_out

    def whole(self, document: str, part: str, offset: int, length: int) -> tuple[str, int]:
        """The text of a document of `length` characters in which `part` stands at `offset`, and where it stands there.

        What is around the part is taken to be as it was; where nothing that fits is known, the part is all there is.
        """
        known = self._documents.get(document)
        behind = length - offset - len(part)
        if known is None or behind < 0 or len(known.text) < offset + behind:
            return part, 0
        return known.text[:offset] + part + known.text[len(known.text) - behind :], offset

    def forget(self, document: str) -> None:
        """Drop a document that was closed; its file counts again as it is on disk."""
        self._drop(document)
        self._left_out.discard(document)
        if path := self._paths.pop(document, ""):
            self._files.show(path)

    def add_file(self, path: str, text: str) -> bool:
        """Take `text` as what the file holds on disk; it counts from the next `build` on. False if there is no room.

        Takes about 30 ms for 100,000 characters; every million tokens it takes a `build` longer.
        """
        return self._files.add(path, text)

    def remove_file(self, path: str) -> None:
        """Forget a file that is gone, at once."""
        self._files.remove(path)

    def build(self) -> None:
        """Let what was added count: to be called when no more files are about to come."""
        self._files.build()

    def predict(self, context: Sequence[int]) -> Prediction | None:
        """The next token after the longest end of `context` that is remembered; None if not even its last is."""
        found = self._followers(context, 1)
        if not found:
            return None
        length, followers = found
        shares: dict[bytes, float] = defaultdict(float)
        for codes, weight in followers:
            shares[codes] += weight
        probs = np.array(list(shares.values()))
        probs /= probs.sum()
        row, column = cell(length, float(probs.max()))
        return Prediction(length, np.array(self._encoder.ids(b"".join(shares))), probs, self.weights[row][column])

    def draft(self, context: Sequence[int], count: int, agreed: float = 0.0) -> list[int]:
        """Up to `count` tokens that are likely to come, by a vote at each.

        Fewer where the matches end, and where those that went on like that are less than the share `agreed` of all.
        """
        found = self.followers(context, min(count, AHEAD))
        followers = found[1] if found else []
        least = agreed * sum(weight for _, weight in followers)
        drafted: list[int] = []
        while len(drafted) < count:
            followers = [(ids, weight) for ids, weight in followers if len(ids) > len(drafted)]
            votes: dict[int, float] = defaultdict(float)
            for ids, weight in followers:
                votes[ids[len(drafted)]] += weight
            chosen = max(votes, key=votes.__getitem__, default=-1)
            if not votes or votes[chosen] < least:
                break
            followers = [(ids, weight) for ids, weight in followers if ids[len(drafted)] == chosen]
            drafted.append(chosen)
        return drafted

    def followers(self, context: Sequence[int], ahead: int) -> tuple[int, list[tuple[list[int], float]]] | None:
        """The length of the longest match, and the up to `ahead` tokens behind each of its places, with its weight."""
        found = self._followers(context, ahead)
        return found and (found[0], [(self._encoder.ids(codes), weight) for codes, weight in found[1]])

    def names(self, before: str, typed: str, after: str) -> list[tuple[str, float]]:
        """The names that begin with `typed`, likeliest first, with their probabilities.

        `before` is the text up to where the name begins, `after` what stands right of the cursor.
        """
        return ranked(before, typed, after, self._today.beginning(typed), self._files.beginning(typed))

    def spell(self, before: str, typed: str, after: str, healed: str) -> Spelling:
        """The same in tokens, from where the prompt's tokens end: `healed` is the text from there to the cursor."""
        if not healed:
            return Spelling(())
        start = len(before) + len(typed) - len(healed)
        begun = before[start:]  # white space before the name, as a rule
        spelled = [
            (tuple(self._encoder.ids(self._encoder(begun + name[max(0, start - len(before)) :]))), share)
            for name, share in self.names(before, typed, after)
        ]
        return Spelling(tuple(spelled))

    def _followers(self, context: Sequence[int], ahead: int) -> tuple[int, list[tuple[bytes, float]]] | None:
        """The length of the longest match, and the up to `ahead` codes after each, with its weight."""
        pattern = self._encoder.codes(context[: -REACH - 1 : -1])
        today, later = self._windows.longest(pattern, ahead)
        files, elsewhere = self._files.longest(pattern, ahead, today - _SHORTER)
        length = max(today, files)
        if not length:
            return None
        near, far = TODAY * LONGER ** (today - length), LONGER ** (files - length)
        return length, [(codes, near) for codes in later] + [(codes, far) for codes in elsewhere]

    def _open(self, document: str, path: str) -> None:
        old = self._paths.pop(document, "")
        if old and old != path:
            self._files.show(old)
        if path:
            self._files.hide(path)
            self._paths[document] = path

    def _show(self, document: str, text: str, hole: tuple[int, int] | None) -> None:
        known = self._documents.pop(document, None) or Document(self._encoder)
        self._documents[document] = known
        for change in known.update(text, hole):
            self._windows.exchange(change.gone, change.new)
            self._today.exchange(change.gone_text, change.new_text)

    def _drop(self, document: str) -> None:
        if known := self._documents.pop(document, None):
            self._windows.exchange(known.windows(), [])
            self._today.exchange(known.shown, "")
        if self._cursor == document:
            self._cursor = None

    def _leave_out(self, document: str) -> None:
        self._drop(document)
        self._left_out.add(document)
