from __future__ import annotations

import pytest

from drawing import asked
from habitab_engine.gate import LARGE_FILE, wants_multiline, why_not, worth_showing

NOT_ASKED = {
    "too little text": ("python", "x = 1  \n\n   ║\n"),
    "text right of the cursor": ("python", "result = ║value + 1\n"),
    "an operator right of the cursor": ("go", "result := a ║+ b\n"),
    "an empty comment": ("python", "import os\n\nvalue = 1\n# ║\n"),
    "an empty block comment": ("javascript", "const value = 1;\n/** ║\n"),
    "a finished comment": ("rust", "fn f() {}\n// Returns the total. ║\n"),
    "a finished docstring": ("python", 'def total(a):\n    """Return the total.║"""\n'),
    "prose in a string": ("python", 'raise ValueError("the given value is not ║")\n'),
    "prose in a Go string": ("go", 'return errors.New("could not open the fi║")\n'),
}

ASKED = {
    "a line's end": ("python", "import os\nvalue = os.║\n"),
    "closing characters right of the cursor": ("python", "print(os.path.join(║)) ;\n"),
    "a quote right of the cursor": ("javascript", 'const a = require("║");\n'),
    "a path in a string": ("python", 'open("data/║")\n'),
    "a short message": ("python", 'raise ValueError("expected an ║")\n'),
    "SQL in a string": ("python", 'db.execute("SELECT name FROM users WHERE ║")\n'),
    "an interpolation": ("python", 'print(f"the sum of all values is {║}")\n'),
    "a template's interpolation": ("typescript", "log(`the sum of all values is ${║}`)\n"),
    "a comment's sentence": ("python", "import os\n# the total of ║\n"),
    "the start of a docstring": ("python", 'def total(a):\n    """║"""\n'),
    "behind a comment": ("c", "/* Done. */ int a = ║\n"),
    "behind a string": ("python", "x = 'the total of all values' + ║\n"),
    "an apostrophe in a comment above": ("javascript", "// don't stop\nconst value = ║\n"),
    "a lifetime above": ("rust", "fn first<'a>(x: &'a str) -> &'a str {\n    ║\n}\n"),
    "prose in a prose file": ("markdown", "The sum of all values is ║\n"),
}

MULTILINE = {
    "after a Python opener": ("python", "def f(a):\n    ║\n\nx = 1\n", True),
    "at the opener's end": ("python", "def f(a):║\n", True),
    "after a wrapped signature": ("python", "def f(\n    a,\n) -> int:\n    ║\n", True),
    "in an empty braced block": ("go", "func main() {\n\t║\n}\n", True),
    "after a Ruby opener": ("ruby", "items.each do |item|\n  ║\nend\n", True),
    "after a shell opener": ("shellscript", "for a in b c d; do\n  ║\ndone\n", True),
    "a block that has lines": ("python", "def f(a):\n    ║\n    return a\n", None),
    "an assignment": ("python", "total = ║\n", None),
    "a dict's colon": ("python", "x = {\n    'a':║\n}\n", None),
    "inside a line": ("python", "print(║)\n", False),
    "in a comment": ("python", "def f(a):  # the first:║\n", False),
    "in a block comment": ("java", "/*\n * {║\n", False),
}


@pytest.mark.parametrize("name", NOT_ASKED)
def test_is_silent_at(name: str) -> None:
    language, drawing = NOT_ASKED[name]
    assert why_not(asked(drawing, language))


@pytest.mark.parametrize("name", ASKED)
def test_asks_at(name: str) -> None:
    language, drawing = ASKED[name]
    assert why_not(asked(drawing, language)) is None


@pytest.mark.parametrize("name", MULTILINE)
def test_wants_several_lines(name: str) -> None:
    language, drawing, wanted = MULTILINE[name]
    assert wants_multiline(asked(drawing, language)) is wanted


def test_an_accept_asks_for_several_lines_but_not_inside_a_line() -> None:
    assert wants_multiline(asked("total = 1\n║\n", after_accept=True)) is True
    assert wants_multiline(asked("print(║)\n", after_accept=True)) is False


def test_a_very_large_file_gets_one_line() -> None:
    assert wants_multiline(asked("def f():\n    ║\n", offset=LARGE_FILE)) is False


def test_the_file_name_stands_in_for_an_unknown_language() -> None:
    assert why_not(asked("first_value = 1\n# ║\n", "", path="src/a.py"))
    assert why_not(asked("first_value = 1\n# ║\n", "", path="src/a.js")) is None


def test_the_probability_decides() -> None:
    assert worth_showing("text", 0.36, 0.36)
    assert not worth_showing("text", 0.36, 0.36 + 1e-9)
    assert worth_showing("text", 0.0, 0.0)


def test_blank_text_is_not_worth_showing() -> None:
    assert not worth_showing(" \n", 1.0, 0.0)
