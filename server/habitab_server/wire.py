"""pygls, made to fit: our own documents, an answer to every bad request, and no line of code in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcException, JsonRpcServerNotInitialized
from pygls.protocol import LanguageServerProtocol
from pygls.protocol.language_server import lsp_method

if TYPE_CHECKING:
    from habitab_server.lsp import HabitabServer


@attrs.define
class FeedbackNotification:
    """What an editor says about a suggestion; `params` stays plain JSON."""

    method: str
    params: dict[str, Any]
    jsonrpc: str = "2.0"


FEEDBACK_SHOWN = "textDocument/didShowCompletion"
FEEDBACK_PARTLY = "textDocument/didPartiallyAcceptCompletion"
FEEDBACK_DISMISSED = "habitab/didDismissCompletion"
STATUS_CHANGED = "habitab/didChangeStatus"
_FEEDBACK = (FEEDBACK_SHOWN, FEEDBACK_PARTLY, FEEDBACK_DISMISSED)


class Protocol(LanguageServerProtocol):
    """The language server protocol over our `Documents`.

    pygls' own documents copy the whole text at every key and break lines where LSP does not (form feeds), so
    the three notifications go to the server's handlers alone.
    """

    _server: HabitabServer

    def get_message_type(self, method: str) -> type[Any] | None:  # type: ignore[override]
        return FeedbackNotification if method in _FEEDBACK else super().get_message_type(method)

    def structure_message(self, data: dict[str, Any]) -> Any:
        """As in pygls, but a request whose parameters have wrong types is answered."""
        try:
            return super().structure_message(data)
        except JsonRpcException as exc:
            if "method" in data and isinstance(data.get("id"), (int, str)):
                self._send_response(data["id"], error=exc.to_response_error())
            raise

    def handle_message(self, message: Any) -> None:
        """Refuse everything before `initialize` has succeeded, as LSP demands."""
        method = getattr(message, "method", "")
        if self._server.ready or method in (lsp.INITIALIZE, lsp.EXIT) or not method:
            super().handle_message(message)
        elif hasattr(message, "id"):
            error = JsonRpcServerNotInitialized("The first request must be `initialize`.")
            self._send_response(message.id, error=error.to_response_error())

    @lsp_method(lsp.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: lsp.DidOpenTextDocumentParams) -> None:
        self._server.did_open(params)

    @lsp_method(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: lsp.DidChangeTextDocumentParams) -> None:
        self._server.did_change(params)

    @lsp_method(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: lsp.DidCloseTextDocumentParams) -> None:
        self._server.did_close(params)

    @lsp_method(lsp.EXIT)
    def lsp_exit(self, *_: Any) -> None:  # type: ignore[override]
        """End this client's session; pygls would end the process from within a callback."""
        self._server.exit_code = 0 if self._shutdown else 1
        self._server.gone.set()
