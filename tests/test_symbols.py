from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.symbols import MOST_CHARACTERS, Import, Outline, faults, has_grammar, outline

LANGUAGES = [
    "python",
    "javascript",
    "javascriptreact",
    "typescript",
    "typescriptreact",
    "go",
    "rust",
    "java",
    "c",
    "cpp",
]

PYTHON = """\
import os, a.b as c
from ..y.z import (q as r, s)
from k import *
LIMIT = 3

@deco
class C(Base):
    # a comment is not part of the head
    field: int = 0

    def m(self, a,
          b):
        def inner(): pass
        return 1


try:
    def f(x): pass
except ImportError:
    pass
"""
TYPESCRIPT = """\
import d, { a, b as c } from "./util/x";
import * as ns from '@/lib/y.js';
export class K extends Z {
  private f: number = 1;
  get v() { return 1 }
}
export default function fn<T>(a: T): void {
}
interface I { p: string }
export const arrow = (x) => {
  return 1;
};
"""
GO = """\
package p
import (
  "fmt"
  al "ex.com/mod/pkg"
)
type S struct {
  A int
}
func (s *S) M(x int) error {
  return nil
}
const K = 1
"""
RUST = """\
use crate::a::{b, c::{D, self}, e as f};
pub struct S<T> { x: T }
impl<T> S<T> {
    pub fn new(x: T) -> Self {
        S { x }
    }
}
mod m { pub fn inside() {} }
"""
JAVA = """\
import java.util.List;
import g.*;
public class K extends L {
  private int x = 1;
  public String m() { return ""; }
}
"""
C = """\
#include "dir/foo.h"
#include <stdio.h>
#define MAX 3
typedef struct { int a; } T;
static int *f(int a, char *b) {
  return 0;
}
int g(void);
"""

DEFINED = [
    ("python", PYTHON, ["LIMIT", "C", "C.field", "C.m", "f"]),
    ("typescript", TYPESCRIPT, ["K", "K.f", "K.v", "fn", "I", "I.p", "arrow"]),
    ("go", GO, ["S", "M", "K"]),
    ("rust", RUST, ["S", "S", "S.new", "inside"]),
    ("java", JAVA, ["K", "K.x", "K.m"]),
    ("c", C, ["MAX", "T", "f", "g"]),
]
IMPORTED = [
    (
        "python",
        PYTHON,
        {
            Import("os", "", ("os",)),
            Import("c", "", ("a", "b")),
            Import("r", "q", ("y", "z"), 2),
            Import("s", "s", ("y", "z"), 2),
            Import("*", "*", ("k",)),
        },
    ),
    (
        "typescript",
        TYPESCRIPT,
        {
            Import("d", "d", ("util", "x"), 1),
            Import("a", "a", ("util", "x"), 1),
            Import("c", "b", ("util", "x"), 1),
            Import("ns", "", ("lib", "y")),
        },
    ),
    ("javascript", 'const { a } = require("../b/c.js");\n', {Import("a", "a", ("b", "c"), 2)}),
    ("go", GO, {Import("fmt", "", ("fmt",)), Import("al", "", ("ex.com", "mod", "pkg"))}),
    (
        "rust",
        RUST,
        {
            Import("b", "b", ("a",)),
            Import("D", "D", ("a", "c")),
            Import("c", "c", ("a",)),
            Import("f", "e", ("a",)),
        },
    ),
    ("java", JAVA, {Import("List", "List", ("java", "util")), Import("*", "*", ("g",))}),
    ("c", C, {Import("*", "*", ("dir", "foo"))}),
]


def names(found: Outline) -> list[str]:
    """The definitions, those of a class behind its name."""
    defined = found.definitions
    return [(defined[d.parent].name + "." if d.parent >= 0 else "") + d.name for d in defined]


@pytest.mark.parametrize(("language", "text", "expected"), DEFINED, ids=[case[0] for case in DEFINED])
def test_the_outside_of_a_file_is_found(language: str, text: str, expected: list[str]) -> None:
    assert names(outline(text, language)) == expected


@pytest.mark.parametrize(("language", "text", "expected"), IMPORTED, ids=[case[0] for case in IMPORTED])
def test_imports_are_found(language: str, text: str, expected: set[Import]) -> None:
    assert set(outline(text, language).imports) == expected


def test_a_head_ends_before_the_body_and_before_its_comments() -> None:
    heads = {d.name: PYTHON.split("\n")[d.first : d.head + 1] for d in outline(PYTHON, "python").definitions}
    assert heads["C"] == ["class C(Base):"]
    assert heads["m"] == ["    def m(self, a,", "          b):"]


def test_a_head_of_many_lines_is_cut() -> None:
    text = "x = [\n" + "    1,\n" * 500 + "]\n"
    (found,) = outline(text, "python").definitions
    assert found.last == 501
    assert found.head < 20


@given(st.sampled_from(LANGUAGES), st.text(alphabet="aA_ \n\t(){}[]:;,.'\"#@=*<>/\\é字def class import from use"))
def test_any_text_has_an_outline_within_its_lines(language: str, text: str) -> None:
    for i, found in enumerate(outline(text, language).definitions):
        assert 0 <= found.first <= found.head <= found.last <= text.count("\n")
        assert -1 <= found.parent < i


@given(st.sampled_from([case[:2] for case in DEFINED]), st.integers(0, 400), st.integers(0, 400))
def test_a_piece_cut_out_of_a_file_has_an_outline(case: tuple[str, str], begin: int, end: int) -> None:
    language, text = case
    assert isinstance(outline(text[:begin] + text[end:], language), Outline)


def test_the_same_text_read_twice_has_the_same_outline() -> None:
    long = "\n".join(f"def f{i}(x): return {i}" for i in range(5_000))
    first = outline(long, "python")
    assert [d.name for d in first.definitions] == [f"f{i}" for i in range(5_000)]
    assert outline(long, "python") == first


def test_a_long_parse_lets_others_breathe() -> None:
    breaths: list[int] = []
    outline("def f(): pass\n" * 5_000, "python", lambda: breaths.append(1))
    assert len(breaths) > 20


def test_whoever_waits_may_end_a_parse() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        outline("def f(): pass\n" * 5_000, "python", stop)
    assert names(outline("def f(): pass\n", "python")) == ["f"]


def test_too_long_a_text_and_an_unknown_language_have_none() -> None:
    assert outline("x = 1\n" * (MOST_CHARACTERS // 6 + 1), "python") == Outline()
    assert outline("def f(): pass\n", "nonsense") == Outline()
    assert not has_grammar("nonsense")
    assert has_grammar("python")


@pytest.mark.parametrize(
    "text", ["(" * 100_000, "def class [ {\n" * 10_000, "if x:\n" * 20_000], ids=["deep", "odd", "wide"]
)
def test_hostile_text_is_no_fault(text: str) -> None:
    assert isinstance(outline(text, "python"), Outline)


def test_faults_are_counted_where_a_text_cannot_be_parsed() -> None:
    assert faults("def f(a):\n    return a\n", "python") == 0
    assert faults("def f(a:\n    return a\n", "python") > 0
    broken = "const a = 1;\nconst = 2;\n" + "let b = 3;\n" * 5
    assert 0 < faults(broken, "typescript") < faults(broken + "function ( {\n", "typescript")
    assert faults("anything ((", "no such language") == 0
    assert faults("(" * (MOST_CHARACTERS + 1), "python") == 0
