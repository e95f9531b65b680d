"""Tokens and text agree in every byte; a text is cut only where a longer text would be cut too."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.base_files import EMBEDDED
from habitab_engine.errors import DamagedBaseError, MissingBaseError
from habitab_engine.tokenizer import Tokenizer

TOKENIZER = Tokenizer(EMBEDDED)
# The vocabulary lacks a few bytes: rare control characters and the first byte of unassigned planes.
ALPHABET = st.characters(max_codepoint=0x3FFFF, exclude_categories=("Cs", "Cc"))
LINES = [
    "",
    "    ",
    "\n",
    "self.",
    "return value",
    "if x:\n        ",
    "\t\tfoo(",
    "a == b",
    "'it''s'",
    "naïve 😀 ",
    "x" * 9,
]
texts = st.lists(st.sampled_from(LINES), max_size=6).map("".join) | st.text(ALPHABET, max_size=40)


@given(texts)
def test_decoding_gives_the_text_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(texts)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text: str) -> None:
    assert b"".join(TOKENIZER.pieces[i] for i in TOKENIZER.encode(text)) == text.encode()


@given(texts, st.sampled_from(["name", "x = 1", "(a, b)", "_more"]))
def test_typing_on_does_not_change_the_tokens_before_the_boundary(text: str, more: str) -> None:
    head, healed = TOKENIZER.heal(text)
    assert TOKENIZER.encode(text + more)[: len(head)] == head
    assert TOKENIZER.decode(head) + healed == text


@given(texts)
def test_the_boundary_leaves_little_to_heal(text: str) -> None:
    assert 0 <= len(text) - TOKENIZER.boundary(text) <= 64


@pytest.mark.parametrize(
    ("text", "healed"),
    [
        ("def foo():\n    ", "\n    "),
        ("    ret", " ret"),
        ("x = foo(", "("),
        ("x = ", " "),
        ("x\n", "\n"),
        ("self.na", "na"),
        ("\t\treturn val", " val"),
    ],
)
def test_what_is_healed_is_the_last_piece_of_white_space_word_or_punctuation(text: str, healed: str) -> None:
    assert text[TOKENIZER.boundary(text) :] == healed


@given(st.sampled_from([b"\n    ", b" ret", b"(", b" ", "é".encode(), b"\xff"]))
def test_agreeing_tokens_are_exactly_those_that_fit(wanted: bytes) -> None:
    fits = {i for i, p in enumerate(TOKENIZER.pieces) if p and (p.startswith(wanted) or wanted.startswith(p))}
    agreeing = TOKENIZER.agreeing(wanted)
    assert set(agreeing) == fits and len(agreeing) == len(fits)


def test_special_names_in_a_file_are_plain_text() -> None:
    special = set(TOKENIZER.special_ids.values())
    assert special and not special & set(TOKENIZER.encode("a <|endoftext|> <fim_middle> b"))


def test_a_missing_or_unreadable_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingBaseError, match=r"has no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(DamagedBaseError, match="not a readable tokenizer"):
        Tokenizer(tmp_path)
