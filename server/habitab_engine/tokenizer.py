"""Text to tokens and back, in bytes where it matters, and where a token may be cut for healing."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HFTokenizer

from habitab_engine.errors import DamagedBaseError, MissingBaseError

_HEAL_TAIL = 256  # characters of the text's end that are pre-tokenised to find the last pre-token
_HEAL_MOST = 64  # a longer run before the cursor is left as it stands


def _byte_of_char() -> dict[str, int]:
    """The printable alphabet in which byte-level BPE writes bytes (GPT-2's `bytes_to_unicode`, inverted)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(b): b for b in plain}
    others = (b for b in range(256) if b not in plain)
    return table | {chr(256 + i): b for i, b in enumerate(others)}


class Tokenizer:
    """A `tokenizer.json`, byte-level BPE or SentencePiece style.

    `control` names tokens that are special for the prompt even where the file does not say so (Qwen2.5-Coder's).
    Raises MissingBaseError or DamagedBaseError when the file is absent or unreadable.
    """

    def __init__(self, folder: Path, control: Collection[str] = ()) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise MissingBaseError(f"The base model in {folder} has no tokenizer.json; copy the folder again.")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
            self._tokenizer = HFTokenizer.from_str(json.dumps(_without_blank(spec)))
        except Exception as error:  # the library raises bare Exception on a file it cannot read
            raise DamagedBaseError(f"{path} is not a readable tokenizer; copy the base model again.") from error
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        names = {t["content"] for t in spec.get("added_tokens", []) if t.get("special")} | set(control)
        self.special_ids: dict[str, int] = {name: vocabulary[name] for name in sorted(names & vocabulary.keys())}
        # Special names that stand in a person's file are text, never control tokens.
        self._tokenizer.add_special_tokens(list(self.special_ids))
        self._tokenizer.encode_special_tokens = True
        self._byte_level = "ByteLevel" in json.dumps(spec.get("decoder") or {})

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; a character cut in the middle is left out."""
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="ignore")

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every token by id; special and unused ids are empty."""
        pieces = [b""] * len(self)
        special = set(self.special_ids.values())
        read = _byte_level_piece() if self._byte_level else _sentencepiece_piece
        for token, i in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if i not in special and i < len(pieces):
                pieces[i] = read(token)
        return pieces

    @cached_property
    def _sorted(self) -> tuple[list[bytes], list[int]]:
        order = sorted((i for i, p in enumerate(self.pieces) if p), key=self.pieces.__getitem__)
        return [self.pieces[i] for i in order], order

    def agreeing(self, wanted: bytes) -> list[int]:
        """Ids whose bytes begin with `wanted`, or with which `wanted` begins (token healing's mask)."""
        keys, ids = self._sorted
        extend = ids[bisect.bisect_left(keys, wanted) : bisect.bisect_left(keys, _after(wanted))]
        return extend + list(self._heads(keys, ids, wanted))

    @staticmethod
    def _heads(keys: list[bytes], ids: list[int], wanted: bytes) -> Iterable[int]:
        for size in range(1, len(wanted)):
            at = bisect.bisect_left(keys, wanted[:size])
            if at < len(keys) and keys[at] == wanted[:size]:
                yield ids[at]

    def heal(self, text: str) -> tuple[list[int], str]:
        """The ids of `text` without its last pre-token, and that pre-token.

        The whole text is encoded and then cut: white space is split by what follows it.
        """
        cut = self.boundary(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        kept = [i for i, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True) if begin < cut]
        return kept, text[cut:]

    def boundary(self, text: str) -> int:
        """The character index where the last pre-token of `text` begins.

        BPE never merges across pre-tokens, so a prompt cut there is tokenised as a longer text would be:
        what stands after it is the text that token healing has to generate again.
        """
        tail = text[-_HEAL_TAIL:]
        pre_tokenizer = self._tokenizer.pre_tokenizer
        if not tail or pre_tokenizer is None:
            return len(text)
        begin = pre_tokenizer.pre_tokenize_str(tail)[-1][1][0]
        kept = len(tail) - begin
        return len(text) if kept > _HEAL_MOST or begin == 0 < len(text) - len(tail) else len(text) - kept


def _without_blank(spec: dict[str, Any]) -> dict[str, Any]:
    """SentencePiece files put a blank before every text; the prompt writes the blanks that belong there."""
    for part in (spec.get("pre_tokenizer"), spec.get("decoder")):
        if part and "prepend_scheme" in part:
            part["prepend_scheme"] = "never"
    normalizer = spec.get("normalizer") or {}
    normalizer["normalizers"] = [n for n in normalizer.get("normalizers", ()) if n.get("type") != "Prepend"]
    if normalizer.get("type") == "Prepend":
        spec["normalizer"] = None
    return spec


def _after(prefix: bytes) -> bytes:
    """The smallest byte string greater than every string that begins with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\xff" * 64


def _byte_level_piece() -> Callable[[str], bytes]:
    table = _byte_of_char()
    return lambda token: bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()


def _sentencepiece_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
