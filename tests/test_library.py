"""Places of public code are the same in every run, as the engine asks; what is rehearsed is never judged by."""

from __future__ import annotations

from pathlib import Path

import pytest

from habitab_adapters import library
from habitab_adapters.library import JUDGED, REHEARSED, TOKENS, Form, judged, rehearsed
from habitab_engine.engine import Engine
from habitab_engine.errors import InputError


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that ships has a test of its own."""
    monkeypatch.setattr(library, "TOKENS", 700)


@pytest.fixture
def stdlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(library.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def code(lines: int) -> str:
    return "".join(f"value_{i} = compute(value_{i - 1}, other)\n" for i in range(1, lines + 1))


def write(stdlib: Path, *paths: str, text: str = code(60)) -> None:
    for path in paths:
        (stdlib / path).parent.mkdir(parents=True, exist_ok=True)
        (stdlib / path).write_text(text)


def test_at_least_fifty_thousand_tokens_of_many_files_count(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "TOKENS", TOKENS)
    found = list(judged(tiny_engine))
    assert sum(len(place.tokens) - place.given for place in found) >= TOKENS >= 50_000
    assert len({place.request.path for place in found}) == len(found) >= 100
    assert max(len(place.tokens) for place in found) <= 512


def test_every_run_takes_the_same_places(tiny_engine: Engine) -> None:
    assert list(judged(tiny_engine)) == list(judged(tiny_engine))


def test_a_place_is_what_the_engine_asks_and_the_text_that_stands_there(tiny_engine: Engine, stdlib: Path) -> None:
    write(stdlib, "a.py")
    place = next(judged(tiny_engine))
    request, tokens = place.request, place.tokens
    prompt = tiny_engine.prompt(request, tiny_engine.slot("a place"))
    assert tokens[: len(prompt.tokens)] == prompt.tokens
    middle = tiny_engine.tokenizer.special_ids["<fim_middle>"]
    assert tokens[place.given - 1] == middle and middle not in tokens[place.given :]
    written = tiny_engine.tokenizer.decode(tokens[place.given :])[len(request.prefix) :]
    assert request.prefix + written + request.suffix in code(60)
    assert written.partition("\n")[0] == place.rest
    assert not request.sources and not request.memory
    sizes = [len(tiny_engine.tokenizer.encode(text)) for text in (request.prefix, written, request.suffix)]
    assert all(
        size <= most + 40 for size, most in zip(sizes, (JUDGED.above, JUDGED.written, JUDGED.below), strict=True)
    )


def test_tests_tables_generated_files_and_packages_are_no_strangers(tiny_engine: Engine, stdlib: Path) -> None:
    left_out = ["test/a.py", "json/tests/a.py", "idlelib/idle_test/a.py", "encodings/cp1.py", "pydoc_data/topics.py"]
    left_out += ["site-packages/a.py", "_sysconfigdata_linux.py", "pip/_vendor/a.py"]
    write(stdlib, "json/decoder.py", *left_out)
    write(stdlib, "made.py", text="# This file is auto-generated; do not edit.\n" + code(60))
    write(stdlib, "table.py", text="t = [\n" + "".join(f"    {i}, {i}, {i},\n" for i in range(900)) + "]\n")
    assert {place.request.path for place in judged(tiny_engine)} == {"json/decoder.py"}


def test_of_a_small_library_more_than_one_place_of_a_file_is_taken(tiny_engine: Engine, stdlib: Path) -> None:
    write(stdlib, "a.py", "b.py")
    found = list(judged(tiny_engine))
    assert {place.request.path for place in found} == {"a.py", "b.py"} and len(found) > 2
    assert len({place.request.document for place in found}) > 2


def test_without_a_library_in_source_code_one_sentence_says_so(tiny_engine: Engine, stdlib: Path) -> None:
    write(stdlib, "zip.py", text="")
    with pytest.raises(InputError, match="standard library is not in"):
        list(judged(tiny_engine))


def test_what_is_rehearsed_is_short_and_of_other_files_than_what_is_judged_by(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "TOKENS", TOKENS)
    form = Form(tiny_engine.tokenizer, tiny_engine.template, tiny_engine.budget)
    found, apart = rehearsed(form, 48), {place.request.path for place in judged(tiny_engine)}
    assert len({place.request.path for place in found} - apart) == len(found) == 48
    assert found == rehearsed(tiny_engine, 48)
    most = REHEARSED.above + REHEARSED.written + 40
    assert all(0 < len(place.tokens) - place.given <= most for place in found)


def test_a_library_that_is_judged_by_as_a_whole_has_nothing_to_rehearse(tiny_engine: Engine, stdlib: Path) -> None:
    write(stdlib, "a.py", "b.py")
    assert rehearsed(tiny_engine, 48) == []
