"""Drawings of a cursor in a file: `║` is the cursor, `├…┤` the suggestion right of it."""

from __future__ import annotations

from textwrap import dedent

from habitab_engine.surroundings import Surroundings
from habitab_engine.types import CompletionRequest


def drawn(drawing: str, language: str = "python", multiline: bool = True) -> tuple[str, Surroundings]:
    """The suggestion of a drawing ("" where it shows none) and what stands around the cursor."""
    if drawing.startswith("\n"):
        drawing = dedent(drawing[1:]).rstrip(" ")
    prefix, cursor, after = drawing.partition("║")
    assert cursor, "the drawing needs a cursor"
    if not after.startswith("├"):
        return "", Surroundings(prefix, after, language, multiline)
    text, _, suffix = after[1:].partition("┤")
    return text, Surroundings(prefix, suffix, language, multiline)


def asked(drawing: str, language: str = "python", **fields: object) -> CompletionRequest:
    """The request an editor would make at the cursor of a drawing without a suggestion."""
    _, around = drawn(drawing, language)
    base = CompletionRequest("file:///work/a", "a", around.prefix, around.suffix, language=language)
    return CompletionRequest(**{name: getattr(base, name) for name in base.__slots__} | fields)  # type: ignore[arg-type]
