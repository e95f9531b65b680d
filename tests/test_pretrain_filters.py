"""What the base learns from: code that people wrote under permissive licences, once, without secrets or histories."""

from __future__ import annotations

import random
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters.pretrain import filters, licences
from habitab_adapters.pretrain.duplicates import NearDuplicates
from habitab_adapters.pretrain.packages import LIST, load_packages

CODE = "def area(width, height):\n    return width * height\n\n\ndef side(area):\n    return area ** 0.5\n"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=400)

# ---- licences ----

PERMITTED = {
    "MIT": "MIT",
    "The MIT License (MIT)": "MIT",
    "Expat": "MIT",
    "MIT/X11": "MIT",
    "BSD License": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD-3-Clause-Google": "BSD-3-Clause",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Zero-Clause BSD": "0BSD",
    "zlib": "Zlib",
    "The Unlicense (Unlicense)": "Unlicense",
    "CC0 1.0 Universal": "CC0-1.0",
    "Python Software Foundation License": "PSF-2.0",
    "BlueOak-1.0.0": "BlueOak-1.0.0",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "MIT-0": "MIT-0",
    "MIT/Apache-2.0": "MIT OR Apache-2.0",
    "MIT or GPL-2+": "MIT",
    "(MIT OR GPL-3.0-only)": "MIT",
    "BSD-3-clause and Expat": "BSD-3-Clause AND MIT",
    "(MIT OR Apache-2.0) AND ISC": "(MIT OR Apache-2.0) AND ISC",
    "Apache-2.0 WITH LLVM-exception": "Apache-2.0 WITH LLVM-exception",
}
FORBIDDEN = [
    *(
        "",
        "UNKNOWN",
        "GPL-2+",
        "GPL-3.0-or-later",
        "LGPL-2.1",
        "AGPL-3.0",
        "MPL-2.0",
        "EPL-1.0",
        "SSPL-1.0",
        "BUSL-1.1",
    ),
    *(
        "CC-BY-NC-4.0",
        "Proprietary",
        "UNLICENSED",
        "SEE LICENSE IN LICENSE",
        "MIT AND GPL-2.0",
        "MIT and (GPL-2 or EPL)",
    ),
    *("GPL-2+ with OpenSSL exception", "BSD-4-clause", "public-domain", "(", ")", "(" * 250, "MIT AND", "x" * 400),
]


@pytest.mark.parametrize(("said", "spdx"), PERMITTED.items())
def test_permissive_licences_are_known_in_their_spellings(said: str, spdx: str) -> None:
    assert licences.permissive(said) == spdx
    assert licences.permissive(spdx) == spdx


@pytest.mark.parametrize("said", FORBIDDEN)
def test_other_and_unknown_licences_permit_nothing(said: str) -> None:
    assert licences.permissive(said) == ""


@given(st.lists(st.sampled_from(["MIT", "GPL-2", "ISC", "and", "OR", "(", ")", "/", ",", "with"]), max_size=12))
def test_what_holds_gpl_beside_everything_is_never_permitted(words: list[str]) -> None:
    said = " ".join(words)
    if licences._is_balanced(f"{said} "):  # else it may close the bracket around it, and mean something else
        assert licences.permissive(f"({said}) AND GPL-2") == ""
    assert "GPL" not in licences.permissive(said)


MIT_TEXT = """Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software,
to deal in the Software without restriction, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies.
"""


