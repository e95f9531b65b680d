"""The memory's tokens are the tokenizer's own, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from habitab_engine.base_files import EMBEDDED
from habitab_engine.tokenizer import Tokenizer as BaseTokenizer
from habitab_engine.units import _STRETCH, BORDER, Encoder

BASE = BaseTokenizer(EMBEDDED)
# How Qwen2.5-Coder's tokenizer.json splits: punctuation takes the line ends behind it along.
JOINING = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CODE = [
    "if x:\n    return y  # naïve\n\n",
    "don't(a_b);\n}\n\n\t\tself.name = 12\n",
    "  \n  \n x \n",
    "'''漢😀\u2028\xa0\n'''",
    "\x1c\n  a\r\n\r\n",
]
texts = st.lists(st.sampled_from(CODE), max_size=4).map("".join) | st.text(
    st.sampled_from(" \t\n\r\f\x1cab_1.'s:;()é\xa0\u2028漢😀"), max_size=40
)


def joining_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    splits = pre_tokenizers.Split(Regex(JOINING), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CODE * 9, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


OTHER = joining_tokenizer()
ENCODES = {
    "the base's": (BASE.encode, len(BASE)),
    "one that joins line ends": (lambda text: OTHER.encode(text).ids, OTHER.get_vocab_size()),
    "one with many tokens": (lambda text: [70_000 + ord(c) for c in text], 1_200_000),
}
ENCODERS = {name: Encoder(*made) for name, made in ENCODES.items()}


@pytest.mark.parametrize("name", ENCODERS)
@given(text=texts)
@example(text="".join(CODE))
def test_codes_are_those_of_the_tokenizer(name: str, text: str) -> None:
    encoder, encode = ENCODERS[name], ENCODES[name][0]
    assert encoder.ids(encoder(text)) == list(encode(text))


@pytest.mark.parametrize("name", ENCODERS)
@given(text=texts)
@example(text="".join(CODE))
def test_units_are_tokenised_on_their_own_as_together(name: str, text: str) -> None:
    encoder = ENCODERS[name]
    units = encoder.cut(text)
    assert "".join(units) == text and all(units)
    assert b"".join(map(encoder, units)) == encoder(text)


def test_a_unit_is_about_a_line() -> None:
    text = "def f(a):\n    return a\n\n\ndef g(b):\n    return b\n"
    for name in ("the base's", "one that joins line ends"):
        assert 3 <= len(ENCODERS[name].cut(text)) <= 6


@given(st.integers(0, 3), texts)
def test_stretches_are_cut_where_units_are(times: int, text: str) -> None:
    encoder, text = ENCODERS["the base's"], (text + "pass\n" * 3000) * times
    stretches = list(encoder.stretches(text))
    assert "".join(stretches) == text
    assert b"".join(map(encoder, stretches)) == encoder(text)
    assert all(len(stretch) < _STRETCH + 500 for stretch in stretches)


def test_a_border_is_a_unit_of_its_own_and_a_zero() -> None:
    encoder = ENCODERS["the base's"]
    assert encoder.cut(f"a = b{BORDER}(c)") == ["a = b", BORDER, "(c)"]
    assert encoder(BORDER) == bytes(2)
    assert encoder.ids(encoder("a") + encoder(BORDER) + encoder("b")) == BASE.encode("a")


def test_half_a_surrogate_pair_does_no_harm() -> None:
    assert ENCODERS["the base's"]("x = '\ud83d'")


def test_what_is_kept_of_pieces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("habitab_engine.units._PIECES", 20)
    encoder = Encoder(BASE.encode, len(BASE))
    for i in range(200):
        assert encoder.ids(encoder(f"name{i} = value")) == BASE.encode(f"name{i} = value")
        assert len(encoder._known) <= 25
