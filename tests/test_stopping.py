from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawing import drawn
from habitab_engine.stopping import first_stop, nearly_same
from habitab_engine.surroundings import Surroundings
from habitab_engine.syntax import LANGUAGES
from habitab_engine.types import CompletionRequest

LONG = "    x = 1;\n" * 500

# name: (language, drawing with what the model wrote so far, what is kept, the rule[, several lines wanted])
STOPS = {
    "a single line ends at its newline": (
        "python",
        "total = ║├a + b\nprint(total)┤\n",
        "a + b",
        "end of line",
        False,
    ),
    "the rest of the line begins again": (
        "javascript",
        "const a = ║├first ?? fallback;┤ ?? fallback;\n",
        "first ",
        "start of suffix",
    ),
    "the string's closing quote stands there": ("python", 'print("║├hello")┤")\n', "hello", "closing quote"),
    "an escaped quote does not close": (
        "go",
        'fmt.Print("║├say \\"hi\\"")┤")\n',
        'say \\"hi\\"',
        "closing quote",
    ),
    "the call's bracket stands there": ("python", "foo(║├a, b)┤)\n", "a, b", "unmatched bracket"),
    "only the outer bracket stands there": ("python", "foo(bar(║├x))┤)\n", "x)", "unmatched bracket"),
    "the inner bracket is of another kind": (
        "rust",
        "let v = f(vec![║├1, 2])┤);\n",
        "1, 2]",
        "unmatched bracket",
    ),
    "the block's brace stands below": (
        "typescript",
        "function f() {\n  return ║├1;\n}┤\n}\n",
        "1;",
        "unmatched bracket",
    ),
    "nothing is open": ("c", "int x = ║├1;\n}┤\n", "1;", "unmatched bracket"),
    "the bracket stands below, behind less indented cases": (
        "c",
        "switch (x) {\ncase 1:\n    ║├f();\n}┤\ncase 2:\n    g();\n}\n",
        "f();",
        "unmatched bracket",
    ),
    "the block ends further down than is looked": (
        "java",
        f"class A {{\n    void f() {{\n        ║├g();\n    }}\n}}┤\n    }}\n{LONG}",
        "g();",
        "unmatched bracket",
    ),
    "the next line is written again": (
        "python",
        "def f(x):\n    ║├y = x\n    return y\n┤\n    return y\n",
        "y = x",
        "line below",
    ),
    "the next line is written again after blank lines": (
        "ruby",
        "def f\n  ║├x = 1\nend\n┤\n\nend\n",
        "x = 1",
        "line below",
    ),
    "the next line is written almost again": (
        "go",
        "func f() {\n\t║├a := 1\n\tprintln(alpha, beta, gamma )\n┤\n\tprintln(alpha, beta, gamma)\n}\n",
        "a := 1",
        "similar line below",
    ),
    "three equal lines": ("python", "║├x()\nx()\nx()\n┤", "x()", "three repeats"),
    "a blank line": ("rust", "fn f() {\n    ║├a();\n\n┤\n}\n", "a();", "double newline"),
    "a blank line with spaces": ("python", "if a:\n    ║├b()\n    \n┤", "b()", "double newline"),
    "a line less deep": (
        "python",
        "class A:\n    def f(self):\n        ║├return 1\n    d┤",
        "return 1",
        "end of scope",
    ),
    "a line beside the opener": ("python", "for a in b:║├\n    c()\nz┤\n", "\n    c()", "end of scope"),
    "the opener's own brace is kept as the last line": (
        "javascript",
        "const f = () => {║├\n  go();\n};\nf();\n┤\n",
        "\n  go();\n};",
        "end of scope",
    ),
    "the word that closes the block is kept": (
        "lua",
        "function f()\n  ║├return 1\nend\nx┤",
        "return 1\nend",
        "end of scope",
    ),
    "a block that the text opened on the person's line": (
        "python",
        "if x║├ > 1:\n    y()\nz = 2┤\n",
        " > 1:\n    y()",
        "end of scope",
    ),
}

