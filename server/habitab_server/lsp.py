"""The language server: each handler is a decorator and a delegation; `serve` is the way in."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInternalError, JsonRpcInvalidParams
from pygls.io_ import run_async
from pygls.lsp.server import LanguageServer

from habitab_engine import __version__
from habitab_engine.config import EngineSettings
from habitab_engine.errors import HabitabError, PositionError
from habitab_engine.home import Home
from habitab_engine.link import EngineLink
from habitab_server import stdio, wire
from habitab_server.completer import Ask, Link, Offer
from habitab_server.documents import Document, Place
from habitab_server.errands import Errand, errand
from habitab_server.front import Front, Status, our_section

if TYPE_CHECKING:
    import psutil  # type: ignore[import-untyped]

ALTERNATIVES = 3
_PARENT_SECONDS = 2.0
_FILES = lsp.FileOperationRegistrationOptions(
    [lsp.FileOperationFilter(lsp.FileOperationPattern("**/*"), scheme="file")]
)
_log = logging.getLogger("habitab.lsp")


class HabitabServer(LanguageServer):
    """One editor's server: turns LSP into calls of `Front` and back."""

    def __init__(self, make_link: Callable[[EngineSettings], Link], run: Errand, token: str = "") -> None:
        super().__init__("habitab", __version__, protocol_cls=wire.Protocol)
        self.ready = False
        self.exit_code = 0
        # Set when this session is over: exit, a refused token, a dead parent, an output nobody reads.
        self.gone = asyncio.Event()
        self._run = run
        self._token = token
        self.front = Front(make_link, self._tell, self._warn)
        _register(self)

    def report_server_error(self, error: Exception, source: Any) -> None:
        """One line in the log; never the message, which may hold the person's code."""
        _log.warning("A message could not be handled (%s, %s).", type(error).__name__, source.__name__)

    def did_initialize(self, params: lsp.InitializeParams) -> None:
        """Take the settings; raises JsonRpcInvalidParams where the token is wrong."""
        options = params.initialization_options
        options = dict(options) if isinstance(options, dict) else options
        token = options.pop("token", "") if isinstance(options, dict) else ""
        if self._token and not hmac.compare_digest(str(token).encode(), self._token.encode()):
            asyncio.get_running_loop().call_soon(self.gone.set)
            raise JsonRpcInvalidParams("The token in `initializationOptions.token` is not the one printed.")
        section = our_section(options)
        self.front.configure(options if section is None else section)
        self.set_folders()
        self.ready = True
        if _wants_fallback(params, self.front.settings.completion_fallback):
            self.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions())(_complete_in_menu)

    def set_folders(self) -> None:
        workspace = self.workspace
        self.front.set_folders([*workspace.folders] or [uri for uri in [workspace.root_uri] if uri])

    def did_open(self, params: lsp.DidOpenTextDocumentParams) -> None:
        item = params.text_document
        encoding = str(getattr(self.workspace.position_encoding, "value", self.workspace.position_encoding))
        document = Document(item.uri, str(item.language_id), item.version, item.text, encoding)
        self.front.open_document(document)

    def did_change(self, params: lsp.DidChangeTextDocumentParams) -> None:
        document = self._document(params.text_document.uri)
        for change in params.content_changes:
            span = getattr(change, "range", None)
            edit = document.change(params.text_document.version, change.text, _span(span) if span else None)
            self.front.edited(document, edit)
        self.front.changed(document)

    def did_close(self, params: lsp.DidCloseTextDocumentParams) -> None:
        self.front.close_document(params.text_document.uri)

    def forget_file(self, uri: str) -> None:
        """A file or a folder was deleted or renamed; its text stays until the editor closes it."""
        for document in self.front.documents.under(uri):
            self.front.forget(document.uri)

    def ask(self, params: lsp.InlineCompletionParams) -> Ask:
        """What an inline request asks for. Raises JsonRpcInvalidParams for a place that does not exist."""
        automatic = params.context.trigger_kind != lsp.InlineCompletionTriggerKind.Invoked
        count = 1 if automatic else ALTERNATIVES
        info = params.context.selected_completion_info
        if info is None:
            document, place = self._place(params.text_document.uri, params.position)
            return Ask(document, document.snapshot(place), place, count=count, automatic=automatic)
        document, start = self._place(params.text_document.uri, info.range.start)
        end = self._place(params.text_document.uri, info.range.end)[1]
        snapshot = document.snapshot(start, end)
        return Ask(document, snapshot, end, must_start=info.text, count=count, automatic=automatic)

    def ask_in_menu(self, params: lsp.CompletionParams) -> Ask:
        document, place = self._place(params.text_document.uri, params.position)
        return Ask(document, document.snapshot(place), place)

    def range_of(self, document: Document, start: Place, end: Place) -> lsp.Range:
        return lsp.Range(*(lsp.Position(place.line, document.units(place)) for place in (start, end)))

    async def adapters(self, *words: str) -> dict[str, Any]:
        """The JSON of `habitab adapters …`. Raises JsonRpcInternalError with its sentence."""
        try:
            return await self._run(self.front.settings.engine.base, "adapters", *words)
        except HabitabError as exc:
            raise JsonRpcInternalError(str(exc)) from exc

    async def finish(self) -> None:
        self.ready = False
        await self.front.close()

    def _document(self, uri: str) -> Document:
        document = self.front.documents.get(uri)
        if document is None:
            raise JsonRpcInvalidParams(f"The document {uri} is not open.")
        return document

    def _place(self, uri: str, position: lsp.Position) -> tuple[Document, Place]:
        document = self._document(uri)
        try:
            return document, document.place(position.line, position.character)
        except PositionError as exc:
            raise JsonRpcInvalidParams(str(exc)) from exc

    def _tell(self, status: Status) -> None:
        message = {"kind": status.kind, "busy": status.busy, "message": status.message}
        self.protocol.notify(wire.STATUS_CHANGED, message)

    def _warn(self, message: str) -> None:
        self.window_show_message(lsp.ShowMessageParams(lsp.MessageType.Warning, f"habitab: {message}"))


