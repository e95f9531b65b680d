"""The prompt stays where it is while a person types, and never grows past its budget."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from habitab_engine.base_files import EMBEDDED
from habitab_engine.families import DEEPSEEK_CODER, HABITAB, PLAIN
from habitab_engine.kv_cache import common_prefix
from habitab_engine.prompt import Budget, Prompt, build
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.types import CompletionRequest, Snippet

TOKENIZER = Tokenizer(EMBEDDED)
SMALL = Budget(total=200, suffix=40, snippets=50)
BLOCK = "def area(width, height):\n    return width * height\n\n\n"
NAMES = {i: name for name, i in TOKENIZER.special_ids.items()}


def request(prefix: str, suffix: str = "", **fields: object) -> CompletionRequest:
    return CompletionRequest(document="d", path="shapes/area.py", prefix=prefix, suffix=suffix, **fields)


def drawn(prompt: Prompt) -> str:
    return "".join(NAMES.get(i) or TOKENIZER.pieces[i].decode() for i in prompt.tokens)


def test_the_prompt_has_the_form_the_base_was_trained_on() -> None:
    asked = request("def area(w, h):\n    ret", "\n\nprint(area(2, 3))\n", snippets=(Snippet("a.py", "x = 1\n"),))
    prompt = build(asked, TOKENIZER, HABITAB, Budget())
    assert drawn(prompt) == (
        "<file_sep>a.py\nx = 1\n<filename>shapes/area.py\n<fim_suffix>\n\nprint(area(2, 3))\n<fim_middle>"
        "def area(w, h):\n   "
    )
    assert prompt.healed == " ret"


def test_an_empty_document_still_makes_a_prompt() -> None:
    assert drawn(build(request(""), TOKENIZER, HABITAB, Budget())) == (
        "<filename>shapes/area.py\n<fim_suffix><fim_middle>"
    )


def test_typing_appends_at_the_end() -> None:
    typed, previous = "    total = sum(values) / len(values)\n    return total\n", None
    for end in range(1, len(typed)):
        prompt = build(
            request(BLOCK + typed[:end], "\n\nx = 1\n"),
            TOKENIZER,
            HABITAB,
            Budget(),
            previous and previous.layout,
        )
        if previous:
            kept = common_prefix(previous.tokens, prompt.tokens)
            assert kept >= len(previous.tokens) - 3  # one pre-token at most is encoded anew
        previous = prompt


def test_the_window_moves_in_big_steps() -> None:
    text, starts, layout = "", [], None
    for _ in range(60):
        text += BLOCK
        prompt = build(request(text), TOKENIZER, HABITAB, SMALL, layout)
        layout = prompt.layout
        starts.append(layout.start)
    moves = [b - a for a, b in itertools.pairwise(starts) if b != a]
    assert starts == sorted(starts) and 5 < len(moves) < 25
    assert min(moves) > 2 * len(BLOCK)
    assert all(text[start - 1] == "\n" for start in starts if start)


def test_brackets_that_the_editor_closes_leave_the_suffix_as_it_was() -> None:
    before = build(request(BLOCK + "print", "\nx = 1\n"), TOKENIZER, HABITAB, Budget())
    after = build(request(BLOCK + "print(", ")\nx = 1\n"), TOKENIZER, HABITAB, Budget(), before.layout)
    assert after.layout == before.layout


@pytest.mark.parametrize("suffix", ["", "\n", "\nx = 2\n", "y\nx = 1\n", BLOCK + "\nx = 1\n"])
def test_another_suffix_is_taken_anew(suffix: str) -> None:
    before = build(request(BLOCK, "\nx = 1\nprint(x + 1)\n"), TOKENIZER, HABITAB, Budget())
    after = build(request(BLOCK, suffix), TOKENIZER, HABITAB, Budget(), before.layout)
    assert after.layout.suffix == suffix


def test_a_jump_upwards_takes_the_window_anew() -> None:
    far = build(request(BLOCK * 60), TOKENIZER, HABITAB, SMALL)
    assert far.layout.start > 0
    near = build(request(BLOCK * 2), TOKENIZER, HABITAB, SMALL, far.layout)
    assert near.layout.start == 0


def test_a_cut_prefix_has_the_same_window_as_the_whole_one() -> None:
    text = BLOCK * 60
    whole = build(request(text), TOKENIZER, HABITAB, SMALL)
    cut = len(BLOCK) * 20
    assert build(request(text[cut:], offset=cut), TOKENIZER, HABITAB, SMALL, whole.layout) == whole
    assert build(request(text[cut:], offset=cut), TOKENIZER, HABITAB, SMALL) == whole


def test_snippets_that_do_not_fit_are_left_out_from_the_front() -> None:
    snippets = tuple(Snippet(f"{name}.py", name * 30 + "\n") for name in ("far ", "near ", "best "))
    text = drawn(build(replace(request(BLOCK), snippets=snippets), TOKENIZER, HABITAB, SMALL))
    assert "best.py" not in text.split("<filename>")[1] and "best best" in text
    assert "far far" not in text


@pytest.mark.parametrize("template", [HABITAB, PLAIN])
@settings(max_examples=60)
@given(st.text(max_size=300), st.text(max_size=300), st.integers(0, 40))
def test_the_budget_holds_for_any_text(template: object, prefix: str, suffix: str, times: int) -> None:
    asked = request(prefix * times, suffix * times)
    prompt = build(asked, TOKENIZER, template, SMALL)
    assert len(prompt.tokens) <= SMALL.total
    assert asked.prefix.endswith(prompt.healed)


def test_where_the_prefix_stands_in_the_middle_nothing_is_healed() -> None:
    ids = dict.fromkeys(DEEPSEEK_CODER.tokens, 0)
    tokenizer = Tokenizer(EMBEDDED)
    tokenizer.special_ids |= ids
    assert build(request("def f():\n    ret", "\n"), tokenizer, DEEPSEEK_CODER, Budget()).healed == ""
