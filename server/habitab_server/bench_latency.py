"""Keystroke to reply: a client types real code into the real server over stdio.

Every key waits for its reply, so that no slow reply is left out of the percentiles, and then for the rest of a
person's pause. A reply is of one of four kinds: empty; typed through (it goes on with the suggestion that the key
agreed with); after an accept; or from the model. Only the last kind counts for p50, p95 and p99.

The folder of the files is open as a workspace, so context and memory are at work; a file counts without the lines
that are typed again, as its editor says.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import LanguageClient

from habitab_adapters.handwork import is_typed
from habitab_engine.config import EngineSettings
from habitab_engine.errors import EngineError, InputError
from habitab_engine.home import Home
from habitab_engine.link import EngineLink
from habitab_engine.types import CompletionRequest
from habitab_server import bench_indexing, bench_recording
from habitab_server.bench import median, quantile

# From the list of histories that the base's corpus leaves out.
PACKAGES = ("datasette", "llm", "structlog", "cattrs", "jedi-language-server", "huey")
SUFFIXES = (".py", ".ts", ".js", ".go", ".rs", ".java", ".c")
LANGUAGES = {".py": "python", ".ts": "typescript", ".js": "javascript", ".rs": "rust"}
PAUSE_SECONDS = (0.06, 0.16)
SEEN_SECONDS = 1.0  # until the engine knows a document as its editor has it
ACCEPT_EVERY = 5  # of the model's suggestions of this many characters, the person takes every fifth
ACCEPT_CHARACTERS = 4
CANCELS = 40
COMPLETIONS = 1_000  # behind each other, for the memory that they leave
EARLY = 100  # completions after which memory should not grow any more
LONGEST_WAIT = 60.0


def unseen_packages(folder: Path) -> Path:
    """Download the packages once and unpack their wheels; nothing of them is run. Raises InputError offline."""
    if not any(folder.rglob("*.py")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", str(folder), *PACKAGES], capture_output=True, check=False)
        if done.returncode:
            raise InputError("The packages to type could not be downloaded: name a folder of source code with --path.")
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder / wheel.name.split("-")[0])
    return folder


def source_files(folder: Path) -> list[Path]:
    """Source files that people type in, in a fixed order. Raises InputError where there is none."""
    fitting = [p for p in sorted(folder.rglob("*")) if p.suffix in SUFFIXES and 4_000 < p.stat().st_size < 200_000]
    files = [p for p in fitting if is_typed(p.relative_to(folder).as_posix())]
    if not files:
        raise InputError(f"{folder} holds no source file of 4 to 200 kB: name another folder with --path.")
    return files


@dataclass(slots=True)
class Replies:
    """Milliseconds by kind of reply, and the characters of the model's suggestions."""

    model: list[float] = field(default_factory=list)
    typed_through: list[float] = field(default_factory=list)
    after_accept: list[float] = field(default_factory=list)
    empty: list[float] = field(default_factory=list)
    cancel: list[float] = field(default_factory=list)
    free: list[float] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)  # at the start, after `EARLY` and after all completions
    keystrokes: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A file with some lines taken out, which are typed again."""

    uri: str
    language: str
    before: str
    typed: str
    after: str
    file: str = ""


# What every base completes, so that the first reply has text.
OBVIOUS = Place(
    "file:///bench/vector.py",
    "python",
    "class Vector:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n\n"
    "    def __add__(self, other):\n        return Vector(self.x + other.x, self.y + other.y)\n\n"
    "    def __sub__(self, other):\n        ret",
    "urn",
    "\n",
)


def places(files: list[Path], rng: random.Random) -> Iterator[Place]:
    """Endless: two to four lines of code in the second half of a file."""
    while True:
        path = rng.choice(files)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        first = rng.randrange(len(lines) // 3, max(len(lines) - 6, len(lines) // 3 + 1))
        typed = "".join(lines[first : first + rng.randrange(2, 5)]).rstrip()
        if 30 <= len(typed.strip()) <= 200 and "\n\n" not in typed:
            before, after = "".join(lines[:first]), "".join(lines[first:])[len(typed) :]
            yield Place(path.as_uri(), LANGUAGES.get(path.suffix, path.suffix[1:]), before, typed, after, str(path))


class Typist:
    """One document in the server, as its editor sees it."""

    def __init__(self, client: LanguageClient, place: Place) -> None:
        self.client, self.place = client, place
        self.text, self.version = place.before, 1
        item = lsp.TextDocumentItem(place.uri, place.language, 1, place.before + place.after)
        client.text_document_did_open(lsp.DidOpenTextDocumentParams(item))

    def insert(self, text: str) -> None:
        at = self.position()
        self.text, self.version = self.text + text, self.version + 1
        document = lsp.VersionedTextDocumentIdentifier(self.version, self.place.uri)
        change = lsp.TextDocumentContentChangePartial(lsp.Range(at, at), text)
        self.client.text_document_did_change(lsp.DidChangeTextDocumentParams(document, [change]))

    def position(self) -> lsp.Position:
        line = self.text.count("\n")
        last = self.text.rpartition("\n")[2]
        return lsp.Position(line, len(last.encode("utf-16-le")) // 2)

    def question(self) -> lsp.InlineCompletionParams:
        context = lsp.InlineCompletionContext(lsp.InlineCompletionTriggerKind.Automatic)
        return lsp.InlineCompletionParams(context, lsp.TextDocumentIdentifier(self.place.uri), self.position())

    async def ask(self) -> tuple[str, str]:
        """The suggestion's text and its id, both empty where there is none."""
        reply = await asyncio.wait_for(self.client.text_document_inline_completion_async(self.question()), LONGEST_WAIT)
        items = reply.items if isinstance(reply, lsp.InlineCompletionList) else reply or []
        if not items:
            return "", ""
        command = items[0].command
        return str(items[0].insert_text), str(((command and command.arguments) or [""])[0])

    def close(self) -> None:
        document = lsp.TextDocumentIdentifier(self.place.uri)
        self.client.text_document_did_close(lsp.DidCloseTextDocumentParams(document))