GOES_ON = {
    "a bracket that belongs": ("python", "foo(║├a, b)┤\n"),
    "a bracket that belongs, above more lines than are looked at": ("python", f"foo(║├a, b)┤\nbar()\n{LONG}"),
    "a bracket that a line below would have closed": (
        "python",
        "def f():\n    foo(║├a, b)┤\n\ndef g():\n    bar(\n        a,\n    ))\n",
    ),
    "brackets opened by the text itself": ("python", "x = ║├foo(bar[1], {})┤\n"),
    "a bracket in a string": ("python", "x = ║├':)'┤\n"),
    "a bracket in a comment": ("c", "int x = ║├1; // one)┤\n"),
    "a block's brace that is missing below": (
        "java",
        "void f() {\n    if (a) {\n        ║├b();\n    }┤\n}\n",
    ),
    "an early return like the last line, one step deeper": (
        "python",
        "def f(x):\n    ║├if not x:\n        return None\n┤\n    return None\n",
    ),
    "neighbours that differ by a number": (
        "python",
        "x = [\n    ║├Point(first, 1),\n┤\n    Point(first, 2),\n]\n",
    ),
    "a begun line that resembles its neighbour": (
        "python",
        "    parser.add_argument(║├'--alpha')\n┤\n    parser.add_argument('--alphas')\n",
    ),
    "two equal lines": ("c", "║├i++;\ni++;\n┤"),
    "an else beside its if": ("python", "if a:║├\n    b()\nelse:\n    c┤\n"),
    "a word that may become else": ("python", "if a:║├\n    b()\nel┤\n"),
    "a brace that goes on with else": ("go", "\tif a {║├\n\t\tb()\n\t} else {\n┤"),
    "a case pattern": ("shellscript", "case $x in\n  ║├a) echo a ;;\n  b) echo┤\nesac\n"),
    "a header whose body is already written below": (
        "javascript",
        "each((a║├, b) => {┤\n  go(a);\n});\n",
    ),
    "prose with a lone bracket": ("markdown", "Steps:\n║├1) open it\n2) go┤\n"),
    "a lone short rest": ("python", "x = {1: ║├f(a, b)┤, 2: 3}\n"),
    "a lifetime": ("rust", "fn f<'a>(║├x: &'a str) -> &'a str {┤\n"),
    "the same closing line, for a block of the text's own": (
        "javascript",
        "wrap(() => {\n║├each(() => {\n  a();\n});\n┤\n});\n",
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_stops_at(name: str) -> None:
    language, drawing, kept, reason, *multiline = STOPS[name]
    text, around = drawn(drawing, language, *multiline)
    stop = first_stop(text, around)
    assert stop is not None
    assert (text[: stop.keep], stop.reason) == (kept, reason)


@pytest.mark.parametrize("name", GOES_ON)
def test_goes_on_with(name: str) -> None:
    text, around = drawn(GOES_ON[name][1], GOES_ON[name][0])
    assert first_stop(text, around) is None


def test_where_the_text_is_cut_what_encloses_the_lines_below_is_closed_behind_it() -> None:
    prefix, suffix = "class A {\n    void f() {\n        g(a, ", "\n    }\n\n    void h() {\n    }\n"
    request = CompletionRequest("d", "A.java", prefix, suffix, length=len(prefix + suffix))
    assert Surroundings.of(request, True).free_openers == "{("
    assert Surroundings.of(replace(request, length=9_999), True).free_openers == "("


def test_a_stop_is_found_token_by_token_at_the_same_place() -> None:
    for name, (language, drawing, kept, _, *multiline) in STOPS.items():
        text, around = drawn(drawing, language, *multiline)
        stops = (first_stop(text[:size], around) for size in range(1, len(text) + 1))
        first = next(stop for stop in stops if stop)
        assert text[: first.keep] == kept, name


def test_near_means_under_ten_percent() -> None:
    line = "abcdefghij" * 2
    assert nearly_same(line, line[:-1] + "x")
    assert not nearly_same(line, line[:-2] + "xy")
    assert not nearly_same("item1 = load()", "item2 = load()")


CODE = st.text(alphabet="ab1 \t\n(){}[]\"'`#/*:;,=<|>│é", max_size=80)
AROUND = st.builds(Surroundings, CODE, CODE, st.sampled_from([*sorted(LANGUAGES), ""]), st.booleans())


@given(CODE, AROUND)
def test_never_keeps_more_than_there_is(text: str, around: Surroundings) -> None:
    stop = first_stop(text, around)
    assert stop is None or 0 <= stop.keep <= len(text)