def _register(server: HabitabServer) -> None:
    """Put every handler of this module into `server`."""
    server.feature(lsp.INITIALIZE)(_initialize)
    server.feature(lsp.INITIALIZED)(_initialized)
    server.feature(lsp.TEXT_DOCUMENT_INLINE_COMPLETION, lsp.InlineCompletionOptions())(_complete_inline)
    server.feature(lsp.WORKSPACE_DID_CHANGE_CONFIGURATION)(_change_configuration)
    server.feature(lsp.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)(_change_folders)
    server.feature(lsp.WORKSPACE_DID_DELETE_FILES, _FILES)(_delete_files)
    server.feature(lsp.WORKSPACE_DID_RENAME_FILES, _FILES)(_rename_files)
    server.feature(lsp.TEXT_DOCUMENT_DID_SAVE, lsp.SaveOptions(include_text=False))(_save)
    server.feature(wire.FEEDBACK_SHOWN)(_show)
    server.feature(wire.FEEDBACK_PARTLY)(_accept_partly)
    server.feature(wire.FEEDBACK_DISMISSED)(_dismiss)
    for name, handler in _COMMANDS.items():
        server.command(name)(handler)


def _initialize(ls: HabitabServer, params: lsp.InitializeParams) -> None:
    ls.did_initialize(params)


def _initialized(ls: HabitabServer, _: lsp.InitializedParams) -> None:
    ls.front.start()


async def _complete_inline(ls: HabitabServer, params: lsp.InlineCompletionParams) -> list[lsp.InlineCompletionItem]:
    ask = ls.ask(params)
    offers = await ls.front.completer.complete(ask)
    return [_inline_item(ls, ask, offer) for offer in offers]


async def _complete_in_menu(ls: HabitabServer, params: lsp.CompletionParams) -> lsp.CompletionList:
    if not ls.front.settings.completion_fallback:
        return lsp.CompletionList(is_incomplete=False, items=[])
    ask = ls.ask_in_menu(params)
    offers = await ls.front.completer.complete(ask)
    return lsp.CompletionList(is_incomplete=True, items=[_menu_item(ls, ask, offer) for offer in offers])