async def measure(folder: Path, base: Path | None, keystrokes: int) -> dict[str, Any]:
    """Type in a folder's files, in a home of the bench's own: the engine is cold, and nobody's is disturbed."""
    folder = folder.resolve()
    files = source_files(folder)
    with tempfile.TemporaryDirectory(prefix="habitab-bench-") as own:
        home = Home.locate(own)
        started = time.perf_counter()
        client = LanguageClient("habitab-bench", "1")
        options = ["--base", str(base)] if base else []
        await client.start_io(sys.executable, "-m", "habitab_server", "--home", own, *options, "serve")
        link = EngineLink(home, EngineSettings(base=str(base) if base else ""))
        try:
            first = await _start(client, started)
            workspace = await bench_indexing.measure(link, lambda: _open_folder(client, folder))
            return first | await _measure(client, link, folder, files, keystrokes) | workspace
        finally:
            await client.shutdown_async(None)
            client.exit(None)
            await link.shutdown()
            await link.close()
            await client.stop()


async def _start(client: LanguageClient, started: float) -> dict[str, Any]:
    """Milliseconds to the answer to `initialize`, and to the first completion."""
    capabilities = lsp.ClientCapabilities(
        workspace=lsp.WorkspaceClientCapabilities(workspace_folders=True),
        text_document=lsp.TextDocumentClientCapabilities(inline_completion=lsp.InlineCompletionClientCapabilities()),
    )
    await client.initialize_async(lsp.InitializeParams(capabilities, process_id=os.getpid()))
    initialised = _ms(started)
    client.initialized(lsp.InitializedParams())
    return {"initialize_ms": round(initialised, 1), "cold_ms": round(await _first_text(client, started), 1)}


