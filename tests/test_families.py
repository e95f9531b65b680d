"""Fill-in-the-middle prompts, written out as the families' own documentation shows them."""

from __future__ import annotations

import json

import pytest

from habitab_engine.base_files import EMBEDDED
from habitab_engine.families import (
    CODE_LLAMA,
    DEEPSEEK_CODER,
    FILLING,
    HABITAB,
    PLAIN,
    QWEN_CODER,
    FimTemplate,
    Special,
    Text,
    detect,
    segments,
)
from habitab_engine.types import Snippet

SNIPPETS = (Snippet("b.py", "X = 1"), Snippet("c.py", "Y = 2\n"))


def written(template: FimTemplate, snippets: tuple[Snippet, ...] = ()) -> str:
    parts = segments(template, "a.py", "return X", "\nend()", snippets)
    return "".join(part.token if isinstance(part, Special) else part.text for part in parts)


@pytest.mark.parametrize(
    ("template", "alone", "with_snippets"),
    [
        (
            HABITAB,
            "<filename>a.py\n<fim_suffix>\nend()<fim_middle>return X",
            "<file_sep>b.py\nX = 1\n<file_sep>c.py\nY = 2\n<filename>a.py\n<fim_suffix>\nend()<fim_middle>return X",
        ),
        (
            QWEN_CODER,
            "<|repo_name|>project\n<|file_sep|>a.py\n<|fim_prefix|>return X<|fim_suffix|>\nend()<|fim_middle|>",
            "<|repo_name|>project\n<|file_sep|>b.py\nX = 1\n<|file_sep|>c.py\nY = 2\n<|file_sep|>a.py\n"
            "<|fim_prefix|>return X<|fim_suffix|>\nend()<|fim_middle|>",
        ),
        (
            CODE_LLAMA,
            "<s>▁<PRE> # a.py\nreturn X▁<SUF>\nend()▁<MID>",
            "<s>▁<PRE> # b.py\nX = 1\n # c.py\nY = 2\n # a.py\nreturn X▁<SUF>\nend()▁<MID>",
        ),
        (
            DEEPSEEK_CODER,
            "<｜begin▁of▁sentence｜><｜fim▁begin｜>#a.py\nreturn X<｜fim▁hole｜>\nend()<｜fim▁end｜>",
            "<｜begin▁of▁sentence｜><｜fim▁begin｜>#b.py\nX = 1\n#c.py\nY = 2\n#a.py\nreturn X"
            "<｜fim▁hole｜>\nend()<｜fim▁end｜>",
        ),
        (PLAIN, "# a.py\nreturn X", "# b.py\nX = 1\n# c.py\nY = 2\n# a.py\nreturn X"),
    ],
    ids=lambda value: value.name if isinstance(value, FimTemplate) else "",
)
def test_the_prompt_of_each_family_is_the_documented_one(template: FimTemplate, alone: str, with_snippets: str) -> None:
    assert written(template) == alone
    assert written(template, SNIPPETS) == with_snippets


@pytest.mark.parametrize("template", [*FILLING, PLAIN], ids=lambda t: t.name)
def test_exactly_the_prefix_is_the_cursor_part_and_last_where_the_template_says_so(
    template: FimTemplate,
) -> None:
    parts = segments(template, "a.py", "return X", "\nend()", SNIPPETS)
    assert [part for part in parts if isinstance(part, Text) and part.cursor] == [Text("return X", cursor=True)]
    assert template.cursor_last == (parts[-1] == Text("return X", cursor=True))


def test_typing_appends_to_our_prompt_and_an_empty_suffix_is_written_as_in_training() -> None:
    before = segments(HABITAB, "a.py", "de", "", SNIPPETS)
    after = segments(HABITAB, "a.py", "def", "", SNIPPETS)
    assert before[:-1] == after[:-1]
    assert after[-4:-1] == [Special("<fim_suffix>"), Text(""), Special("<fim_middle>")]


@pytest.mark.parametrize("template", FILLING, ids=lambda t: t.name)
def test_a_tokenizer_with_a_familys_tokens_gets_its_template(template: FimTemplate) -> None:
    assert detect([*template.tokens, "def", "<unk>"]) == template


@pytest.mark.parametrize("template", FILLING, ids=lambda t: t.name)
def test_a_family_is_not_chosen_while_one_of_its_tokens_is_missing(template: FimTemplate) -> None:
    for missing in template.required:
        assert detect(set(template.tokens) - {missing}).name == "plain"


def test_stops_and_bos_that_the_tokenizer_lacks_are_left_out() -> None:
    found = detect(QWEN_CODER.required | {"<|endoftext|>"})
    assert found.stops == ("<|endoftext|>", "<|file_sep|>", "<|repo_name|>")
    assert detect(CODE_LLAMA.required).bos == ""


def test_a_tokenizer_without_a_gap_is_continued_from_left_to_right() -> None:
    found = detect({"<s>", "</s>", "<unk>"})
    assert (found.name, found.bos, found.stops, found.fills) == ("plain", "<s>", ("</s>",), False)
    assert segments(found, "a.py", "x", "never seen")[0] == Special("<s>")


def test_the_embedded_tokenizer_has_our_template() -> None:
    spec = json.loads((EMBEDDED / "tokenizer.json").read_text(encoding="utf-8"))
    assert detect({token["content"] for token in spec["added_tokens"]}) == HABITAB