def test_python_packages_say_it_in_three_ways_and_the_newest_counts() -> None:
    classifier = "Classifier: License :: OSI Approved :: "
    assert licences.of_pypi("License-Expression: MIT OR Apache-2.0\nLicense: GPL\n", []) == "MIT OR Apache-2.0"
    assert licences.of_pypi(f"{classifier}MIT License\n", []) == "MIT"
    assert (
        licences.of_pypi(f"License: MIT\n{classifier}MIT License\n{classifier}GNU General Public License\n", []) == ""
    )
    assert licences.of_pypi("License: Apache 2.0\n", []) == "Apache-2.0"
    assert licences.of_pypi(f"Name: a\nLicense: {MIT_TEXT.replace(chr(10), chr(10) + '  ')}\n", []) == "MIT"
    assert licences.of_pypi("Name: a\n\nLicense: MIT\n", []) == ""  # that is the description
    assert licences.of_pypi("Name: a\n", [MIT_TEXT]) == "MIT"
    assert licences.of_pypi("Name: a\n", [MIT_TEXT, "GNU GENERAL PUBLIC LICENSE"]) == ""
    assert licences.of_pypi("", []) == ""


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        ('{"license": "MIT"}', "MIT"),
        ('{"license": {"type": "BSD-3-Clause"}}', "BSD-3-Clause"),
        ('{"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}', "MIT"),
        ('{"license": "UNLICENSED"}', ""),
        ('{"license": 5}', ""),
        ("{}", ""),
        ("[]", ""),
        ("no json", ""),
        ("[" * 100_000, ""),
    ],
)
def test_npm_packages_say_it_in_their_manifest(text: str, spdx: str) -> None:
    assert licences.of_npm(text) == spdx


DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: somewhere

Files: *
Copyright: 2020 Somebody
License: Expat

