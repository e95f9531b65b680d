"""A checked-out folder and the documents that a person has open in it, as an engine or an index is told of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from habitab_adapters.handwork import as_text
from habitab_adapters.repository import Checkout, Commit
from habitab_engine.errors import EngineError
from habitab_engine.types import CompletionRequest, Folder, OpenText, Snippet
from habitab_engine.workspaces import Workspaces

SETTLE_SECONDS = 600.0
OPEN_DOCUMENTS = 6  # that a person keeps open, the last ones typed in


class Observing(Protocol):
    """What is told of files and documents: an engine, or the index alone (`Shelves`)."""

    def open_folder(self, folder: Folder) -> None: ...

    def observe(self, text: OpenText) -> None: ...

    def refresh(self, root: str, paths: Iterable[Path]) -> None: ...

    def settle(self, timeout: float) -> bool: ...

    def forget(self, document: str) -> None: ...


class Workbench:
    """`looks_around` says whether anything outside of a document matters to who is told."""

    def __init__(self, told: Observing, checkout: Checkout, looks_around: bool = True) -> None:
        self.root = checkout.folder
        self._told, self._looks_around, self._checkout = told, looks_around, checkout
        self._open: OrderedDict[str, str] = OrderedDict()
        self._commit = ""

    def go_to(self, commit: Commit) -> None:
        """Bring the files, the index and the open documents to what they were before `commit`."""
        if not self._looks_around or commit.id == self._commit:
            return
        changed = self._checkout.move_to(commit.parent)
        if not self._commit:
            self._told.open_folder(Folder(str(self.root)))
        self._told.refresh(str(self.root), [self.root / path for path in changed])
        self._commit = commit.id
        for path, known in list(self._open.items()):
            self._follow(path, known)

    def _follow(self, path: str, known: str) -> None:
        """An open document changes with its file, and is closed with it."""
        file = self.root / path
        text = as_text(file.read_bytes()) if file.is_file() else ""
        if not text:
            del self._open[path]
            self._told.forget(self.uri(path))
        elif text != known:
            self.show(path, text)

    def settle(self) -> None:
        """Wait for the index: a person types slowly enough for it. Raises EngineError if it takes too long."""
        if self._looks_around and not self._told.settle(SETTLE_SECONDS):
            raise EngineError("The files were not indexed within ten minutes: close other programs and try again.")

    def show(self, path: str, text: str) -> None:
        """The document has this text now."""
        if not self._looks_around:
            return
        self._told.observe(OpenText(self.uri(path), text, str(self.root / path), str(self.root)))
        self._open[path] = text
        self._open.move_to_end(path)
        if len(self._open) > OPEN_DOCUMENTS:
            self._told.forget(self.uri(self._open.popitem(last=False)[0]))

    def uri(self, path: str) -> str:
        return (self.root / path).as_uri()


class Shelves:
    """The index of an engine without its model: what snippets would stand in a prompt."""

    def __init__(self) -> None:
        self._workspaces = Workspaces()

    def open_folder(self, folder: Folder) -> None:
        self._workspaces.open(folder.root, folder.private_globs, folder.respect_gitignore)

    def observe(self, text: OpenText) -> None:
        self._workspaces.observe(text.document, text.file, text.text, text.root)

    def refresh(self, root: str, paths: Iterable[Path]) -> None:
        if (workspace := self._workspaces.workspace(root)) is not None:
            workspace.refresh(paths)

    def settle(self, timeout: float) -> bool:
        return self._workspaces.settle(timeout)

    def forget(self, document: str) -> None:
        self._workspaces.forget(document)

    def snippets(self, request: CompletionRequest) -> tuple[Snippet, ...]:
        """As the engine would choose them now."""
        return self._workspaces.snippets(request)

    def close(self) -> None:
        self._workspaces.close()
