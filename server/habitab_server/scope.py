"""Which folders are open, how a document is named to the model, and which documents nobody may read."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

from pygls.uris import to_fs_path

from habitab_engine import privacy
from habitab_engine.types import Folder

# A verdict is kept so long: it costs nothing a keystroke, and a new .gitignore counts soon.
_VERDICT_SECONDS = 30.0


class Scope:
    """The workspace folders and the person's wishes about private files."""

    def __init__(self) -> None:
        self._roots: tuple[Path, ...] = ()
        self._globs: tuple[str, ...] = ()
        self._respect_gitignore = True
        self._verdicts: dict[str, tuple[float, str]] = {}

    def set_folders(self, uris: Iterable[str]) -> None:
        paths = (path_of_uri(uri) for uri in uris)
        self._roots = tuple(path for path in paths if path is not None)
        self._verdicts.clear()

    def set_private(self, globs: tuple[str, ...], respect_gitignore: bool) -> None:
        """`globs` are private besides the built-in patterns, and what git ignores if that is respected."""
        self._globs, self._respect_gitignore = globs, respect_gitignore
        self._verdicts.clear()

    def path_of(self, uri: str) -> str:
        """The path the model reads: relative to the innermost workspace folder, else the file's name."""
        path = path_of_uri(uri)
        if path is None:
            return unquote(urlsplit(uri).path).rpartition("/")[2]
        root = self.root_of(uri)
        return path.relative_to(root).as_posix() if root else path.name

    @property
    def folders(self) -> list[Folder]:
        """The workspace folders as the engine is told of them."""
        return [Folder(str(root), self._globs, self._respect_gitignore) for root in self._roots]

    def root_of(self, uri: str) -> str:
        """The innermost workspace folder that holds the document, or ""."""
        path = path_of_uri(uri)
        roots = [root for root in self._roots if path is not None and path.is_relative_to(root)]
        return str(max(roots, key=lambda root: len(root.parts), default=""))

    def file_of(self, uri: str) -> str:
        """The document's place on disk, or ""."""
        return str(path_of_uri(uri) or "")

    def why_private(self, uri: str) -> str:
        """Why the document's text may not be used, or "". Whatever goes wrong here makes it private."""
        now = time.monotonic()
        when, why = self._verdicts.get(uri, (float("-inf"), ""))
        if now - when >= _VERDICT_SECONDS:
            why = self._judge(uri)
            self._verdicts[uri] = (now, why)
        return why

    def forget(self, uri: str) -> None:
        self._verdicts.pop(uri, None)

    def _judge(self, uri: str) -> str:
        try:
            path = path_of_uri(uri)
            if path is None:
                return ""
            return privacy.why_private(path, self._roots, self._globs, self._respect_gitignore) or ""
        except (OSError, ValueError) as exc:
            return f"It cannot be told whether the file is private ({exc})."


def path_of_uri(uri: str) -> Path | None:
    """The file a document belongs to, also for a notebook's cell; None if it has none."""
    name = to_fs_path(uri) if uri.startswith("file:") else unquote(urlsplit(uri).path)
    if not name or not (PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()):
        return None
    return Path(name)