def _open_folder(client: LanguageClient, folder: Path) -> None:
    change = lsp.WorkspaceFoldersChangeEvent([lsp.WorkspaceFolder(folder.resolve().as_uri(), folder.name)], [])
    client.workspace_did_change_workspace_folders(lsp.DidChangeWorkspaceFoldersParams(change))


async def _measure(
    client: LanguageClient, link: EngineLink, folder: Path, files: list[Path], keystrokes: int
) -> dict[str, Any]:
    rng, replies = random.Random(0), Replies()
    spots = places(files, rng)
    while replies.keystrokes < keystrokes:
        await _type(Typist(client, next(spots)), link, replies, rng)
    await _endure(link, _requests(spots, folder), replies)
    await _cancel(client, spots, link, replies)
    recording = await bench_recording.measure(link, _requests(spots, folder))
    spent = {f"{name}_p95_ms": round(p95, 2) for name, p95 in (await link.status())["p95_ms"].items()}
    return _result(replies, _front_mb(client)) | spent | recording


async def _first_text(client: LanguageClient, started: float) -> float:
    """Milliseconds from the server's start to the first reply, its engine started on the way."""
    typist = Typist(client, OBVIOUS)
    text, _ = await typist.ask()
    typist.close()
    if not text:
        raise EngineError("The engine gave no completion for an easy line: run `habitab doctor`.")
    return _ms(started)


async def _type(typist: Typist, link: EngineLink, replies: Replies, rng: random.Random) -> None:
    """Type one place; the first reply (nothing is cached yet) is not counted."""
    await asyncio.sleep(SEEN_SECONDS)
    ghost, _ = await typist.ask()
    before = await _totals(link)
    left = typist.place.typed
    while left:
        key, kind = left[0], _kind(ghost, left[0])
        sent = time.perf_counter()
        typist.insert(key)
        text, identity = await typist.ask()
        spent = _ms(sent)
        left, replies.keystrokes = left[1:], replies.keystrokes + 1
        if not text:
            kind = "empty"
        elif kind == "model":
            replies.characters.append(len(text))
        getattr(replies, kind).append(spent)
        ghost = text
        if left.startswith(text) and len(text) >= ACCEPT_CHARACTERS and rng.randrange(ACCEPT_EVERY) == 0:
            left = await _accept(typist, text, identity, left, replies)
            ghost = ""
        await asyncio.sleep(max(0.0, rng.uniform(*PAUSE_SECONDS) - spent / 1000))
    after = await _totals(link)
    asked = after["prompt_tokens"] - before["prompt_tokens"]
    if asked:
        replies.shares.append((after["reused_tokens"] - before["reused_tokens"]) / asked)
        replies.tokens.append((after["tokens"] - before["tokens"]) / (after["completions"] - before["completions"]))
    typist.close()


def _kind(ghost: str, key: str) -> str:
    return "typed_through" if len(ghost) > 1 and ghost.startswith(key) else "model"


async def _accept(typist: Typist, text: str, identity: str, left: str, replies: Replies) -> str:
    """Tab: the text arrives, then the item's command, then (as in VS Code) the next request."""
    typist.insert(text)
    typist.client.workspace_execute_command(lsp.ExecuteCommandParams("habitab.accept", [identity]))
    await asyncio.sleep(0.05)
    sent = time.perf_counter()
    following, _ = await typist.ask()
    if following:
        replies.after_accept.append(_ms(sent))
    return left[len(text) :]


async def _endure(link: EngineLink, requests: Iterator[CompletionRequest], replies: Replies) -> None:
    """Complete one after the other, as fast as the engine can, and look at its memory now and then."""
    for number, request in enumerate(requests):
        if number in (0, EARLY, COMPLETIONS):
            replies.rss.append((await link.status())["rss_bytes"] / 1e6)
        if number == COMPLETIONS:
            return
        await link.complete(request)