def _change_configuration(ls: HabitabServer, params: lsp.DidChangeConfigurationParams) -> None:
    section = our_section(params.settings)
    if section is not None:
        ls.front.configure(section)


def _change_folders(ls: HabitabServer, _: lsp.DidChangeWorkspaceFoldersParams) -> None:
    ls.set_folders()


def _delete_files(ls: HabitabServer, params: lsp.DeleteFilesParams) -> None:
    for file in params.files:
        ls.forget_file(file.uri)


def _rename_files(ls: HabitabServer, params: lsp.RenameFilesParams) -> None:
    for file in params.files:
        ls.forget_file(file.old_uri)


def _save(ls: HabitabServer, params: lsp.DidSaveTextDocumentParams) -> None:
    ls.front.save_document(params.text_document.uri)


def _show(ls: HabitabServer, params: dict[str, Any]) -> None:
    ls.front.feedback.shown(_item_id(params.get("item")))


def _accept_partly(ls: HabitabServer, params: dict[str, Any]) -> None:
    length = params.get("acceptedLength")
    ls.front.completer.partly_accepted()
    ls.front.feedback.partly(_item_id(params.get("item")), length if isinstance(length, int) else 0)


def _dismiss(ls: HabitabServer, params: dict[str, Any]) -> None:
    identity, reason = _item_id(params.get("item")), str(params.get("reason"))
    ls.front.feedback.dismissed(identity, reason)
    if reason == "rejected":
        ls.front.completer.rejected(identity)


def _accept(ls: HabitabServer, *arguments: Any) -> None:
    identity = str(arguments[0]) if arguments else ""
    ls.front.feedback.accepted(identity)
    ls.front.completer.accepted(identity)


async def _status(ls: HabitabServer, *_: Any) -> dict[str, Any]:
    return await ls.front.describe()


def _pause(ls: HabitabServer, *_: Any) -> None:
    ls.front.pause(True)


def _resume(ls: HabitabServer, *_: Any) -> None:
    ls.front.pause(False)


async def _adapters_list(ls: HabitabServer, *_: Any) -> dict[str, Any]:
    return await ls.adapters("list")


async def _adapters_rollback(ls: HabitabServer, *_: Any) -> dict[str, Any]:
    found = await ls.adapters("rollback")
    await ls.front.look_at_adapter()
    return found


async def _adapters_export(ls: HabitabServer, *arguments: Any) -> dict[str, Any]:
    version, path = arguments if len(arguments) == 2 else (None, None)
    words = [version] if isinstance(version, str) else []
    return await ls.adapters("export", "--", *words, _absolute(path))


async def _adapters_import(ls: HabitabServer, *arguments: Any) -> dict[str, Any]:
    return await ls.adapters("import", "--", _absolute(*arguments[:1]))


_COMMANDS: dict[str, Callable[..., Any]] = {
    "habitab.accept": _accept,
    "habitab.status": _status,
    "habitab.pause": _pause,
    "habitab.resume": _resume,
    "habitab.adapters.list": _adapters_list,
    "habitab.adapters.export": _adapters_export,
    "habitab.adapters.import": _adapters_import,
    "habitab.adapters.rollback": _adapters_rollback,
}


def _accept_command(identity: str) -> lsp.Command:
    return lsp.Command(title="Accept", command="habitab.accept", arguments=[identity])


def _inline_item(ls: HabitabServer, ask: Ask, offer: Offer) -> lsp.InlineCompletionItem:
    return lsp.InlineCompletionItem(
        insert_text=ask.document.insertable(offer.text),
        range=ls.range_of(ask.document, offer.start, offer.end),
        command=_accept_command(offer.id),
    )


def _menu_item(ls: HabitabServer, ask: Ask, offer: Offer) -> lsp.CompletionItem:
    """The item covers the word before the cursor, because menus filter by that word."""
    word = _word_before(ask.snapshot.prefix)
    start = Place(offer.start.line, offer.start.column - len(word))
    text = word + offer.text
    return lsp.CompletionItem(
        label=text.strip().partition("\n")[0],
        kind=lsp.CompletionItemKind.Text,
        detail="habitab",
        filter_text=text,
        insert_text_format=lsp.InsertTextFormat.PlainText,
        text_edit=lsp.TextEdit(ls.range_of(ask.document, start, offer.end), ask.document.insertable(text)),
        command=_accept_command(offer.id),
    )