Files: lib/gpl/*
       lib/?.c
Copyright: 2020 Somebody
License: GPL-2+

Files: lib/gpl/free.c
Copyright: 2020 Somebody
License: BSD-3-clause

Files: debian/*
Copyright: 2020 Somebody
License: GPL-3+

License: Expat
 Permission is hereby granted
"""


def test_debian_says_it_by_file_and_the_last_paragraph_that_fits_decides() -> None:
    copyright = licences.Copyright.parse(DEP5)
    paths = ["a.c", "src/deep/a.c", "lib/gpl/a.c", "lib/gpl/free.c", "lib/x.c", "lib/xy.c", "debian/a.c"]
    assert [copyright.licence_of(path) for path in paths] == ["MIT", "MIT", "", "BSD-3-Clause", "", "MIT", ""]
    assert copyright.of_all() == ""
    assert licences.Copyright.parse(DEP5.replace("GPL-2+", "ISC")).of_all() == "MIT AND ISC AND BSD-3-Clause"
    assert licences.Copyright.parse("All is MIT, I think.").of_all() == ""
    assert licences.Copyright.parse("All is MIT, I think.").licence_of("a.c") == ""


def test_a_file_may_have_a_licence_of_its_own() -> None:
    assert licences.is_copyleft("# This is under the GNU Lesser General Public License\n" + CODE)
    assert licences.is_copyleft("// SPDX-License-Identifier: GPL-2.0-only\n")
    assert not licences.is_copyleft("# MIT\n" + CODE + "#" * 5000 + "GPL")


# ---- files ----

HINTS = ("python", "typescript", "c")


@pytest.mark.parametrize(
    ("path", "language"),
    [
        *(("a/b.py", "python"), ("b.pyi", "python"), ("a.ts", "typescript"), ("a.tsx", "typescript"), ("a.c", "c")),
        *(("a.h", "c"), ("a.cpp", ""), ("a.js", ""), ("a.go", ""), ("README.md", ""), ("data.json", ""), ("c", "")),
    ],
)
def test_only_the_languages_that_are_wanted_of_a_package_are_taken(path: str, language: str) -> None:
    assert filters.language(path, HINTS) == language


@pytest.mark.parametrize("path", ["a/x.jsx", "a/x.mjs", "x.cjs", "x.js"])
def test_scripts_are_javascript(path: str) -> None:
    assert filters.language(path, ("javascript",)) == "javascript"
    assert filters.language("a.h", ("javascript",)) == ""


NAMES = [
    *("rich", "Rich", "sqlite_utils", "jedi.language.server", "nanoGPT", "@antfu/ni", "got", "attrs", "typer-slim"),
    *("golang-github-junegunn-fzf-dev", "golang-github-charmbracelet-gum", "librust-bat-dev", "librust-bat-0.22-dev"),
    *("rust-starship", "libjsoup-java", "libpicocli-java", "python3-attr", "node-execa", "linenoise", "dwm"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_known_under_its_names_at_every_source(name: str) -> None:
    assert filters.is_history(name)


@pytest.mark.parametrize(
    "name", ["requests", "rich-click", "@trpc/server", "librust-syn-dev", "libguava-java", "batch"]
)
def test_a_package_that_only_sounds_like_a_history_may_be_taken(name: str) -> None:
    assert not filters.is_history(name)


@pytest.mark.parametrize("name", sorted(filters.HISTORIES))
def test_no_file_that_carries_the_name_of_a_history_is_read(name: str) -> None:
    for path in (
        f"{name}/a.py",
        f"src/{name}/deep/a.py",
        f"pip/_vendor/{name}/a.py",
        f"x/{name}.py",
        f"x/{name}.min.js",
    ):
        assert filters.fault_of_path(path) == "name of a history", path
        assert filters.is_of_a_history(path.upper().replace("-", "_"))
    assert filters.fault_of_path(f"a/my{name}ish/a.py") == ""


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("pkg/core.py", ""),
        ("src/index.ts", ""),
        ("pkg/_vendor/idna/core.py", "vendored"),
        ("node_modules/a/index.js", "vendored"),
        ("third-party/a.c", "vendored"),
        ("src/3rdparty/a.c", "vendored"),
        (".github/tool.py", "vendored"),
        ("debian/tool.py", "vendored"),
        ("dist/index.js", "built"),
        ("build/a.js", "built"),
        ("pkg/build/a.py", ""),
        ("lib/a.min.js", "built"),
        ("src/a.d.ts", "built"),
        ("api/a_pb2.py", "built"),
        ("api/a.pb.go", "built"),
    ],
)
def test_what_others_or_machines_wrote_is_known_by_its_path(path: str, fault: str) -> None:
    assert filters.fault_of_path(path) == fault


def test_scripts_with_a_typescript_source_are_compiled() -> None:
    scripts = ["v4/util.js", "v4/util.cjs", "esm/deep/util.mjs", "index.jsx"]
    assert filters.compiled([*scripts, "src/util.ts", "src/index.tsx", "own.js"]) == set(scripts)
    assert filters.compiled([*scripts, "util.d.ts", "src/util.test.ts"]) == set()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (CODE, ""),
        ("\n# Größe, 日本語\n" + CODE, ""),
        ("import a\n\n\n", "too short"),
        (CODE * 3000, "too large"),
        ("x = 1\n" * 3 + "y = '" + "a" * 3000 + "'\n", "generated or minified"),
        ("# This file is automatically generated. Do not edit.\n" + CODE, "generated or minified"),
        ("// Code generated by stringer; DO NOT EDIT.\n" + CODE, "generated or minified"),
        (CODE + "//# sourceMappingURL=a.js.map\n", "generated or minified"),
        (
            '"use strict";\nObject.defineProperty(exports, "__esModule", {value: true});\n' + CODE,
            "generated or minified",
        ),
        ("TABLE = [\n" + "    0x1f, 0x20, 0x35, 0x99,\n" * 50 + "]\n", "data"),
    ],
)
def test_what_nobody_typed_is_left_out(text: str, fault: str) -> None:
    assert filters.fault_of_text(text) == fault


@given(TEXTS)
def test_any_text_gets_an_answer_and_one_line_end(text: str) -> None:
    decoded = filters.decode(text.encode())
    assert decoded is not None and "\r" not in decoded
    assert isinstance(filters.fault_of_text(decoded), str)


@given(st.binary(max_size=200))
def test_bytes_are_text_or_nothing(data: bytes) -> None:
    text = filters.decode(data)
    assert text is None or "\0" not in text


# ---- how much of a package ----


@given(
    st.dictionaries(st.sampled_from([f"{d}/f{i}.py" for d in ("src", "tests") for i in range(9)]), TEXTS),
    st.integers(0, 2000),
    st.integers(0, 3),
)
def test_a_share_keeps_to_its_size_and_to_a_third_of_tests(texts: dict[str, str], most: int, seed: int) -> None:
    kept = filters.share(texts, most, seed)
    size = sum(len(texts[path]) for path in kept)
    tests = sum(len(texts[path]) for path in kept if filters.is_test(path))
    assert kept == sorted(set(kept)) == filters.share(dict(reversed(texts.items())), most, seed)
    assert size <= most and tests * 3 <= size


def test_a_small_package_keeps_its_code_and_as_many_tests_as_fit() -> None:
    texts = {"a.py": "x" * 60, "b.py": "x" * 40, "tests/test_a.py": "x" * 45, "tests/test_b.py": "x" * 49}
    kept = filters.share(texts, 1000, 0)
    assert kept[:2] == ["a.py", "b.py"] and len(kept) == 3


@pytest.mark.parametrize(
    ("path", "is_test"),
    [
        *(
            ("tests/a.py", True),
            ("a/test_b.py", True),
            ("a_test.go", True),
            ("a.spec.ts", True),
            ("src/ATest.java", True),
        ),
        *(("__tests__/a.ts", True), ("src/latest.py", False), ("contest.go", False), ("src/protests/a.py", False)),
    ],
)
def test_tests_are_known_by_their_paths(path: str, is_test: bool) -> None:
    assert filters.is_test(path) == is_test


# ---- secrets ----


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "QYLPMN5HFIQR7XYA",
        "ghp_" + "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "xoxb-" + "34532454-e039d02840a0b9379c",
        "sk_live_" + "ReTllpYQYfIZu2Jnf2lAPFjD",
    ],
)
def test_a_text_with_a_secret_is_known(secret: str) -> None:
    assert filters.has_secret(f"{CODE}key = '{secret}'\n")
    assert not filters.has_secret(CODE + "key = os.environ['KEY']\ntoken = 'abcdef'\nhash = '" + "0a" * 32 + "'\n")


# ---- near-duplicates ----


def words(count: int, seed: int) -> list[str]:
    return [f"w{random.Random(f'{seed} {i}').randrange(9999)}" for i in range(count)]


def test_copies_with_small_changes_are_near_duplicates_and_other_texts_are_not() -> None:
    known = NearDuplicates()
    texts = [" ".join(words(400, seed)) for seed in range(30)]
    assert not any(map(known.seen, texts))
    assert all(map(known.seen, texts))
    assert all(known.seen("# Copyright 2020\n" + text.replace(" ", "\n  ") + "\n") for text in texts)
    halves = [" ".join(words(200, seed) + words(200, seed + 100)) for seed in range(30)]
    assert not any(map(known.seen, halves))


def test_a_licence_at_the_top_makes_no_files_alike() -> None:
    known = NearDuplicates()
    header = "/*\n * " + " ".join(words(300, 1)) + "\n */\n\n// A\n"
    assert not any(known.seen(header + "int " + " ".join(words(40, seed))) for seed in range(9))