def _requests(spots: Iterator[Place], folder: Path) -> Iterator[CompletionRequest]:
    """At one place after another, a character further on each time."""
    for place in spots:
        path, root = Path(place.file).relative_to(folder), str(folder)
        for end in range(len(place.typed)):
            prefix = place.before + place.typed[:end]
            yield CompletionRequest(
                document=place.uri,
                path=path.as_posix(),
                prefix=prefix,
                suffix=place.after,
                length=len(prefix + place.after),
                language=place.language,
                root=root,
                file=place.file,
            )


async def _cancel(client: LanguageClient, spots: Iterator[Place], link: EngineLink, replies: Replies) -> None:
    """Cancel requests in flight: how fast they are answered, and how fast the engine is free again."""
    probe = CompletionRequest(document="bench:probe", path="probe.py", prefix="import os\nimport sys\n", suffix="\n")
    await link.prefill(probe)
    for number in range(CANCELS):
        typist = Typist(client, next(spots))
        identity = f"cancel-{number}"
        reply = client.protocol.send_request_async(lsp.TEXT_DOCUMENT_INLINE_COMPLETION, typist.question(), identity)
        waiting = asyncio.ensure_future(reply)
        await asyncio.sleep(random.Random(number).uniform(0.02, 0.2))
        if not waiting.done():
            sent = time.perf_counter()
            client.protocol.notify("$/cancelRequest", lsp.CancelParams(identity))
            free = asyncio.ensure_future(_time_prefill(link, probe, sent))
            try:
                await waiting
            except JsonRpcException:
                replies.cancel.append(_ms(sent))
            replies.free.append(await free)
        typist.close()


async def _time_prefill(link: EngineLink, probe: CompletionRequest, sent: float) -> float:
    """A warm prefill computes nothing, so its reply says when the engine was free."""
    await link.prefill(probe)
    return _ms(sent)


async def _totals(link: EngineLink) -> dict[str, int]:
    status = await link.status()
    if "totals" not in status:
        raise EngineError(str(status.get("error", "The engine does not answer: run `habitab doctor`.")))
    return {"completions": 0, "prompt_tokens": 0, "reused_tokens": 0, "tokens": 0} | status["totals"]


def _front_mb(client: LanguageClient) -> float:
    server = client._server
    return psutil.Process(server.pid).memory_info().rss / 1e6 if server else float("nan")


def _ms(since: float) -> float:
    return (time.perf_counter() - since) * 1000


def _result(replies: Replies, front_mb: float) -> dict[str, Any]:
    exact = {
        "p50_ms": quantile(replies.model, 0.5),
        "p95_ms": quantile(replies.model, 0.95),
        "p99_ms": quantile(replies.model, 0.99),
        "typed_through_p95_ms": quantile(replies.typed_through, 0.95),
        "after_accept_p50_ms": quantile(replies.after_accept, 0.5),
        "empty_p50_ms": quantile(replies.empty, 0.5),
        "cancel_p95_ms": quantile(replies.cancel, 0.95),
        "free_p95_ms": quantile(replies.free, 0.95),
        "reused_share": median(replies.shares),
        "tokens_mean": sum(replies.tokens) / len(replies.tokens) if replies.tokens else float("nan"),
        "characters_p50": median(replies.characters),
        "rss_mb": replies.rss[-1],
        "rss_early_mb": replies.rss[1],
        "rss_first_mb": replies.rss[0],
        "front_rss_mb": front_mb,
    }
    counts = {
        "keystrokes": replies.keystrokes,
        "model_replies": len(replies.model),
        "typed_through_replies": len(replies.typed_through),
        "after_accept_replies": len(replies.after_accept),
        "empty_replies": len(replies.empty),
        "cancels": len(replies.cancel),
    }
    # JSON knows no NaN: where nothing was measured stands null.
    return counts | {name: None if math.isnan(value) else round(value, 3) for name, value in exact.items()}
