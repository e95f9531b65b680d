"""A model is asked under the engine's prompt, and the true text neither costs more nor helps what is suggested"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from habitab_adapters.bits import bits_of
from habitab_adapters.pretrain.asking import ask_at, load, suggested, told
from habitab_adapters.pretrain.positions import LINE, TASKS, Change, Place, Question, questions
from habitab_engine.engine import Engine
from habitab_engine.types import CompletionRequest

CODE = """def area(width, height):
    return width * height


def volume(width, height, depth):
    base = area(width, height)
    return base * depth
"""


def place(content: str, number: int) -> tuple[Place, list[str]]:
    lines = content.split("\n")
    added = frozenset(range(len(lines)))
    return Place(Change("history", "c", "a.py", "python", added, added, (number,)), number), lines


def request(question: Question, document: str) -> CompletionRequest:
    return CompletionRequest(document, "a.py", question.prefix, question.suffix, sources=(), memory=False)


def test_the_bits_are_those_under_the_engine_s_prompt(tiny_engine: Engine) -> None:
    for i, question in enumerate(questions(*place(CODE, 5))):
        asked = request(question, f"bits {i}")
        bits, size, _ = told(tiny_engine, asked, question.text)
        assert size == len(question.text.encode())
        assert bits == pytest.approx(bits_of(tiny_engine, replace(asked, document="cold"), question.text)[0], rel=0.01)


def test_what_is_suggested_does_not_know_the_true_text(tiny_engine: Engine) -> None:
    for i, question in enumerate(questions(*place(CODE, 5))):
        asked = request(question, f"suggested {i}")
        told(tiny_engine, asked, question.text)
        warm = suggested(tiny_engine, asked, question.task)
        assert warm == suggested(tiny_engine, replace(asked, document=f"cold {i}"), question.task)


def test_only_the_lines_that_were_asked_for_count(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        def complete(self, request: CompletionRequest, stop: threading.Event) -> object:
            return type("Completion", (), {"suggestions": [type("Suggestion", (), {"text": "\n  a \n  b\n"})]})

    asked = [suggested(Found(), None, task) for task in TASKS]  # type: ignore[arg-type]
    assert dict(zip(TASKS, asked, strict=True)) == {
        "rest of line": "",
        "inside a line": "",
        "next line": "\n  a",
        "block": "\n  a\n  b",
    }


def test_it_ends_right_where_the_end_token_is_the_likeliest(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(Question(LINE, "x = ", "\n", "1"), "ends")
    end = tiny_engine.tokenizer.special_ids["<|endoftext|>"]
    for token, ends in ((end, True), (end + 100, False)):
        only = torch.full_like(tiny_engine.mask, -torch.inf).index_fill_(0, torch.tensor([token]), 0.0)
        monkeypatch.setattr(tiny_engine, "mask", only)
        assert told(tiny_engine, asked, "1")[2] is ends
    assert told(tiny_engine, asked, "x" * 5_000)[2] is False


def test_a_model_that_sees_the_prefix_only_is_told_no_path(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in tiny_base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes().replace(b"<fim_suffix>", b"<was_suffix>"))
    engine = load(folder)
    answers = ask_at(engine, *place(CODE, 5))
    engine.close()
    assert {task.partition(", ")[2] for task in answers} == {"prefix"}
    slot = engine.slot("seen")
    prompt = engine.prompt(request(Question(LINE, "x = f(", "\n", "1)"), "seen"), slot)
    assert engine.tokenizer.decode(prompt.tokens) + prompt.healed == "x = f("
