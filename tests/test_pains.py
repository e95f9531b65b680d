"""The pains that people report of tab completion, each proven gone where text alone decides.

Slowness, debounce, flicker, the menu, memory and the network are proven beside the parts that own them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from drawing import asked, drawn
from habitab_engine.config import Settings
from habitab_engine.copying import own_probability, weighed
from habitab_engine.gate import wants_multiline, why_not, worth_showing
from habitab_engine.postprocess import clean
from habitab_engine.privacy import why_private
from habitab_engine.stopping import first_stop


def shown(drawing: str, language: str, multiline: bool = True) -> str:
    """What a person sees of the text: stopped as while decoding, character by character, then cleaned."""
    text, around = drawn(drawing, language, multiline)
    stops = (first_stop(text[:size], around) for size in range(1, len(text) + 1))
    stop = next((stop for stop in stops if stop), None)
    return clean(text if stop is None else text[: stop.keep], around)[0]


@pytest.mark.parametrize(
    ("language", "drawing", "seen"),
    [
        ("python", "total = sum(║├values)\nprint(total)\n┤)\nprint(total)\n", "values"),
        ("python", "def f():\n    ║├a = g()\n    return a\n\n\nx┤\n    return a\n", "a = g()"),
        ("typescript", "function f() {\n  ║├go();\n}\n\nexport┤\n}\n", "go();"),
        (
            "go",
            "\tif err != nil {\n\t\t║├return err\n\t}\n\treturn nil\n┤\n\t}\n\treturn nil\n",
            "return err",
        ),
        ("rust", "    ║├Ok(total)\n}\n┤\n    Ok(total)\n}\n", ""),
        ("c", "int a = ║├first + second;\n┤ + second;\n", "first"),
    ],
)
def test_pain_01_repeats_the_suffix_or_the_code_below(language: str, drawing: str, seen: str) -> None:
    assert shown(drawing, language) == seen


@pytest.mark.parametrize(
    ("language", "drawing", "seen"),
    [
        ("python", "print(║├total)┤)\n", "total"),
        ("python", "print('║├total')┤')\n", "total"),
        ("javascript", "call({ ║├a: [1] })┤ })\n", "a: [1]"),
        ("rust", 'println!("║├{}", total);┤");\n', "{}"),
        ("java", "List<int[]> x = f(new int[║├]{1, 2})┤]);\n", ""),
        ("python", "print(len(║├total))┤)\n", "total)"),
        ("python", "print(║├len(total)┤)\n", "len(total)"),
    ],
)
def test_pain_02_doubled_brackets_and_quotes(language: str, drawing: str, seen: str) -> None:
    assert shown(drawing, language) == seen


@pytest.mark.parametrize(
    ("language", "drawing", "seen"),
    [
        ("python", "def f():\n    a = 1\n    ║├    return a\n┤", "return a"),
        ("python", "class A:\n\tx = 1\n\n\tdef f(self):║├\n        return 1\n┤", "\n\t\treturn 1"),
        ("javascript", "if (a) {\n  b();\n}\nif (c) {║├\n    d();\n}\n┤", "\n  d();\n}"),
        ("go", "\tif a {║├\n\t\tb()\n\t}\n\tc()\n┤", "\n\t\tb()\n\t}"),
    ],
)
def test_pain_03_wrong_indentation(language: str, drawing: str, seen: str) -> None:
    assert shown(drawing, language) == seen


def test_pain_06_too_eager() -> None:
    assert why_not(asked("x ║"))
    assert why_not(asked("result = ║value + other\n"))
    assert why_not(asked("def total(values):\n    return ║\n")) is None
    unlikely, likely = (weighed(own_probability(line), "values", None)[0] for line in ([-2.0, -1.5], [-0.2, -0.1]))
    assert not worth_showing("values", unlikely, Settings().show_threshold)
    assert worth_showing("values", likely, Settings().show_threshold)
    assert shown("x = ║├(\n┤", "python", multiline=False) == ""


@pytest.mark.parametrize(
    ("language", "drawing"),
    [
        ("python", "import os\n\n# ║\n"),
        ("go", "package main\n\n// Run starts the server. ║\n"),
        ("css", ".a { color: red }\n/* The header.║\n"),
        ("python", "raise ValueError('the file could not be ║')\n"),
        ("typescript", "throw new Error(`the file could not be ║`)\n"),
    ],
)
def test_pain_07_fires_inside_comments_and_strings(language: str, drawing: str) -> None:
    assert why_not(asked(drawing, language))


def test_pain_10_reads_secret_or_ignored_files(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("/generated/\n", encoding="utf-8")
    for name in (".env", ".env.local", "server.pem", "id_rsa", "secrets.yaml", ".npmrc", "generated/a.py"):
        assert why_private(tmp_path / name, [tmp_path]), name
    assert why_private(tmp_path / "a.py", [tmp_path]) is None
    assert why_private(tmp_path / "a.py", [tmp_path], ["[z-a]"])


OURS = ["<|endoftext|>", "<|im_end|>", "<fim_suffix>", "<fim_pad>", "<file_sep>", "<filename>", "<repo_name>"]
OTHERS = [
    "<jupyter_code>",
    "<|fim_prefix|>",
    "<|file_sep|>",
    "<｜fim▁end｜>",
    "<PRE>",
    "<EOT>",
    "<empty_output>",
]


@pytest.mark.parametrize("token", [*OURS, *OTHERS])
def test_pain_12_special_tokens_leak_into_the_text(token: str) -> None:
    assert shown(f"x = ║├first{token} + second┤\n", "python") == ""


@pytest.mark.parametrize(
    ("unit", "written"),
    [("\t", "    "), ("  ", "    "), ("    ", "  "), ("    ", "\t")],
)
def test_pain_13_ignores_the_projects_style(unit: str, written: str) -> None:
    head = f"def f():\n{unit}if a:\n{unit}{unit}b()\n\n\n"
    body = "\n{0}if a:\n{0}{0}b()\n{0}return c"
    assert shown(f"{head}def g():║├{body.format(written)}┤\n", "python") == body.format(unit)


def test_pain_14_wrong_choice_of_one_line_or_several() -> None:
    assert wants_multiline(asked("def total(values):\n    ║\n")) is True
    assert wants_multiline(asked("total = sum(║)\n")) is False
    assert wants_multiline(asked("# the sum of║\n")) is False
    assert wants_multiline(asked("total = ║\n")) is None
    assert shown("total = ║├a + b\nprint(total)\n┤", "python", multiline=False) == "a + b"
    assert shown("def f():║├\n    a()\n    b()\nc()\n┤", "python") == "\n    a()\n    b()"
