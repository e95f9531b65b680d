"""Text as the memory keeps it: cut into units that are tokenised on their own, each token one code of fixed width.

A code is a token's id + 1, big-endian, so that bytes compare as the tokens do and 0 is free for a border.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence

Encode = Callable[[str], Sequence[int]]

BORDER = "\0"  # what stands on its two sides belongs to two texts
# A unit is about a line. It is cut where a tokenizer joins nothing: before the white space in front of a line end
# (GPT-2's kind), or behind the line ends (the kind that joins them with what stands before).
# White space is what Unicode calls so; Python's \s has four control characters more.
_BLANK, _FULL = r"[^\S\x1c-\x1f]", r"[\S\x1c-\x1f]"
_AT_BORDER = r"|(?<=\0)|(?=\0)"
_CUTS = tuple(
    re.compile(at + _AT_BORDER) for at in (rf"(?<={_FULL})(?={_BLANK}*\n)", rf"(?<=\n)(?=(?:(?!\n){_BLANK})*{_FULL})")
)
# GPT-2's pre-tokens where a text is all ASCII; `re` has no \p{L}.
_PIECE = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^ \t\n\r\f\vA-Za-z0-9]+"
    r"|[ \t\n\r\f\v]+(?![^ \t\n\r\f\v])|[ \t\n\r\f\v]+"
)
_PROBE = "if x:\n\t\tdon't('a_b', 12)  #  We'll\n\n    self.name[3:45]+=1.5e6; \n \n  B.C=>d();\n}  "
_STRETCH = 20_000  # characters; some milliseconds of work
_PIECES = 40_000  # kept with their codes, at about 200 bytes each


class Encoder:
    """Text to codes, through a tokenizer's `encode`; `vocabulary` is one more than its greatest id.

    Where that splits text as GPT-2 does, pieces are looked up instead: several times faster, and the same.
    """

    def __init__(self, encode: Encode, vocabulary: int) -> None:
        self.width, self._format = (2, "H") if vocabulary < 0xFFFF else (4, "I")
        self._encode = encode
        self._known: dict[str, bytes] = {}
        probe = self._slow(_PROBE)
        self._splits = self._quick(_PROBE) == probe
        fitting = (at for at in _CUTS if b"".join(map(self._slow, at.split(_PROBE))) == probe)
        self._cut = next(fitting, _CUTS[0])

    def cut(self, text: str) -> list[str]:
        """The units of `text`, in order and without a gap; a border is a unit of its own.

        Whether a place is cut depends on one character before it, and on the white space and a character after it.
        """
        return [unit for unit in self._cut.split(text) if unit]

    def stretches(self, text: str) -> Iterator[str]:
        """`text` in pieces that take no long to encode, cut where units are."""
        begin = 0
        while begin < len(text):
            found = self._cut.search(text, begin + _STRETCH)
            end = found.start() if found else len(text)
            yield text[begin:end]
            begin = end

    def __call__(self, text: str) -> bytes:
        """The codes of `text`; of a border, a zero."""
        if text == BORDER:
            return bytes(self.width)
        if not self._splits:
            return self._slow(text)
        if text.isascii():
            return self._quick(text)
        return b"".join(self._quick(unit) if unit.isascii() else self._slow(unit) for unit in self.cut(text))

    def codes(self, ids: Sequence[int]) -> bytes:
        return struct.pack(f">{len(ids)}{self._format}", *(i + 1 for i in ids))

    def ids(self, codes: bytes) -> list[int]:
        """The ids up to the first border."""
        numbers = struct.unpack(f">{len(codes) // self.width}{self._format}", codes)
        return [number - 1 for number in (numbers[: numbers.index(0)] if 0 in numbers else numbers)]

    def _slow(self, text: str) -> bytes:
        # An editor can cut a surrogate pair in two; a tokenizer takes no half of one.
        return self.codes(self._encode(text.encode("utf-8", "replace").decode()))

    def _quick(self, text: str) -> bytes:
        known = self._known
        if len(known) > _PIECES:
            known.clear()
        codes = []
        for piece in _PIECE.findall(text):
            code = known.get(piece)
            if code is None:
                code = known[piece] = self._slow(piece)
            codes.append(code)
        return b"".join(codes)
