"""The language server, byte by byte, with an engine whose answers the test sets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from habitab_engine.config import EngineSettings
from habitab_engine.errors import ServeError
from habitab_engine.home import Home
from habitab_engine.types import Fate, Span, Survival
from habitab_server import edited, front, stdio
from habitab_server.errands import Errand, errand
from habitab_server.front import our_section
from habitab_server.lsp import HabitabServer, _session
from links import SetLink

URI = "untitled:one"
TEXT = "def total(values):\n    result = 0\n    return "
INVOKED, AUTOMATIC = 1, 2
INLINE = "textDocument/inlineCompletion"
Message = dict[str, Any]


class Client:
    """Speaks JSON-RPC with a server over a stream; keeps notifications, resolves replies."""

    def __init__(self, token: str = "") -> None:
        self.links: list[SetLink] = []
        self.commands: list[tuple[str, ...]] = []
        self.errand: Errand | None = None
        self.server = HabitabServer(self._make_link, self._run, token)
        self.notifications: list[Message] = []
        self.orphans: list[Message] = []
        self._stream = asyncio.StreamReader(limit=64 * 1024)
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._next = 0
        self.session = asyncio.create_task(_session(self.server, stdio.Reader(self._stream), self))

    def _make_link(self, settings: EngineSettings) -> SetLink:
        self.links.append(SetLink(settings))
        return self.links[-1]

    async def _run(self, base: str, /, *words: str) -> Any:
        """A command of habitab: the one of the test, or one that has nothing to say."""
        self.commands.append((base, *words))
        return await self.errand(base, *words) if self.errand else {}

    @property
    def link(self) -> SetLink:
        return self.links[-1]

    def write(self, data: bytes) -> None:
        """One message of the server (it writes each in one piece)."""
        message = json.loads(data.partition(b"\r\n\r\n")[2])
        reply = self._replies.pop(message.get("id"), None) if "method" not in message else None
        if reply is not None:
            reply.set_result(message)
        else:
            (self.notifications if "method" in message else self.orphans).append(message)

    def close(self) -> None: ...

    def raw(self, data: bytes) -> None:
        self._stream.feed_data(data)

    def send(self, message: Message) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.raw(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def notify(self, method: str, params: Any) -> None:
        self.send({"method": method, "params": params})

    def request(self, method: str, params: Any = None) -> asyncio.Future[Message]:
        self._next += 1
        self._replies[self._next] = asyncio.get_running_loop().create_future()
        self.send({"id": self._next, "method": method, "params": params})
        return self._replies[self._next]

    def cancel(self) -> None:
        self.notify("$/cancelRequest", {"id": self._next})

    async def result(self, method: str, params: Any = None) -> Any:
        reply = await asyncio.wait_for(self.request(method, params), 5)
        assert "error" not in reply, reply
        return reply["result"]

    async def initialize(self, options: Any = None, **capabilities: Any) -> Message:
        capabilities = capabilities or {"textDocument": {"inlineCompletion": {}}}
        params = {"processId": None, "capabilities": capabilities, "initializationOptions": options}
        found = await self.result("initialize", params)
        self.notify("initialized", {})
        return found

    def open(self, text: str = TEXT, uri: str = URI, language: str = "python") -> None:
        item = {"uri": uri, "languageId": language, "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def type(self, version: int, line: int, character: int, text: str, uri: str = URI) -> None:
        at = {"line": line, "character": character}
        changes = [{"range": {"start": at, "end": at}, "text": text}]
        document = {"uri": uri, "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": changes})

    async def items(self, line: int, character: int, **wishes: Any) -> list[Message]:
        return await self.result(INLINE, where(line, character, **wishes))

    async def command(self, name: str, *arguments: Any) -> Any:
        return await self.result("workspace/executeCommand", {"command": name, "arguments": list(arguments)})

    def statuses(self) -> list[tuple[str, bool]]:
        found = [n["params"] for n in self.notifications if n["method"] == "habitab/didChangeStatus"]
        return [(params["kind"], params["busy"]) for params in found]

    def warnings(self) -> list[str]:
        return [n["params"]["message"] for n in self.notifications if n["method"] == "window/showMessage"]

    async def end(self) -> None:
        self._stream.feed_eof()
        await asyncio.wait_for(self.session, 5)


def where(line: int, character: int, kind: int = AUTOMATIC, uri: str = URI, **context: Any) -> Message:
    return {
        "textDocument": {"uri": uri},
        "position": {"line": line, "character": character},
        "context": {"triggerKind": kind, **context},
    }


def span(line: int, start: int, end: int) -> Message:
    return {"start": {"line": line, "character": start}, "end": {"line": line, "character": end}}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    someone = Client()
    yield someone
    await someone.end()
    assert someone.link.closed


async def test_initialize_names_the_server_and_offers_exactly_this_stages_commands(client: Client) -> None:
    found = await client.initialize()
    capabilities = found["capabilities"]
    assert found["serverInfo"]["name"] == "habitab"
    assert capabilities["executeCommandProvider"]["commands"] == [
        "habitab.accept",
        "habitab.status",
        "habitab.pause",
        "habitab.resume",
        "habitab.adapters.list",
        "habitab.adapters.export",
        "habitab.adapters.import",
        "habitab.adapters.rollback",
    ]
    assert capabilities["inlineCompletionProvider"] == {}
    assert capabilities["textDocumentSync"]["change"] == 2
    assert capabilities["textDocumentSync"]["save"] == {"includeText": False}
    assert "completionProvider" not in capabilities


async def test_an_item_has_text_range_and_the_accept_command(client: Client) -> None:
    await client.initialize()
    client.open()
    (item,) = await client.items(2, 11)
    assert item["insertText"] == "sum(values)"
    assert item["range"] == span(2, 11, 11)
    assert item["command"]["command"] == "habitab.accept"
    (identity,) = item["command"]["arguments"]
    assert isinstance(identity, str) and identity


async def test_invoked_brings_alternatives_and_automatic_one_item(client: Client) -> None:
    await client.initialize()
    client.open()
    client.link.texts = ["one_", "two_", "three_", "four_"]
    assert len(await client.items(2, 11)) == 1
    items = await client.items(2, 11, kind=INVOKED)
    assert [item["insertText"] for item in items] == ["one_", "two_", "three_"]


async def test_nothing_worth_showing_is_an_empty_list(client: Client) -> None:
    await client.initialize()
    client.open()
    client.link.texts = []
    assert await client.items(2, 11) == []


async def test_a_cancelled_request_is_answered_within_ten_milliseconds_and_frees_the_engine(
    client: Client,
) -> None:
    await client.initialize()
    client.open()
    client.link.seconds = 5
    times = []
    for _ in range(10):
        reply = client.request(INLINE, where(2, 11))
        await until(lambda: len(client.link.asked) > client.link.cancelled)
        started = time.perf_counter()
        client.cancel()
        assert (await reply)["error"]["code"] == -32800
        times.append(time.perf_counter() - started)
        await until(lambda: len(client.link.asked) == client.link.cancelled)
    assert sorted(times)[len(times) // 2] < 0.01


async def test_pain_08_typed_through_replies_come_from_the_cache_within_three_milliseconds(
    client: Client,
) -> None:
    await client.initialize()
    client.open()
    first = await client.items(2, 11)
    times = []
    for typed, key in enumerate("sum(value", 1):
        client.type(typed + 1, 2, 10 + typed, key)
        started = time.perf_counter()
        (item,) = await client.items(2, 11 + typed)
        times.append(time.perf_counter() - started)
        assert item["insertText"] == "sum(values)"[typed:]
        assert item["command"] == first[0]["command"]
    assert len(client.link.asked) == 1
    assert sorted(times)[len(times) // 2] < 0.003


async def test_pain_09_an_item_for_the_menus_selection_extends_it_and_takes_its_range(client: Client) -> None:
    await client.initialize()
    client.open(TEXT + "pri")
    client.link.texts = ["print(result)"]
    info = {"text": "print", "range": span(2, 11, 14)}
    (item,) = await client.items(2, 14, selectedCompletionInfo=info)
    assert (item["insertText"], item["range"]) == ("print(result)", span(2, 11, 14))
    assert client.link.asked[0].must_start == "print"
    client.link.texts = ["other(result)"]
    info = {"text": "private", "range": span(2, 11, 14)}
    assert await client.items(2, 14, selectedCompletionInfo=info) == []


async def test_a_document_with_crlf_gets_its_own_line_ends_and_the_engine_gets_none(client: Client) -> None:
    await client.initialize()
    client.open(TEXT.replace("\n", "\r\n"))
    client.link.texts = ["result\n\n\nprint()"]
    (item,) = await client.items(2, 11)
    assert item["insertText"] == "result\r\n\r\n\r\nprint()"
    assert client.link.asked[0].prefix == TEXT


@pytest.mark.parametrize("language", ["python", "javascriptreact", "my-own"])
async def test_the_language_is_the_editors_id_and_its_switch_counts(client: Client, language: str) -> None:
    await client.initialize()
    client.open(language=language)
    assert len(await client.items(2, 11)) == 1
    assert client.link.asked[0].language == language
    client.notify("workspace/didChangeConfiguration", {"settings": {"languages": {language: False}}})
    assert await client.items(2, 11) == []


@pytest.mark.parametrize("encoding, character", [("utf-16", 9), ("utf-8", 13), ("utf-32", 7)])
async def test_positions_count_in_the_negotiated_units(client: Client, encoding: str, character: int) -> None:
    general = {"positionEncodings": [encoding]}
    found = await client.initialize(general=general, textDocument={"inlineCompletion": {}})
    assert found["capabilities"]["positionEncoding"] == encoding
    client.open("values = [1, 2, 3]\n\tx = 😀😀")
    client.link.texts = [" + values"]
    (item,) = await client.items(1, character)
    assert client.link.asked[0].prefix.endswith("\n\tx = 😀😀")
    assert item["range"] == span(1, character, character)
    client.type(2, 1, character, "é")
    await client.items(1, character + (2 if encoding == "utf-8" else 1))
    assert client.link.asked[1].prefix.endswith("😀😀é")


async def test_a_big_file_costs_little_more_per_keystroke_than_a_small_one(client: Client) -> None:
    await client.initialize()
    costs = dict[int, float]()
    for above in (0, 50_000):
        uri, times = f"file:///w/{above}.py", list[float]()
        client.open("    return some_function(value, other)\n" * above + TEXT, uri=uri)
        for typed in range(20):
            client.type(typed + 2, above + 2, 11 + typed, "x", uri=uri)
            started = time.thread_time()
            await client.items(above + 2, 12 + typed, uri=uri)
            times.append(time.thread_time() - started)
        costs[above] = sorted(times)[len(times) // 2]
    assert costs[50_000] < 4 * costs[0]


async def test_the_path_is_relative_to_the_innermost_folder_and_folders_may_change(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "in" / "side").mkdir(parents=True)
    folder = {"uri": (tmp_path / "in").as_uri(), "name": "in"}
    uri = (tmp_path / "in" / "side" / "a.py").as_uri()
    await client.initialize()
    client.open(uri=uri)
    await client.items(2, 11, uri=uri)
    client.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [folder], "removed": []}})
    client.type(2, 2, 11, "m", uri=uri)
    await client.items(2, 12, uri=uri)
    assert [request.path for request in client.link.asked] == ["a.py", "side/a.py"]


async def test_pain_10_an_ignored_file_reaches_no_engine(client: Client, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("private/\n")
    uri = (tmp_path / "private" / "a.py").as_uri()
    await client.initialize()
    client.open(uri=uri)
    assert await client.items(2, 11, uri=uri, kind=INVOKED) == []
    assert client.link.asked == []


async def test_an_accept_computes_what_comes_next(client: Client) -> None:
    await client.initialize()
    client.open()
    (item,) = await client.items(2, 11)
    client.type(2, 2, 11, item["insertText"])
    client.link.texts = ["\n\n\nprint(total([1]))"]
    assert await client.command("habitab.accept", *item["command"]["arguments"]) is None
    assert client.link.asked[1].after_accept
    (item,) = await client.items(2, 22)
    assert item["insertText"] == "\n\n\nprint(total([1]))"
    assert len(client.link.asked) == 2


@pytest.mark.parametrize("arguments", [[], ["unknown"], [None], [{"a": 1}], ["a", "b"]])
async def test_an_accept_with_odd_arguments_is_no_error(client: Client, arguments: list[Any]) -> None:
    await client.initialize()
    assert await client.command("habitab.accept", *arguments) is None


async def test_a_rejected_item_is_not_shown_again(client: Client) -> None:
    await client.initialize()
    client.open()
    (item,) = await client.items(2, 11)
    client.notify("textDocument/didShowCompletion", {"item": item})
    client.notify("textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": 3})
    client.notify("habitab/didDismissCompletion", {"item": item, "reason": "ignored"})
    assert len(await client.items(2, 11)) == 1
    client.notify("habitab/didDismissCompletion", {"item": item, "reason": "rejected"})
    assert await client.items(2, 11) == []
    assert client.warnings() == []


@pytest.mark.parametrize("params", [{}, {"item": 3, "reason": "rejected"}, {"item": {"command": 1}}, [1], "x"])
async def test_odd_feedback_leaves_the_server_alive(client: Client, params: Any) -> None:
    await client.initialize()
    client.open()
    client.notify("habitab/didDismissCompletion", params)
    assert len(await client.items(2, 11)) == 1


@pytest.mark.parametrize(
    "params",
    [
        where(99, 0),
        where(-1, 0),
        where(0, -1),
        where(2, 11, uri="untitled:unknown"),
        {"textDocument": {"uri": URI}},
        {"textDocument": 3, "position": "x", "context": None},
        where(2, 11) | {"position": {"line": "x", "character": 0}},
        where(2, 11, kind=77),
        [1, 2],
        None,
    ],
)
async def test_a_bad_request_gets_an_error_and_the_server_lives(client: Client, params: Any) -> None:
    await client.initialize()
    client.open()
    reply = await asyncio.wait_for(client.request(INLINE, params), 5)
    assert reply["error"]["code"] in (-32602, -32603)
    assert len(await client.items(2, 11)) == 1


@pytest.mark.parametrize(
    "junk",
    [
        b"Content-Length: 9\r\n\r\n{not json",
        b"Content-Length: 2\r\n\r\n[]",
        b"Content-Length: 4\r\n\r\nnull",
        b"X: " + b"y" * 200_000 + b"\r\n",
        b'Content-Length: 15\r\n\r\n{"jsonrpc": 1}\n',
        b"\r\n\r\n\r\n",
    ],
)
async def test_junk_on_the_wire_leaves_the_server_alive(client: Client, junk: bytes) -> None:
    await client.initialize()
    client.open()
    client.raw(junk)
    assert len(await client.items(2, 11)) == 1


async def test_a_message_that_is_too_long_is_skipped(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "LONGEST_MESSAGE", 10_000)
    await client.initialize()
    client.open()
    client.raw(b"Content-Length: 300000\r\n\r\n" + b"z" * 300_000)
    assert len(await client.items(2, 11)) == 1


async def test_an_unknown_method_and_command_get_an_error(client: Client) -> None:
    await client.initialize()
    assert (await client.request("habitab/unknown", {}))["error"]["code"] == -32601
    reply = await client.request("workspace/executeCommand", {"command": "habitab.night"})
    assert reply["error"]["code"] == -32602


async def test_nothing_is_served_before_initialize(client: Client) -> None:
    client.open()
    reply = await client.request(INLINE, where(2, 11))
    assert reply["error"]["code"] == -32002
    await client.initialize()


async def test_the_right_token_is_let_in_and_is_no_setting() -> None:
    client = Client(token="secret")
    await client.initialize({"token": "secret", "enabled": True})
    client.open()
    assert len(await client.items(2, 11)) == 1
    assert client.warnings() == []
    await client.end()


@pytest.mark.parametrize("options", [None, {}, {"token": "wrong"}, {"token": None}, {"token": "sécret"}, [1]])
async def test_a_wrong_token_is_refused_and_ends_the_session(options: Any) -> None:
    client = Client(token="secret")
    params = {"processId": None, "capabilities": {}, "initializationOptions": options}
    reply = await asyncio.wait_for(client.request("initialize", params), 5)
    assert "token" in reply["error"]["message"]
    await asyncio.wait_for(client.session, 5)
    assert client.link.asked == []


async def test_the_status_is_told_as_it_changes(client: Client) -> None:
    await client.initialize()
    await until(lambda: client.statuses() == [("Normal", True), ("Normal", False)])
    client.open()
    await client.command("habitab.pause")
    assert await client.items(2, 11) == []
    await client.command("habitab.resume")
    assert len(await client.items(2, 11)) == 1
    assert client.statuses()[2:] == [("Inactive", False), ("Normal", False)]
    status = await client.command("habitab.status")
    assert (status["kind"], status["engine"]) == ("Normal", {"state": "ready"})


async def test_the_fate_of_a_suggestion_is_recorded_when_its_document_is_closed(client: Client) -> None:
    await client.initialize({"recordTyping": True})
    client.open()
    (item,) = await client.items(2, 11)
    client.notify("textDocument/didShowCompletion", {"item": item})
    client.type(2, 2, 11, "sum(")
    client.notify("textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": 4})
    client.notify("textDocument/didSave", {"textDocument": {"uri": URI}})
    await client.command("habitab.status")
    assert client.link.recorded == []
    client.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    await until(lambda: bool(client.link.recorded))
    fate, *survivals, span = client.link.recorded
    assert isinstance(fate, Fate) and isinstance(span, Span)
    assert (fate.outcome, fate.accepted, fate.inserted, span.after) == ("partly_accepted", 4, "sum(", "sum(")
    told = [(one.id, one.at, one.text) for one in survivals if isinstance(one, Survival)]
    assert told == [(fate.id, "save", "sum("), (fate.id, "close", "sum(")]


async def test_an_accept_in_the_menu_is_recorded_as_any_other(client: Client) -> None:
    await client.initialize({"completionFallback": True}, textDocument={"completion": {}})
    client.open(TEXT + "to")
    client.link.texts = ["tal(values)"]
    found = await client.result("textDocument/completion", where(2, 13))
    (item,) = found["items"]
    edit = item["textEdit"]
    changes = [{"range": edit["range"], "text": edit["newText"]}]
    client.notify("textDocument/didChange", {"textDocument": {"uri": URI, "version": 2}, "contentChanges": changes})
    await client.command("habitab.accept", *item["command"]["arguments"])
    client.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    await until(lambda: bool(client.link.recorded))
    fate = client.link.recorded[0]
    assert isinstance(fate, Fate)
    assert (fate.outcome, fate.accepted, fate.inserted) == ("accepted", 11, "tal(values)")


async def test_a_session_that_ends_has_everything_recorded_before_the_engine_is_left(client: Client) -> None:
    await client.initialize()
    client.open()
    await client.items(2, 11)
    client.type(2, 2, 11, "sum(values)")
    await client.end()
    assert [type(signal) for signal in client.link.recorded] == [Fate, Survival]


async def test_a_store_that_hangs_does_not_hold_up_the_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_LAST_SECONDS", 0.05)
    await client.initialize()
    client.open()
    client.link.record_seconds = 60
    await client.items(2, 11)
    await client.end()
    assert client.link.recorded == []


async def test_a_store_in_trouble_is_one_warning_and_completions_go_on(client: Client) -> None:
    await client.initialize()
    client.link.trouble = "The disk is full."
    for number, trouble in enumerate(("The disk is full.", "The disk is full.", "")):
        client.link.trouble = trouble
        client.open(uri=f"untitled:{number}")
        assert await client.items(2, 11, uri=f"untitled:{number}")
        client.notify("textDocument/didClose", {"textDocument": {"uri": f"untitled:{number}"}})
        await until(lambda count=number: len(client.link.recorded) > count)  # type: ignore[misc]
    status = await client.command("habitab.status")
    assert (status["kind"], status["signals"]) == ("Normal", {"recorded": 3})
    assert [kind for kind, _ in client.statuses()].count("Warning") == 1


async def test_time_alone_tells_what_has_settled(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_TICK_SECONDS", 0.01)
    monkeypatch.setattr(edited, "QUIET_SECONDS", 0.05)
    await client.initialize()
    client.open()
    await client.items(2, 11)
    client.type(2, 2, 11, "max\n")
    await client.items(0, 3)
    await until(lambda: bool(client.link.recorded))
    assert isinstance(client.link.recorded[0], Fate)


@pytest.mark.parametrize("options", [{"recordSuggestions": False}, {"privateGlobs": ["*.py"]}])
async def test_what_is_switched_off_or_private_is_not_recorded(options: Any, tmp_path: Path) -> None:
    client = Client()
    await client.initialize({"recordTyping": True} | options)
    uri = (tmp_path / "a.py").as_uri()
    client.open(uri=uri)
    await client.items(2, 11, uri=uri)
    client.type(2, 2, 11, "sum(values)", uri)
    await client.end()
    assert client.link.recorded == []


async def test_an_engine_that_cannot_start_is_told_in_one_sentence() -> None:
    client = Client()
    client.link.fault = "The engine cannot start: free some memory."
    await client.initialize()
    await until(lambda: ("Error", False) in client.statuses())
    assert (await client.command("habitab.status"))["message"] == client.link.fault
    await client.end()


async def test_bad_settings_are_told_and_the_defaults_serve(client: Client) -> None:
    await client.initialize({"maxTokens": "many", "colour": 1})
    client.open()
    assert len(await client.items(2, 11)) == 1
    (warning,) = client.warnings()
    assert "maxTokens" in warning and "colour" in warning


async def test_a_broken_privacy_setting_serves_nothing_and_says_so(client: Client) -> None:
    await client.initialize({"habitab": {"privateGlobs": "*.sql"}})
    client.open()
    assert await client.items(2, 11, kind=INVOKED) == []
    assert client.link.asked == []
    assert client.statuses() == [("Error", False)]
    client.notify("workspace/didChangeConfiguration", {"settings": {"habitab": {"privateGlobs": ["*.sql"]}}})
    assert len(await client.items(2, 11)) == 1


async def test_settings_change_while_the_server_runs(client: Client) -> None:
    await client.initialize()
    client.open()
    client.notify("workspace/didChangeConfiguration", {"settings": {"habitab": {"enabled": False}}})
    assert await client.items(2, 11) == []
    # Another server's section says nothing about ours.
    client.notify("workspace/didChangeConfiguration", {"settings": {"pylsp": {}}})
    assert await client.items(2, 11) == []
    client.notify("workspace/didChangeConfiguration", {"settings": {"maxTokens": 5}})
    assert len(await client.items(2, 11)) == 1
    assert client.link.asked[0].max_tokens == 5


async def test_other_engine_settings_bring_another_engine(client: Client) -> None:
    await client.initialize({"engine": {"threads": 1}})
    client.open()
    assert client.link.settings.threads == 1
    old = client.link
    client.notify("workspace/didChangeConfiguration", {"settings": {"engine": {"kernel": "float32"}}})
    assert len(await client.items(2, 11)) == 1
    assert client.link.settings.kernel == "float32"
    await until(lambda: old.closed)
    assert old.asked == []


@pytest.mark.parametrize(
    "values, expected",
    [
        (None, None),
        ({}, None),
        ({"pylsp": {"x": 1}}, None),
        ({"habitab": {"a": 1}, "pylsp": {}}, {"a": 1}),
        ({"habitab": None}, None),
        ({"budgetMs": 1}, {"budgetMs": 1}),
    ],
)
def test_our_part_of_the_settings_is_found(values: object, expected: object) -> None:
    assert our_section(values) == expected


async def test_closed_deleted_and_renamed_documents_are_forgotten(client: Client) -> None:
    await client.initialize()
    for name in "abc":
        client.open(uri=f"file:///w/d/{name}.py")
    client.notify("textDocument/didClose", {"textDocument": {"uri": "file:///w/d/a.py"}})
    await until(lambda: client.link.forgotten == ["file:///w/d/a.py"])
    files = [{"oldUri": "file:///w/d/b.py", "newUri": "file:///w/d/e.py"}]
    client.notify("workspace/didRenameFiles", {"files": files})
    await until(lambda: client.link.forgotten[1:] == ["file:///w/d/b.py"])
    client.notify("workspace/didDeleteFiles", {"files": [{"uri": "file:///w/d"}]})
    await until(lambda: sorted(client.link.forgotten[2:]) == ["file:///w/d/b.py", "file:///w/d/c.py"])
    reply = await client.request(INLINE, where(2, 11, uri="file:///w/d/a.py"))
    assert reply["error"]["code"] == -32602


@pytest.mark.parametrize(
    "command, arguments, words",
    [
        ("list", [], ("list",)),
        ("rollback", [], ("rollback",)),
        ("export", ["v3", "/t/a.habitab"], ("export", "--", "v3", "/t/a.habitab")),
        ("export", [None, "/t/a.habitab"], ("export", "--", "/t/a.habitab")),
        ("export", ["--help", "/t/a"], ("export", "--", "--help", "/t/a")),
        ("import", ["/t/a.habitab"], ("import", "--", "/t/a.habitab")),
    ],
)
async def test_the_adapters_commands_are_those_of_the_command_line(
    client: Client, command: str, arguments: list[Any], words: tuple[str, ...]
) -> None:
    await client.initialize({"engine": {"base": "/t/base"}})
    assert await client.command(f"habitab.adapters.{command}", *arguments) == {}
    assert client.commands == [("/t/base", "adapters", *words)]
    assert client.link.looks == (command == "rollback")  # the engine serves it at once


@pytest.mark.parametrize(
    "command, arguments",
    [
        *(("export", wrong) for wrong in ([], ["v1"], [None, None], ["v1", "a.habitab"], ["v1", 3], ["v1", "/a", "x"])),
        *(("import", wrong) for wrong in ([], [None], ["a.habitab"], [{"path": "/a"}], ["~/a"])),
    ],
)
async def test_a_file_without_its_whole_path_is_refused(client: Client, command: str, arguments: list[Any]) -> None:
    await client.initialize()
    params = {"command": f"habitab.adapters.{command}", "arguments": arguments}
    reply = await client.request("workspace/executeCommand", params)
    assert (reply["error"]["code"], "whole path" in reply["error"]["message"]) == (-32602, True)
    assert client.commands == []


async def test_a_command_s_answer_is_its_json_or_its_sentence_and_completions_go_on_meanwhile(
    client: Client, tmp_path: Path
) -> None:
    client.errand = errand(Home(tmp_path / "h", "ann"), None)
    await client.initialize()
    client.open()
    params = {"command": "habitab.adapters.list"}
    reply = client.request("workspace/executeCommand", params)
    for _ in range(3):
        assert len(await client.items(2, 11)) == 1
    assert not reply.done()
    assert (await asyncio.wait_for(reply, 30))["result"] == {"active": None, "versions": []}
    (tmp_path / "a").write_text("not an adapter")
    for command, said in (
        ({"command": "habitab.adapters.rollback"}, "nothing to go back to"),
        ({"command": "habitab.adapters.export", "arguments": ["v7", str(tmp_path / "x")]}, "no version v7"),
        ({"command": "habitab.adapters.import", "arguments": [str(tmp_path / "a")]}, "(no zip)."),
    ):
        reply = client.request("workspace/executeCommand", command)
        error = (await asyncio.wait_for(reply, 60))["error"]
        assert said in error["message"] and "\n" not in error["message"]
        assert not error["message"].startswith("habitab:")


async def test_a_command_ends_with_the_request_that_wanted_it(tmp_path: Path) -> None:
    task = asyncio.create_task(errand(Home(tmp_path / "h", "ann"), None)("", "adapters", "list"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


MENU = "textDocument/completion"


async def test_the_menu_fallback_serves_clients_without_inline_completion(client: Client) -> None:
    found = await client.initialize({"completionFallback": True}, textDocument={"completion": {}})
    assert "completionProvider" in found["capabilities"]
    client.open(TEXT + "su")
    client.link.texts = ["m(values)\nx"]
    params = {"textDocument": {"uri": URI}, "position": {"line": 2, "character": 13}}
    (item,) = (await client.result(MENU, params))["items"]
    assert item["textEdit"] == {"range": span(2, 11, 13), "newText": "sum(values)\nx"}
    assert (item["label"], item["insertTextFormat"]) == ("sum(values)", 1)
    assert item["filterText"].startswith("su")
    client.notify("workspace/didChangeConfiguration", {"settings": {"completionFallback": False}})
    assert (await client.result(MENU, params))["items"] == []


@pytest.mark.parametrize(
    "options, capability",
    [({"completionFallback": True}, {"inlineCompletion": {}}), ({}, {"completion": {}})],
)
async def test_the_menu_fallback_is_off_with_inline_completion_or_without_the_setting(
    client: Client, options: Message, capability: Message
) -> None:
    found = await client.initialize(options, textDocument=capability)
    assert "completionProvider" not in found["capabilities"]
    params = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 0}}
    assert (await client.request(MENU, params))["error"]["code"] == -32601


@pytest.mark.parametrize("polite, code", [(True, 0), (False, 1)])
async def test_exit_ends_the_session_with_the_code_that_lsp_names(polite: bool, code: int) -> None:
    client = Client()
    await client.initialize()
    if polite:
        assert await client.result("shutdown") is None
    client.notify("exit", None)
    await asyncio.wait_for(client.session, 5)
    assert client.server.exit_code == code


async def test_the_end_of_input_cancels_what_runs_and_leaves_the_engine(client: Client) -> None:
    await client.initialize()
    client.open()
    client.link.seconds = 60
    client.request(INLINE, where(2, 11))
    await until(lambda: len(client.link.asked) == 1)
    await client.end()
    assert client.link.cancelled == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
async def test_only_this_machine_is_listened_on(host: str) -> None:
    with pytest.raises(ServeError, match=r"127\.0\.0\.1"):
        await stdio.listen(host, 0, lambda reader, writer: None)


@pytest.mark.parametrize("port", [-1, 70_000])
async def test_a_port_that_cannot_be_is_one_sentence(port: int) -> None:
    with pytest.raises(ServeError, match=f"Port {port} .* choose another"):
        await stdio.listen("127.0.0.1", port, lambda reader, writer: None)


async def test_a_port_in_use_is_one_sentence() -> None:
    taken = await stdio.listen("127.0.0.1", 0, lambda reader, writer: None)
    port = taken.sockets[0].getsockname()[1]
    with pytest.raises(ServeError, match=f"Port {port} .* choose another"):
        await stdio.listen("127.0.0.1", port, lambda reader, writer: None)
    taken.close()
    await taken.wait_closed()