def _word_before(prefix: str) -> str:
    line = prefix.rpartition("\n")[2]
    kept = len(line)
    while kept and (line[kept - 1].isalnum() or line[kept - 1] == "_"):
        kept -= 1
    return line[kept:]


def _item_id(item: Any) -> str:
    """The id in an item's accept command, or "" for whatever else a client sends."""
    command = item.get("command") if isinstance(item, dict) else None
    arguments = command.get("arguments") if isinstance(command, dict) else None
    return str(arguments[0]) if isinstance(arguments, list) and arguments else ""


def _absolute(path: object = None) -> str:
    """`path`, as long as it does not depend on the folder the server runs in; raises JsonRpcInvalidParams."""
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise JsonRpcInvalidParams("The command wants the whole path of a file.")
    return path


def _span(span: lsp.Range) -> tuple[int, int, int, int]:
    return span.start.line, span.start.character, span.end.line, span.end.character


def _wants_fallback(params: lsp.InitializeParams, switched_on: bool) -> bool:
    text_document = params.capabilities.text_document
    return switched_on and (text_document is None or text_document.inline_completion is None)


def serve(home: Home, base: Path | None, tcp: tuple[str, int] | None) -> None:
    """Serve editors until they are done: one over stdio, or any number over TCP on this machine.

    `base` names another base model for all of them. Raises ServeError if the port cannot be used,
    SystemExit(1) if an editor ends the server without asking it to shut down first.
    """
    # pygls logs whole messages, which hold the person's code and the token.
    logging.getLogger("pygls").setLevel(logging.CRITICAL + 1)

    def make_link(settings: EngineSettings) -> Link:
        return EngineLink(home, replace(settings, base=str(base)) if base else settings)

    def make_server(token: str = "") -> HabitabServer:
        return HabitabServer(make_link, errand(home, base), token)

    try:
        if tcp is not None:
            asyncio.run(_serve_tcp(make_server, *tcp))
        elif code := asyncio.run(_serve_stdio(make_server, stdio.claim_stdout())):
            raise SystemExit(code)
    except KeyboardInterrupt:
        return


async def _serve_stdio(make_server: Callable[[], HabitabServer], out: BinaryIO) -> int:
    server = make_server()
    watch = asyncio.create_task(_watch_parent(server))
    try:
        await _session(server, stdio.stdin_reader(), stdio.Writer(out, server.gone.set))
    finally:
        watch.cancel()
    return server.exit_code


async def _serve_tcp(make_server: Callable[[str], HabitabServer], host: str, port: int) -> None:
    token = secrets.token_urlsafe(24)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _session(make_server(token), stdio.Reader(reader), writer)
        finally:
            writer.close()

    listener = await stdio.listen(host, port, connected)
    address = listener.sockets[0].getsockname()
    print(f"habitab listens on {address[0]}:{address[1]}, token {token}", file=sys.stderr, flush=True)
    async with listener:
        await listener.serve_forever()


async def _session(server: HabitabServer, reader: stdio.Reader, writer: Any) -> None:
    """One client from its first byte to its last."""
    server.protocol.set_writer(writer)
    messages = asyncio.create_task(
        run_async(
            stop_event=threading.Event(),
            reader=reader,
            protocol=server.protocol,
            error_handler=server.report_server_error,
        )
    )
    gone = asyncio.create_task(server.gone.wait())
    try:
        await asyncio.wait({messages, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (messages, gone):
            task.cancel()
        await asyncio.gather(messages, gone, return_exceptions=True)
        await server.finish()


async def _watch_parent(server: HabitabServer) -> None:
    """End the session when the editor named in `initialize` is no more, even if its pipe stays open."""
    while not server.process_id:
        await asyncio.sleep(_PARENT_SECONDS)
    import psutil

    try:
        parent = psutil.Process(server.process_id)
    except psutil.Error:
        # The editor counts its processes elsewhere (a container): the end of its pipe has to do.
        return
    while _alive(parent):
        await asyncio.sleep(_PARENT_SECONDS)
    server.gone.set()


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
