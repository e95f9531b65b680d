"""The index of one folder and the documents open in it, kept current by a thread that gives way to completions.

The text of an open document is the editor's, whatever the file on disk says. Nothing here makes a request wait for
the disk: what is private, changed or gone is found out in the background, and until then a text is not served.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from habitab_engine.edits import Trail
from habitab_engine.index import Index
from habitab_engine.symbols import Outline
from habitab_engine.tree import MOST_BYTES, Stamp, Tree, display_name, family_of, is_handmade, language_for
from habitab_engine.watching import Watcher

# Bounds of one folder's index, about 80 MB in memory; files beyond are left out, the lowest in the tree first.
MOST_FILES = 20_000
MOST_TOTAL_BYTES = 72_000_000
# Open documents at a time; the one not seen longest is forgotten.
MOST_DOCUMENTS = 64
# Seconds between two readings of a document that is being typed in.
_QUIET_SECONDS = 2.0
# The least seconds between two walks through the folder, and how many times as long as a walk: a build may make
# folders all the time.
_REST_SECONDS, _REST = 5.0, 10.0
# Seconds to wait at the end for a thread that may hang on a folder.
_JOIN_SECONDS = 1.0
_RULES = (".gitignore", "exclude")

OnText = Callable[[str, str], object]
OnGone = Callable[[str], object]


@dataclass(eq=False, slots=True)
class Document:
    """An open document: `key` in the index, `name` for the model to read. Served once `cleared`: it is not private."""

    uri: str
    file: str
    key: str
    name: str
    text: str
    trail: Trail
    outline: Outline = field(default_factory=Outline)
    cleared: bool = False
    read_at: float = 0.0


class _OverError(Exception):
    """The workspace is closed."""


class Workspace:
    """The index of the folder `root`, or of documents alone where it is None.

    `pause` is called before each short step of background work and may block. `on_text(path, text)` gets every file
    that was read, `on_gone(path)` every one that is gone or became private: absolute paths, in the background thread.
    """

    def __init__(
        self,
        root: Path | None,
        private_globs: tuple[str, ...] = (),
        respect_gitignore: bool = True,
        *,
        pause: Callable[[], object] = bool,
        on_text: OnText = lambda path, text: None,
        on_gone: OnGone = lambda path: None,
    ) -> None:
        self.root = root
        self.index = Index()
        self._tree = Tree(root, private_globs, respect_gitignore)
        self._pause, self._on_text, self._on_gone = pause, on_text, on_gone
        self._documents: dict[str, Document] = {}
        self._stamps: dict[str, Stamp] = {}  # of what was read from disk, and may be in the index
        self._told: set[str] = set()  # of whose text `on_text` knows
        self._due: dict[str, float] = {}
        self._closed: dict[str, Path | None] = {}
        self._paths: dict[Path, None] = {}
        self._walk_wanted = root is not None
        self._walk_at = self._walk_began = 0.0
        self._walk: Iterator[None] | None = None
        self._hurry = self._over = False
        self._idle = False
        self._changed = threading.Condition()
        self._watcher = Watcher(self.refresh, self._rewalk)
        self._thread = threading.Thread(target=self._run, name="habitab-index", daemon=True)
        self._thread.start()

    # ---- from any thread ----

    def observe(self, uri: str, file: str, text: str) -> None:
        """The document's text as the editor has it now."""
        with self._changed:
            document = self._documents.pop(uri, None) or self._opened(uri, file, text)
            fresh = not document.cleared and not document.read_at
            if document.text == text and not fresh:
                self._documents[uri] = document
                return
            document.trail.update(text)
            document.text = text
            self._documents[uri] = document  # the last one is the one seen last
            now = time.monotonic()
            # Another document is being worked in: what was typed in the others can be read now.
            self._due |= dict.fromkeys(self._due, now)
            self._due[uri] = max(now, document.read_at + _QUIET_SECONDS)
            while len(self._documents) > MOST_DOCUMENTS:
                self._forget(next(iter(self._documents)))
            self._changed.notify_all()

    def forget(self, uri: str) -> None:
        """The document was closed: the file on disk counts again."""
        with self._changed:
            self._forget(uri)
            self._changed.notify_all()

    def refresh(self, paths: Iterable[Path]) -> None:
        """Read these files again; folders and files with rules make everything be looked at."""
        with self._changed:
            self._paths |= dict.fromkeys(paths)
            self._changed.notify_all()

    def document(self, uri: str) -> Document | None:
        """The open document, if it may be served."""
        document = self._documents.get(uri)
        return document if document is not None and document.cleared else None

    def documents(self) -> list[Document]:
        """Those that may be served, the one seen last at the end."""
        with self._changed:
            return [document for document in self._documents.values() if document.cleared]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Absolute path and text of every file as it was read from disk."""
        for key in list(self._stamps):
            if text := self.index.text(key):
                yield self._absolute(key), text

    @property
    def files(self) -> int:
        """How many files were read from disk."""
        return len(self._stamps)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do at the moment."""
        return self._idle

    def settle(self, timeout: float) -> bool:
        """Wait until all that is known of is indexed; False if that takes longer."""
        with self._changed:
            self._hurry, self._idle = True, False
            self._changed.notify_all()
            settled = self._changed.wait_for(lambda: self._idle or self._over, timeout)
            self._hurry = False
            return settled

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._watcher.close()
        self._thread.join(_JOIN_SECONDS)

    def _opened(self, uri: str, file: str, text: str) -> Document:
        key = self._tree.key(Path(file)) if file else ""
        return Document(uri, file, key or uri, key or display_name(file, uri), text, Trail(text))

    def _forget(self, uri: str) -> None:
        document = self._documents.pop(uri, None)
        self._due.pop(uri, None)
        if document is not None:
            self._closed[document.key] = Path(document.file) if document.key != uri else None

    def _rewalk(self) -> None:
        with self._changed:
            self._walk_wanted = True
            self._changed.notify_all()

    # ---- the background thread ----

    def _run(self) -> None:
        with suppress(_OverError):
            while True:
                self._try(self._next())

    def _try(self, work: Callable[[], object]) -> None:
        """One file that cannot be read, whatever the reason, must not end the reading of all others."""
        try:
            work()
        except _OverError:
            raise
        except Exception as error:
            logging.getLogger("habitab.engine").error("indexing failed: %s", type(error).__name__)

    def _breathe(self) -> None:
        if self._over:
            raise _OverError
        self._pause()

    def _next(self) -> Callable[[], object]:
        """What to do next; blocks until there is something. Raises _OverError."""
        with self._changed:
            while not self._over:
                if (work := self._chosen()) is not None:
                    return work
                self._idle = True
                self._changed.notify_all()
                times = [*self._due.values(), *([self._walk_at] if self._walk_wanted else [])]
                self._changed.wait(max(0.0, min(times) - time.monotonic()) if times else None)
                self._idle = False
        raise _OverError

    def _chosen(self) -> Callable[[], object] | None:
        """Open documents first, then what changed, then the walk through the folder."""
        now = time.monotonic()
        if (uri := next((uri for uri, at in self._due.items() if self._hurry or at <= now), None)) is not None:
            del self._due[uri]
            document = self._documents[uri]
            return partial(self._read_document, document, document.text)
        if self._closed:
            key, file = self._closed.popitem()
            return partial(self._close_document, key, file)
        if self._paths:
            path = next(iter(self._paths))
            del self._paths[path]
            return partial(self._read_path, path)
        if self._walk is None and self._walk_wanted and (self._hurry or now >= self._walk_at):
            self._walk_wanted, self._walk, self._walk_began = False, self._walking(), now
        return self._step if self._walk is not None else None

    def _step(self) -> None:
        """One file of the walk."""
        if next(self._walk or iter(()), self) is self:
            now = time.monotonic()
            self._walk, self._walk_at = None, now + max(_REST_SECONDS, _REST * (now - self._walk_began))

    def _read_document(self, document: Document, text: str) -> None:
        self._breathe()
        document.read_at = time.monotonic()
        document.cleared = not document.file or not self._tree.is_private(Path(document.file))
        self._stamps.pop(document.key, None)
        if not document.cleared:
            self._gone(document.key)
        if not document.cleared or len(text) > MOST_BYTES or not is_handmade(text):
            self.index.drop(document.key)
            return
        language, family = language_for(document.name), family_of(document.name)
        document.outline = self.index.put(document.key, text, language, family, self._breathe)

    def _close_document(self, key: str, file: Path | None) -> None:
        if self._is_open(key):  # again, by now
            return
        self.index.drop(key)
        if file is not None:
            self._read_path(file)

    def _read_path(self, path: Path) -> None:
        """Look at one path that changed or may have changed."""
        self._breathe()
        if path.name in _RULES:
            self._drop_private()
            self._rewalk()
        key = self._tree.key(path)
        if not key or self._is_open(key):
            return
        if (stamp := self._tree.stamp(path)) is not None:
            self._read_file(key, path, stamp)
        elif path.is_dir():
            self._rewalk()
        else:
            self._gone(key)

    def _is_open(self, key: str) -> bool:
        with self._changed:
            return any(document.key == key for document in self._documents.values())

    def _read_file(self, key: str, path: Path, stamp: Stamp) -> None:
        if self._stamps.get(key) == stamp:
            return
        text = self._tree.read(path)
        if text is None:
            self._gone(key)
            self._stamps[key] = stamp  # not to be read again until it changes
            return
        self.index.put(key, text, language_for(path.name), family_of(path.name), self._breathe)
        self._stamps[key] = stamp
        self._told.add(key)
        self._on_text(str(path), text)

    def _gone(self, key: str) -> None:
        """Forget a file, or all files of a folder."""
        known = {*self._stamps, *self._told, *self.index.paths()}
        for gone in [key] if key in known else [k for k in known if k.startswith(key + "/")]:
            self.index.drop(gone)
            self._stamps.pop(gone, None)
            if gone in self._told:
                self._told.remove(gone)
                self._on_gone(self._absolute(gone))

    def _absolute(self, key: str) -> str:
        return str(self.root / key) if self.root is not None else key

    def _drop_private(self) -> None:
        """The rules changed: what became private goes at once, before anything else is read."""
        with self._changed:
            documents = list(self._documents.values())
        for document in documents:
            self._read_document(document, document.text)
        for key in {*self._stamps, *self._told}:
            self._breathe()
            if self.root is not None and self._tree.is_private(self.root / key):
                self._gone(key)

    def _walking(self) -> Iterator[None]:
        """Read what is new or changed, a file at a time, and forget what is not there any more."""
        seen: set[str] = set()
        total = 0
        for path, stamp in self._tree.walk(self._breathe):
            key = self._tree.key(path)
            total += stamp.size
            if len(seen) >= MOST_FILES or total > MOST_TOTAL_BYTES:
                logging.getLogger("habitab.engine").info("the folder is too large: %d files are indexed", len(seen))
                break
            seen.add(key)
            if not self._is_open(key):
                self._try(partial(self._read_file, key, path, stamp))
            yield
        for key in {*self._stamps, *self._told} - seen:
            if not self._is_open(key):
                self._gone(key)
        self._watcher.watch([*self._tree.folders, *self._folders_of_rules()])

    def _folders_of_rules(self) -> list[Path]:
        """Folders outside the walk whose files say what git ignores."""
        if (root := self.root) is None:
            return []
        top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
        above = [folder for folder in root.parents if folder.is_relative_to(top)]
        return [folder for folder in (*above, top / ".git" / "info") if folder.is_dir()]
