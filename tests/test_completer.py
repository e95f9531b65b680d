"""What reaches the engine and what the editor gets back, with an engine whose speed the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from habitab_engine.config import Settings
from habitab_engine.errors import EngineError
from habitab_engine.types import Fate, Signal, Snippet
from habitab_server.completer import GRACE_S, Ask, Completer, Offer
from habitab_server.documents import Document, Place, after
from habitab_server.feedback import Feedback
from habitab_server.scope import Scope
from links import SetLink

HEAD = "def total(values):\n    result = 0\n"


class Typist:
    """A document, a cursor in it, and a completer: types and asks as an editor does."""

    def __init__(self, text: str = HEAD + "    return ║\n", uri: str = "untitled:one") -> None:
        before, behind = text.split("║")
        self.link = SetLink()
        self.faults: list[str] = []
        self.signals: list[Signal] = []
        self.feedback = Feedback(Scope(), self.signals.extend, lambda: None)
        self.completer = Completer(self.link, Scope(), self.feedback, self.faults.append)
        self.document = Document(uri, "python", 1, before + behind)
        self.cursor = after(Place(0, 0), before)

    @property
    def fates(self) -> list[Fate]:
        return [signal for signal in self.signals if isinstance(signal, Fate)]

    def type(self, text: str, right: str = "") -> None:
        """Type `text`; `right` is what the editor puts right of the cursor by itself."""
        at = (self.cursor.line, self.cursor.column)
        self.document.change(self.document.version + 1, text + right, (*at, *at))
        self.cursor = after(self.cursor, text)

    def ask(self, **wishes: Any) -> Ask:
        return Ask(self.document, self.document.snapshot(self.cursor), self.cursor, **wishes)

    async def complete(self, **wishes: Any) -> list[Offer]:
        return await self.completer.complete(self.ask(**wishes))

    def asking(self, **wishes: Any) -> asyncio.Task[list[Offer]]:
        return asyncio.create_task(self.completer.complete(self.ask(**wishes)))

    async def texts(self, **wishes: Any) -> list[str]:
        return [offer.text for offer in await self.complete(**wishes)]

    async def type_on_while_it_answers(self) -> None:
        """Ask, type what the answer will begin with, and ask again: the rest comes of the same answer."""
        self.link.seconds = 0.05
        first = self.asking()
        await asyncio.sleep(0.03)
        self.type("su")
        assert await self.texts() == ["m(values)"]
        await first


@pytest_asyncio.fixture
async def typist() -> AsyncIterator[Typist]:
    someone = Typist()
    yield someone
    someone.completer.stop()
    await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_engine_gets_the_text_around_the_cursor(typist: Typist) -> None:
    assert await typist.texts() == ["sum(values)"]
    request = typist.link.asked[0]
    assert (request.prefix, request.suffix, request.offset) == (HEAD + "    return ", "\n", 0)
    assert (request.document, request.language, request.count) == ("untitled:one", "python", 1)


async def test_pain_05_a_burst_of_keystrokes_starts_the_engine_a_few_times_only(typist: Typist) -> None:
    typist.link.seconds = 0.2
    typist.link.texts = ["something else"]
    tasks = []
    for key in "result_of_everything_and_more_than_that()"[:40]:
        typist.type(key)
        tasks.append(typist.asking())
        await asyncio.sleep(0.01)
        tasks[-1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert 1 <= len(typist.link.asked) <= 8
    assert typist.link.cancelled + typist.link.answered >= len(typist.link.asked) - 1


async def test_pain_05_a_client_that_never_cancels_has_one_engine_call_at_a_time(typist: Typist) -> None:
    typist.link.seconds = 0.2
    typist.link.texts = ["something else"]
    tasks = []
    for key in "result_of_everything":
        typist.type(key)
        tasks.append(typist.asking())
        await asyncio.sleep(0.005)
        assert len(typist.link.asked) - typist.link.cancelled - typist.link.answered <= 1
    *early, last = await asyncio.gather(*tasks)
    assert all(result == [] for result in early)
    assert [offer.text for offer in last] == ["something else"]


async def test_pain_08_typing_through_is_served_from_the_cache_with_the_same_id(typist: Typist) -> None:
    first = (await typist.complete())[0]
    for typed, key in enumerate("sum(values", 1):
        typist.type(key)
        offers = await typist.complete()
        assert [(offer.id, offer.text) for offer in offers] == [(first.id, "sum(values)"[typed:])]
    assert len(typist.link.asked) == 1


async def test_pain_08_an_inserted_closer_does_not_make_the_suggestion_flicker(typist: Typist) -> None:
    await typist.complete()
    typist.type("sum(", right=")")
    offer = (await typist.complete())[0]
    assert offer.text == "values)"
    assert (offer.start, offer.end) == (typist.cursor, Place(typist.cursor.line, typist.cursor.column + 1))
    assert len(typist.link.asked) == 1


async def test_pain_09_the_selected_menu_item_is_what_every_suggestion_starts_with(typist: Typist) -> None:
    typist.type("pri")
    start = Place(typist.cursor.line, typist.cursor.column - 3)
    ask = Ask(typist.document, typist.document.snapshot(start, typist.cursor), typist.cursor, must_start="print")
    typist.link.texts = ["print(result)"]
    offer = (await typist.completer.complete(ask))[0]
    assert typist.link.asked[0].must_start == "print"
    assert typist.link.asked[0].prefix.endswith("return ")
    assert (offer.text, offer.start, offer.end) == ("print(result)", start, typist.cursor)


async def test_pain_09_a_suggestion_that_does_not_extend_the_menu_item_is_not_shown(typist: Typist) -> None:
    assert await typist.complete(must_start="print") == []


async def test_pain_06_an_unlikely_suggestion_is_shown_only_to_who_asks(typist: Typist) -> None:
    typist.link.probability = 0.01
    assert await typist.texts() == []
    assert await typist.texts(automatic=False, count=3) == ["sum(values)"]


async def test_what_the_gate_hid_is_followed_with_its_reason(typist: Typist) -> None:
    typist.link.probability = 0.01
    assert await typist.texts() == []
    typist.feedback.close()
    (fate,) = typist.fates
    assert (fate.outcome, fate.reason, fate.text) == ("suppressed", "too unlikely", "sum(values)")
    assert fate.probability == 0.01


async def test_what_stays_hidden_while_it_is_typed_is_followed_once(typist: Typist) -> None:
    typist.link.probability = 0.01
    assert await typist.texts() == []
    typist.type("s")
    typist.link.texts = ["um(values)"]
    assert await typist.texts() == []
    typist.type("u")
    typist.link.texts = ["per(values)"]
    assert await typist.texts() == []
    typist.feedback.close()
    assert [fate.text for fate in typist.fates] == ["sum(values)", "per(values)"]
    assert {fate.outcome for fate in typist.fates} == {"suppressed"}


async def test_what_is_offered_is_followed_with_all_that_made_it(typist: Typist) -> None:
    typist.link.snippets = (Snippet("b.py", "def total(): ..."),)
    (offer,) = await typist.complete()
    typist.feedback.close()
    (fate,) = typist.fates
    assert (fate.id, fate.text, fate.prefix, fate.suffix) == (offer.id, "sum(values)", HEAD + "    return ", "\n")
    assert (fate.logprobs, fate.snippets, fate.latency_ms) == ((-0.1,), typist.link.snippets, 1.0)
    assert fate.probability == 0.9


async def test_an_answer_trimmed_by_typing_is_followed_from_where_it_was_asked_for(typist: Typist) -> None:
    await typist.type_on_while_it_answers()
    typist.feedback.close()
    (fate,) = typist.fates
    assert (fate.text, fate.prefix, fate.instead) == ("sum(values)", HEAD + "    return ", "su")


async def test_a_contradicted_suggestion_is_asked_anew(typist: Typist) -> None:
    await typist.complete()
    typist.type("m")
    typist.link.texts = ["ax(values)"]
    assert await typist.texts() == ["ax(values)"]
    assert len(typist.link.asked) == 2


async def test_a_running_answer_that_the_typing_agrees_with_is_awaited_and_trimmed(typist: Typist) -> None:
    await typist.type_on_while_it_answers()
    assert (len(typist.link.asked), typist.link.cancelled) == (1, 0)


async def test_a_running_answer_survives_the_editors_cancel_while_typing_goes_on(typist: Typist) -> None:
    typist.link.seconds = 0.05
    first = typist.asking()
    await asyncio.sleep(0.01)
    typist.type("s")
    first.cancel()
    await asyncio.sleep(0.03)
    assert await typist.texts() == ["um(values)"]
    assert (len(typist.link.asked), typist.link.cancelled) == (1, 0)


async def test_a_cancel_without_typing_ends_the_engine_call_at_once(typist: Typist) -> None:
    typist.link.seconds = 5
    first = typist.asking()
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert typist.link.cancelled == 1


async def test_a_cancel_while_typing_ends_the_engine_call_if_nobody_asks_again(typist: Typist) -> None:
    typist.link.seconds = 5
    first = typist.asking()
    await settle()
    typist.type("s")
    first.cancel()
    await settle()
    assert first.cancelled() and typist.link.cancelled == 0
    await asyncio.sleep(GRACE_S + 0.02)
    assert typist.link.cancelled == 1


async def test_one_of_two_waiting_for_the_same_answer_may_leave(typist: Typist) -> None:
    typist.link.seconds = 0.03
    first, second = typist.asking(), typist.asking()
    await settle()
    first.cancel()
    assert [offer.text for offer in await second] == ["sum(values)"]
    assert len(typist.link.asked) == 1


async def test_an_answer_that_stays_out_is_given_up_for_a_new_one_when_typing_goes_on(typist: Typist) -> None:
    typist.link.seconds = 5
    first = typist.asking()
    await settle()
    typist.type("m")
    second = typist.asking()
    typist.link.seconds = 0
    typist.link.texts = ["ax(values)"]
    assert [offer.text for offer in await second] == ["ax(values)"]
    assert await first == []
    assert typist.link.cancelled == 1


async def test_after_an_accept_the_next_answer_is_already_being_computed(typist: Typist) -> None:
    offer = (await typist.complete())[0]
    typist.type(offer.text)
    typist.link.texts = ["\n\nprint(total([]))"]
    typist.completer.accepted(offer.id)
    await settle()
    assert len(typist.link.asked) == 2
    assert typist.link.asked[1].after_accept
    assert await typist.texts() == ["\n\nprint(total([]))"]
    assert len(typist.link.asked) == 2


async def test_an_empty_answer_computed_after_an_accept_is_not_computed_again(typist: Typist) -> None:
    offer = (await typist.complete())[0]
    typist.type(offer.text)
    typist.link.texts = []
    typist.completer.accepted(offer.id)
    await settle()
    assert await typist.texts() == []
    assert len(typist.link.asked) == 2


async def test_an_empty_answer_holds_for_the_same_wish_about_the_same_text_only(typist: Typist) -> None:
    typist.link.texts = []
    for _ in range(2):
        assert await typist.texts() == []
    assert len(typist.link.asked) == 1
    typist.link.texts = ["sum(values)"]
    assert await typist.texts(automatic=False) == ["sum(values)"]
    typist.type("m")
    typist.link.texts = ["ax(values)"]
    assert await typist.texts() == ["ax(values)"]


async def test_an_empty_answer_does_not_outlive_the_settings_it_was_given_under(typist: Typist) -> None:
    typist.link.probability = 0.1
    assert await typist.texts() == []
    typist.completer.configure(Settings(show_threshold=0.0))
    assert await typist.texts() == ["sum(values)"]


async def test_a_request_during_the_prefetch_waits_for_it(typist: Typist) -> None:
    offer = (await typist.complete())[0]
    typist.type(offer.text)
    typist.link.seconds = 0.1
    typist.link.texts = [" + 1"]
    typist.completer.accepted(offer.id)
    assert await typist.texts() == [" + 1"]
    assert len(typist.link.asked) == 2


async def test_an_accept_whose_text_is_not_there_computes_nothing(typist: Typist) -> None:
    offer = (await typist.complete())[0]
    typist.completer.accepted(offer.id)
    typist.completer.accepted("never heard of")
    await settle()
    assert len(typist.link.asked) == 1


async def test_a_rejected_suggestion_is_not_shown_again_unless_asked_for(typist: Typist) -> None:
    offer = (await typist.complete())[0]
    typist.completer.rejected(offer.id)
    assert await typist.texts() == []
    assert await typist.texts(automatic=False) == ["sum(values)"]


async def test_several_rejects_in_a_row_delay_what_comes_by_itself(typist: Typist) -> None:
    typist.completer.configure(Settings(debounce_min_ms=40, debounce_max_ms=40))
    offer = (await typist.complete())[0]
    for _ in range(3):
        typist.completer.rejected(offer.id)
    typist.type("m")
    asking = typist.asking()
    await asyncio.sleep(0.01)
    assert len(typist.link.asked) == 1
    await asking
    assert len(typist.link.asked) == 2


@pytest.mark.parametrize(("setting", "asked"), [("never", False), ("always", True), ("auto", None)])
async def test_the_engine_is_told_whether_to_write_several_lines(
    typist: Typist, setting: str, asked: bool | None
) -> None:
    typist.completer.configure(Settings(multiline=setting))
    await typist.texts()
    assert typist.link.asked[-1].multiline is asked


@pytest.mark.parametrize(
    "settings",
    [
        Settings(enabled=False),
        Settings(languages={"python": False}),
        Settings(privacy_fault="broken"),
    ],
)
async def test_what_is_switched_off_reaches_no_engine(typist: Typist, settings: Settings) -> None:
    typist.completer.configure(settings)
    assert await typist.complete(automatic=False) == []
    assert typist.link.asked == []


async def test_another_language_stays_on(typist: Typist) -> None:
    typist.completer.configure(Settings(languages={"markdown": False}))
    assert await typist.texts() == ["sum(values)"]


@pytest.mark.parametrize("uri", ["file:///w/.env", "file:///w/key.pem", "vscode-notebook-cell:/w/.env#x"])
async def test_pain_10_a_private_file_reaches_no_engine(uri: str) -> None:
    typist = Typist(uri=uri)
    assert await typist.complete(automatic=False) == []
    assert typist.link.asked == []


async def test_pain_10_a_file_that_cannot_be_judged_is_private() -> None:
    typist = Typist(uri="file:///w/a%00b.py")
    assert await typist.complete(automatic=False) == []
    assert typist.link.asked == []


async def test_text_right_of_the_cursor_reaches_no_engine() -> None:
    typist = Typist(HEAD + "    return ║result + 1\n")
    assert await typist.complete() == []
    assert typist.link.asked == []


async def test_an_engine_that_fails_is_reported_and_asked_again_later(typist: Typist) -> None:
    typist.link.error = EngineError("The engine ended: start it again.")
    assert await typist.complete() == []
    typist.link.error = None
    assert await typist.texts() == ["sum(values)"]
    assert typist.faults == ["The engine ended: start it again.", ""]


async def test_a_fault_of_ours_is_no_empty_answer(typist: Typist) -> None:
    typist.link.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        await typist.complete()


async def test_two_documents_do_not_disturb_each_other(typist: Typist) -> None:
    typist.link.seconds = 0.02
    other = Document("untitled:two", "python", 1, HEAD + "    return ")
    place = Place(2, 11)
    asks = [typist.ask(), Ask(other, other.snapshot(place), place)]
    answers = await asyncio.gather(*(typist.completer.complete(ask) for ask in asks))
    assert [[offer.text for offer in offers] for offers in answers] == [["sum(values)"]] * 2


async def test_a_closed_document_ends_its_engine_call_and_leaves_nothing(typist: Typist) -> None:
    typist.link.seconds = 5
    first = typist.asking()
    await settle()
    typist.completer.forget(typist.document.uri)
    assert await first == []
    assert typist.link.cancelled == 1


async def test_pain_11_many_documents_and_suggestions_leave_no_growing_memory(typist: Typist) -> None:
    for number in range(400):
        document = Document(f"untitled:{number}", "python", 1, HEAD + "    return ")
        ask = Ask(document, document.snapshot(Place(2, 11)), Place(2, 11))
        await typist.completer.complete(ask)
        typist.completer.forget(document.uri)
    assert (len(typist.completer._desks), len(typist.completer._shown)) == (0, 0)
