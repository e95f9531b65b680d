from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawing import drawn
from habitab_engine.postprocess import FILTERS, clean, indentation
from habitab_engine.surroundings import Surroundings
from habitab_engine.syntax import LANGUAGES

# name: (language, drawing with what the model wrote, what is shown)
CUT = {
    "doubled bracket": ("python", "foo(║├a, b)┤)\n", "a, b"),
    "doubled bracket with text behind it": ("python", "foo(║├a, b) + c┤)\n", "a, b"),
    "doubled quote and bracket": ("javascript", "log('║├hello')┤')\n", "hello"),
    "doubled quote in an array": ("json", '{"a": ["║├first", "second"]┤"]}\n', "first"),
    "doubled brace of the block": ("java", "void f() {\n    ║├go();\n}┤\n}\n", "go();"),
    "the end of an interpolation": ("python", 'print(f"{║├name}")┤}")\n', "name"),
    "overlap with the rest of the line": ("c", "int x = ║├f(1);┤;\n", "f(1)"),
    "overlap with a rest that goes on": ("python", "foo(║├aa, b┤, b)\n", "aa"),
    "overlap with the line below": (
        "python",
        "def f():\n    ║├a = 1\n    return a┤\n    return a\n",
        "a = 1",
    ),
    "overlap with two lines below": ("ruby", "  ║├x = 1\n  y\nend┤\n  y\nend\n", "x = 1"),
    "a closing line twice": ("ruby", "  def f\n    ║├g\n  end\n  end┤\n", "g\n  end"),
    "three equal lines": ("python", "║├go()\ngo()\ngo()┤\n", "go()"),
    "a block twice": ("go", "\t║├a := f()\n\tg(a)\n\ta := f()\n\tg(a)┤\n", "a := f()\n\tg(a)"),
    "trailing spaces": ("python", "x = ║├1  ┤\n", None),
    "trailing spaces on every line": ("python", "if a:║├  \n    b() \n┤\n", "\n    b()"),
    "spaces in a file of tabs": (
        "go",
        "func f() {\n\tg()\n\tif a {\n\t\t║├b()\n        if c {\n            d()\n        }┤\n\t}\n}\n",
        "b()\n\t\tif c {\n\t\t\td()\n\t\t}",
    ),
    "tabs in a file of spaces": (
        "python",
        "def f():\n    g()\n\ndef h(a):║├\n\tif a:\n\t\tk()┤\n",
        "\n    if a:\n        k()",
    ),
    "steps of four in a file of two": (
        "javascript",
        "if (a) {\n  if (b) {\n    g();\n  }\n}\nif (c) {║├\n    if (b) {\n        k();\n    }\n}┤\n",
        "\n  if (b) {\n    k();\n  }\n}",
    ),
    "steps of two in a file of four": (
        "python",
        "def f():\n    g()\n\nfor a in b:║├\n  if a:\n    c()┤\n",
        "\n    if a:\n        c()",
    ),
    "one step too deep": (
        "python",
        "def f():\n    a = 1\n    ║├    b = 2\n        c = 3┤\n",
        "b = 2\n    c = 3",
    ),
    "two steps after an opener": ("python", "def f():\n    if a:\n        ║├    b()┤\n", "b()"),
}

DROPPED = {
    "blank": ("python", "x = ║├  \n ┤\n", "blank"),
    "nothing": ("python", "x = ║├┤\n", "blank"),
    "the rest of the line": ("python", "if a ║├and b:┤ and b:\n", "equals rest of line"),
    "the next line": ("python", "if a:\n    ║├return b┤\n    return b\n", "repeats following lines"),
    "the next line, finished": ("go", "\tret║├urn b┤\n\treturn b\n", "repeats following lines"),
    "the next two lines": (
        "rust",
        "    ║├a();\n    b();┤\n\n    a();\n    b();\n}\n",
        "repeats following lines",
    ),
    "the lines below, from a line's end": (
        "rust",
        "    a();║├\n    b();┤\n    b();\n",
        "repeats following lines",
    ),
    "only the bracket that stands there": ("python", "foo(║├)┤)\n", "equals rest of line"),
    "one character": ("python", "x = foo║├(┤\n", "too short"),
    "end of text": ("python", "x = ║├1 + 2<|endoftext|>┤\n", "special token"),
    "suffix marker": ("python", "x = ║├1<fim_suffix>2┤\n", "special token"),
    "file separator": ("go", "x := ║├10\n<file_sep>a.go┤\n", "special token"),
    "Qwen's marker": ("python", "x = ║├1 <|fim_middle|>┤\n", "special token"),
    "CodeLlama's marker": ("python", "x = ║├11 <EOT>┤\n", "special token"),
    "DeepSeek's marker": ("python", "x = ║├11<｜fim▁hole｜>┤\n", "special token"),
}

