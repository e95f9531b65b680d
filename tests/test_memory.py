"""What the memory foresees is what was written, where it was written last, and never the text at the cursor itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine import memory as module
from habitab_engine.base_files import EMBEDDED
from habitab_engine.memory import Memory
from habitab_engine.mixing import WEIGHTS, cell
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.windows import AHEAD, REACH

BASE = Tokenizer(EMBEDDED)
CODE = (
    "def total(values, start):\n    result = start\n    for value in values:\n        result += value\n"
    "    return result\n"
)


def new_memory() -> Memory:
    return Memory(BASE.encode, len(BASE))


def foreseen(memory: Memory, text: str) -> str:
    """The likeliest next token after `text`."""
    prediction = memory.predict(BASE.encode(text))
    return "" if prediction is None else BASE.decode([int(prediction.ids[prediction.probs.argmax()])])


def drafted(memory: Memory, text: str, count: int = AHEAD) -> str:
    return BASE.decode(memory.draft(BASE.encode(text), count))


texts = st.lists(st.sampled_from(["a = b\n", "f(x)\n", "  g(y, z)\n", "return a\n", "b", " ("]), max_size=20).map(
    "".join
)


@given(st.lists(st.tuples(st.sampled_from("ab"), texts), max_size=6), texts)
def test_a_prediction_is_the_share_of_what_followed_the_longest_match(updates, context) -> None:
    memory, documents = new_memory(), {}
    for document, text in updates:
        memory.update(document, text)
        documents[document] = text
    pattern, best, following = BASE.encode(context)[-REACH:], 0, []
    for ids in map(BASE.encode, documents.values()):
        for at in range(1, len(ids)):
            length = next((n for n in range(min(at, len(pattern)), 0, -1) if ids[at - n : at] == pattern[-n:]), 0)
            if length and length >= best:
                best, following = length, [*(following if length == best else []), ids[at]]
    prediction = memory.predict(BASE.encode(context))
    if not best:
        assert prediction is None
        return
    assert prediction is not None and prediction.length == best
    found = dict(zip(prediction.ids.tolist(), prediction.probs.tolist(), strict=True))
    assert found == pytest.approx({token: following.count(token) / len(following) for token in set(following)})
    row, column = cell(best, max(found.values()))
    assert prediction.weight == WEIGHTS[row][column]


@given(texts, st.integers(1, AHEAD + 4))
def test_a_draft_begins_with_the_likeliest_token_and_goes_on_as_some_text_did(text: str, count: int) -> None:
    memory, ids = new_memory(), BASE.encode(text)
    memory.update("a", text)
    for at in range(1, len(ids)):
        prediction, draft = memory.predict(ids[:at]), memory.draft(ids[:at], count)
        assert prediction is not None
        assert prediction.probs[prediction.ids.tolist().index(draft[0])] == pytest.approx(prediction.probs.max())
        assert len(draft) <= min(count, AHEAD)
        assert any(ids[i : i + len(draft)] == draft for i in range(len(ids)))


def test_nothing_is_remembered_of_nothing() -> None:
    memory = new_memory()
    assert memory.predict(BASE.encode("x = ")) is None and memory.draft([1, 2], 4) == []
    memory.update("a", "")
    assert memory.predict([]) is None and memory.names("x = ", "ab", "") == []


def test_a_text_is_drafted_as_it_was_written() -> None:
    memory = new_memory()
    memory.update("a", CODE)
    assert drafted(memory, "def total(values, start):\n    result =").startswith(" start\n    for value in values:")


def test_what_stands_right_of_the_cursor_is_not_foreseen_at_it() -> None:
    memory, at = new_memory(), CODE.index(" start\n    for")
    memory.update("a", CODE, hole=(at, at))
    assert not drafted(memory, CODE[:at]).startswith(" start\n    for")
    memory.update("a", CODE)
    assert drafted(memory, CODE[:at]).startswith(" start\n    for")


def test_the_word_being_typed_is_not_taken_for_a_whole_one() -> None:
    memory = new_memory()
    memory.update("a", "alpha = res\n", hole=(7, 11))
    assert foreseen(memory, "alpha =") != " res"


def test_only_one_document_has_the_cursor() -> None:
    memory, at = new_memory(), CODE.index(" start\n    for")
    memory.update("a", CODE, hole=(at, at))
    memory.update("b", "x = 1\n", hole=(3, 3))
    assert drafted(memory, CODE[:at]).startswith(" start\n    for")
    memory.forget("b")
    memory.update("a", CODE, hole=(at, at))
    assert not drafted(memory, CODE[:at]).startswith(" start\n    for")


@given(st.text("ab\n", max_size=30), st.text("ab\n", max_size=9), *[st.floats(0, 1)] * 4)
def test_a_part_of_a_document_is_put_in_its_place(known: str, new: str, a: float, b: float, c: float, d: float) -> None:
    memory = new_memory()
    memory.update("d", known)
    start, end = sorted((int(a * len(known)), int(b * len(known))))
    text = known[:start] + new + known[end:]
    begin, stop = int(c * start), start + len(new) + int(d * (len(known) - end))
    assert memory.whole("d", text[begin:stop], begin, len(text)) == (text, begin)


def test_a_part_of_an_unknown_document_or_one_that_cannot_be_there_stands_alone() -> None:
    memory = new_memory()
    memory.update("d", "short")
    for document, offset, length in [("other", 3, 9), ("d", 300, 400), ("d", 0, 0), ("d", 2, 100)]:
        assert memory.whole(document, "part", offset, length) == ("part", 0)


def test_deleted_text_counts_no_longer() -> None:
    memory = new_memory()
    memory.update("a", "alpha = quarz_one\n" + CODE)
    assert drafted(memory, "alpha =").startswith(" quarz_one")
    memory.update("a", CODE)
    assert "quarz" not in drafted(memory, "alpha =")
    assert memory.names("x = ", "qua", "") == []


def test_todays_text_weighs_more_than_a_files() -> None:
    memory = new_memory()
    memory.add_file("/old.py", "alpha = beta\n" * 3)
    memory.build()
    assert foreseen(memory, "alpha =") == " beta"
    memory.update("a", "alpha = gamma\n")
    assert foreseen(memory, "alpha =") == " gamma"
    prediction = memory.predict(BASE.encode("alpha ="))
    assert prediction is not None and len(prediction.ids) == 2


def test_a_longer_match_in_a_file_weighs_more_than_todays_text() -> None:
    memory = new_memory()
    memory.add_file("/old.py", "for key, value in alpha = beta\n")
    memory.build()
    memory.update("a", "x\n =gamma\n")
    assert foreseen(memory, "for key, value in alpha =") == " beta"


def test_a_file_counts_from_the_next_build_on_and_goes_at_once() -> None:
    memory = new_memory()
    memory.add_file("/a.py", CODE)
    assert memory.predict(BASE.encode("def total")) is None
    memory.build()
    assert drafted(memory, "def total").startswith("(values, start):")
    memory.remove_file("/a.py")
    assert memory.predict(BASE.encode("def total")) is None


def test_an_open_file_counts_as_the_editor_has_it() -> None:
    memory = new_memory()
    memory.add_file("/a.py", "alpha = on_disk\n")
    memory.build()
    memory.update("a", "alpha = in_editor\n", path="/a.py")
    assert foreseen(memory, "alpha =") == " in"
    assert [name for name, _ in memory.names("x = ", "on_", "")] == []
    memory.add_file("/a.py", "alpha = saved\n")  # written to disk while it is open
    memory.build()
    assert foreseen(memory, "alpha =") == " in"
    memory.forget("a")
    assert foreseen(memory, "alpha =") == " saved"


def test_a_renamed_document_frees_its_old_file() -> None:
    memory = new_memory()
    memory.add_file("/old.py", "alpha = on_disk\n")
    memory.build()
    memory.update("a", "", path="/old.py")
    assert memory.predict(BASE.encode("alpha =")) is None
    memory.update("a", "", path="/new.py")
    assert foreseen(memory, "alpha =") == " on"


def test_a_document_too_large_is_left_out_and_stays_so_until_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CHARACTERS", 60)
    memory = new_memory()
    memory.update("a", "alpha = beta\n")
    memory.update("a", "alpha = beta\n" * 10)
    assert memory.predict(BASE.encode("alpha =")) is None
    memory.update("a", "alpha = beta\n")
    assert memory.predict(BASE.encode("alpha =")) is None
    memory.forget("a")
    memory.update("a", "alpha = beta\n")
    assert foreseen(memory, "alpha =") == " beta"


def test_todays_documents_are_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CODES", 100)
    memory = new_memory()
    for i in range(30):
        memory.update(str(i), f"alpha_{i} = beta_{i}\n")
        assert sum(map(len, memory._documents.values())) <= 100
        assert len(memory._windows) <= 100
    assert foreseen(memory, "alpha_29 =") == " beta"
    assert "0" not in memory._documents
    memory.update("huge", CODE * 10)
    assert "huge" not in memory._documents and len(memory._windows) == 0


def test_names_of_the_text_of_today_and_of_files_are_found() -> None:
    memory = new_memory()
    memory.add_file("/a.py", "quarz_file = 1\n")
    memory.build()
    memory.update("b", "quarz_today = 1\n")
    assert {name for name, _ in memory.names("quarz_near = 1\nx = ", "qua", "")} == {
        "quarz_file",
        "quarz_today",
        "quarz_near",
    }


@pytest.mark.parametrize(("line", "typed"), [("x = ", "qua"), ("x.", "quarz_ph"), ("(", "quarz"), ("\tif ", "q")])
def test_a_name_is_spelled_from_where_the_prompts_tokens_end(line: str, typed: str) -> None:
    memory = new_memory()
    before = f"quarz_philtrum = 1\n{line}"
    cut = BASE.boundary(before + typed)
    healed = (before + typed)[cut:]
    spelling = memory.spell(before, typed, "\n", healed)
    assert [BASE.decode(ids) for ids, _ in spelling.names] == [(before + "quarz_philtrum")[cut:]]
    assert BASE.decode([*BASE.encode((before + typed)[:cut]), *spelling.names[0][0]]) == before + "quarz_philtrum"
    assert spelling.names[0][1] == pytest.approx(1)


def test_without_a_healed_place_nothing_is_spelled() -> None:
    memory = new_memory()
    assert memory.spell("quarz = 1\n", "qua", "", "").predict() is None
