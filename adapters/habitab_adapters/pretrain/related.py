"""Snippets for the documents of one package, found as the engine finds them in a workspace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from habitab_engine.context import Candidate, query, rank, visible
from habitab_engine.edits import Trail
from habitab_engine.index import Found, Index, Search
from habitab_engine.tree import family_of, language_for
from habitab_engine.types import CompletionRequest, Snippet
from habitab_engine.workspace import Document
from habitab_engine.workspaces import CHUNKS, chunks, definitions


class Package:
    """The texts of a package by path, as a workspace in which the document that is asked for is the open one."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._index = Index()
        self._lines = {path: text.split("\n") for path, text in texts.items()}
        self._documents = {path: self._opened(path, text) for path, text in texts.items()}

    def _opened(self, path: str, text: str) -> Document:
        outline = self._index.put(path, text, language_for(path), family_of(path))
        return Document(path, "", path, path, text, Trail(text), outline, cleared=True)

    def snippets(self, request: CompletionRequest, last: int) -> tuple[Snippet, ...]:
        """The pieces that help most, the best last. `request.document` is the path.

        From the cursor's line to the line `last` its text is still to be written: nothing is taken from there.
        """
        gap = range(request.prefix.count("\n"), last + 1)
        return rank(self._candidates(request, gap), visible(request.prefix, request.suffix))

    def _candidates(self, request: CompletionRequest, gap: range) -> Iterator[Candidate]:
        own = self._documents[request.document]
        search = self._index.search(query(request.prefix), family_of(request.path))
        lines = self._lines.__getitem__
        yield from chunks("open", list(_outside(search.best(CHUNKS, among=[own.key]), gap)), lines, {own.key: own})
        yield from chunks("similar", self._elsewhere(search, own), lines, {})
        yield from definitions(self._index, request, own, search, lines)

    def _elsewhere(self, search: Search, own: Document) -> list[Found]:
        return [chunk for chunk in search.best(2 * CHUNKS) if chunk.path != own.key][:CHUNKS]


def _outside(found: Iterable[Found], gap: range) -> Iterator[Found]:
    return (chunk for chunk in found if chunk.last <= gap.start or chunk.first >= gap.stop)