def test_the_signature_estimates_the_resemblance() -> None:
    known, base = NearDuplicates(3), words(3000, 1)
    for kept in (0.9, 0.6, 0.3):
        cut = int(len(base) * kept)
        a, b = known.signature(" ".join(base)), known.signature(" ".join(base[:cut] + words(3000 - cut, 2)))
        assert abs((a == b).mean() - kept / (2 - kept)) < 0.2


def test_the_same_seed_gives_the_same_signature_and_memory_grows_by_blocks() -> None:
    assert (NearDuplicates(1).signature(CODE) == NearDuplicates(1).signature(CODE)).all()
    assert (NearDuplicates(1).signature(CODE) != NearDuplicates(2).signature(CODE)).any()
    known = NearDuplicates()
    texts = [" ".join(words(8, seed)) for seed in range(5000)]
    assert sum(map(known.seen, texts)) < 5 and all(map(known.seen, texts[::500]))


@given(TEXTS)
def test_any_text_has_been_seen_once_it_was_given(text: str) -> None:
    known = NearDuplicates()
    assert [known.seen(text), known.seen(text)] == [False, True]


# ---- the list ----


def test_the_list_holds_no_history_and_all_three_sources() -> None:
    packages = load_packages()
    assert not [package.name for package in packages if filters.is_history(package.name)]
    assert {package.source for package in packages} == {"pypi", "npm", "debian"}
    assert {one for package in packages for one in package.languages} == set(filters.LANGUAGE_IDS)
    assert len({package.key for package in packages}) == len(packages) > 450
    assert all(group["names"].strip() for group in tomllib.loads(LIST.read_text(encoding="utf-8"))["group"])