UNTOUCHED = {
    "brackets that belong": ("python", "x = ║├foo(a, [b], {c: d})┤\n"),
    "a bracket needed by the line": ("python", "print(foo(║├a)┤)\n"),
    "the call's own brackets before a bracket": ("python", "foo(║├bar()┤)\n"),
    "a closing pair on a line of its own": ("javascript", "call(() => {\n  go();\n║├});┤\n"),
    "the block's brace where it is missing": ("c", "void f() {\n    if (a) {\n        ║├g();\n    }┤\n}\n"),
    "a docstring": ("python", 'def f():\n    ║├"""Return one."""\n    return 1┤\n'),
    "a comment with brackets and quotes": ("python", "x = 1  # ║├don't use :) here┤\n"),
    "a return like the last line, deeper": (
        "python",
        "def f(x):\n    ║├if not x:\n        return None┤\n    return None\n",
    ),
    "two equal lines": ("c", "    ║├i++;\n    i++;┤\n"),
    "an else": ("python", "if a:║├\n    b()\nelse:\n    c()┤\n"),
    "aligned arguments": ("python", "x = foo(║├a,\n        b)┤\n"),
    "a wrapped call": ("python", "def f():\n    x = foo(║├\n        a,\n        b,\n    )┤\n"),
    "alignment in a file of tabs": ("c", "void f() {\n\t║├g(a,\n\t  b);┤\n}\n"),
    "a file without indentation": ("python", "║├if a:\n  b()┤\n"),
    "generics that look like markers": ("rust", "let v: ║├Vec<String> = Vec::new();┤\n"),
    "html tags": ("html", "<ul>\n  ║├<li>one</li>\n  <li>two</li>┤\n</ul>\n"),
    "closing lines of different depth": ("go", "func f() {\n\tif a {\n\t\t║├b()\n\t}\n}┤\n"),
    "the first line of a block": ("python", "def f(a):\n    ║├return a + 1┤\n"),
    "a line under a comment of the block": ("python", "def f(a):\n# note\n    ║├return a + 1┤\n"),
    "continuation inside brackets": ("python", "x = {\n    'a': 1,\n    ║├'b': 2,┤\n}\n"),
    "a list in prose": ("markdown", "Steps\n\n║├1) open it\n2) go┤\n"),
    "a closing quote that is missing": ("python", "x = 'a║├bc'┤\n"),
    "yaml, deeper under a list item": ("yaml", "a:\n  - name: b\n    ║├value: c┤\n"),
    "a match arm": ("rust", "match a {\n    ║├Some(b) => b,\n    None => 0,┤\n}\n"),
    "a template": ("javascript", "const a = ║├`${b} (${c})`;┤\n"),
}


@pytest.mark.parametrize("name", CUT)
def test_cuts(name: str) -> None:
    language, drawing, shown = CUT[name]
    text, around = drawn(drawing, language)
    expected = ("", "too short") if shown is None else (shown, "")
    assert clean(text, around) == expected


@pytest.mark.parametrize("name", DROPPED)
def test_drops(name: str) -> None:
    language, drawing, reason = DROPPED[name]
    text, around = drawn(drawing, language)
    assert clean(text, around) == ("", reason)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_leaves_alone(name: str) -> None:
    language, drawing = UNTOUCHED[name]
    text, around = drawn(drawing, language)
    assert clean(text, around) == (text, "")


def test_every_filter_drops_or_cuts_some_golden_case() -> None:
    cases = [case[:2] for case in (*CUT.values(), *DROPPED.values())]
    drawings = [drawn(drawing, language) for language, drawing in cases]
    for refine in FILTERS:
        assert any(refine(text, around) != text for text, around in drawings), refine.__name__


CODE = st.text(alphabet="ab1 \t\n(){}[]\"'`#/*:;,=<|>é", max_size=60)
LINES = st.lists(
    st.sampled_from(
        [
            "if a:",
            "    if a:",
            "  b()",
            "\tb()",
            "    b()",
            "        b()",
            "}",
            "  }",
            "{",
            "f({",
            "end",
            ")",
            "'x'",
            "",
        ]
    ),
    max_size=8,
).map("\n".join)
TEXT = st.one_of(CODE, LINES)
AROUND = st.builds(Surroundings, TEXT, TEXT, st.sampled_from([*sorted(LANGUAGES), ""]), st.booleans())


def test_fitting_the_indentation_settles_where_a_line_stands_left_of_the_cursors() -> None:
    text, around = drawn("if a:\n        b()\nif c:\n        d()\n  x║├\nif e:\n  f()\n    g()┤")
    assert clean(text, around) == (text, "")


# Few kinds of lines, so that openers left of the cursor's line and steps unlike the file's come up often.
STEPS = st.lists(st.sampled_from(["if a:", "  if a:", "  b()", "    b()", "\tb()"]), min_size=1, max_size=5)


@pytest.mark.parametrize("unit", ["\t", "  ", "   ", "    ", "        "])
@given(
    written=STEPS.map(lambda lines: "\n" + "\n".join(lines)),
    begun=st.sampled_from(["x", "  x", "\tx", "if a:"]),
)
@settings(max_examples=250)
def test_fitting_the_indentation_twice_changes_nothing(unit: str, written: str, begun: str) -> None:
    head = f"if a:\n{unit}if b:\n{unit}{unit}c()\n"
    around = Surroundings(head + begun, "", "python")
    once = indentation(written, around)
    assert indentation(once, around) == once


@settings(max_examples=500)
@given(TEXT, AROUND)
def test_cleaning_twice_changes_nothing(text: str, around: Surroundings) -> None:
    once, _ = clean(text, around)
    assert clean(once, around)[0] == once


@settings(max_examples=300)
@given(TEXT, AROUND)
def test_only_indentation_ever_grows(text: str, around: Surroundings) -> None:
    def visible(part: str) -> str:
        return "".join(part.split())

    assert visible(text).startswith(visible(clean(text, around)[0]))


@given(TEXT, st.sampled_from(["<|endoftext|>", "<fim_suffix>", "<file_sep>", "<|im_end|>"]), TEXT, AROUND)
def test_a_special_token_is_never_shown(left: str, token: str, right: str, around: Surroundings) -> None:
    assert token not in clean(left + token + right, around)[0]


@given(TEXT, AROUND)
def test_a_dropped_suggestion_has_a_reason(text: str, around: Surroundings) -> None:
    shown, reason = clean(text, around)
    assert bool(shown) != bool(reason)
