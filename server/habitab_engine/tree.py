"""The files of a folder that are worth indexing and may be read: source code that a person wrote."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath

from habitab_engine.privacy import why_private
from habitab_engine.syntax import language_of

# A longer file is generated, or data; a person who opened it still gets suggestions from the file itself.
MOST_BYTES = 400_000
# Entries looked at, in one folder and in all: what is beyond was not made by hand.
_MOST_IN_FOLDER = 20_000
_MOST_ENTRIES = 400_000
# Folders that a walk enters; each is watched, and the system's default allows 8,192 of those to all programs.
_MOST_FOLDERS = 4_000
_BREATH = 16  # entries between two calls of `breathe`: each costs up to half a millisecond

_DATA = frozenset({"json", "jsonc", "json5", "csv", "plaintext", "git-commit", "properties", "dotenv"})
_DATA_ENDINGS = (".svg", ".lock", ".min.js", ".min.css", ".log", ".map", ".snap")
_SKIPPED_FOLDERS = frozenset({"node_modules", "bower_components", "site-packages", "__pycache__", "vendor"})
_SCRIPTS = frozenset({"javascript", "javascriptreact", "typescript", "typescriptreact"})
_C_LIKE = frozenset({"c", "cpp", "objective-c", "objective-cpp"})
_GENERATED = re.compile(
    r"@generated\b|\bauto-?generated (?:by|from|file|code)"
    r"|generated (?:by|from|code)\b[^\n]{0,100}do not (?:edit|modify)|code generated .{1,200}do not edit",
    re.IGNORECASE,
)
_HEADER = 1_500  # characters in which a generated file says so
_WIDE = 200  # characters of a line, on average; nobody writes such lines


def language_for(name: str) -> str:
    """The language id of a file that may be indexed, "" for other files."""
    lowered = name.lower()
    if lowered.endswith(_DATA_ENDINGS):
        return ""
    language = "typescriptreact" if lowered.endswith(".tsx") else language_of(lowered)
    return "" if language in _DATA else language


def family_of(name: str) -> str:
    """What the files have in common that share code with the file `name`: languages, or else the ending."""
    language = language_for(name)
    return "script" if language in _SCRIPTS else "c" if language in _C_LIKE else language or PurePath(name).suffix


def is_handmade(text: str) -> bool:
    """False for minified and generated text, and for what is no text."""
    wide = len(text) > _WIDE * (text.count("\n") + 1)
    return not wide and "\0" not in text and _GENERATED.search(text, 0, _HEADER) is None


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's size and time of change: unless they differ it is not read again."""

    size: int
    changed_ns: int


@dataclass(slots=True)
class Tree:
    """One folder and what is private in it. `folders` are those that the last walk entered.

    Without a `root` there is nothing to walk, and what is private is said by the rules around each file.
    """

    root: Path | None
    private_globs: tuple[str, ...] = ()
    respect_gitignore: bool = True
    folders: list[Path] = field(default_factory=list)

    def key(self, path: Path) -> str:
        """The path below the root with `/` between its parts; "" for what is not below it."""
        inside = self.root is not None and path != self.root and path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if self.root is not None and inside else ""

    def is_private(self, path: Path, is_folder: bool = False) -> bool:
        roots = [] if self.root is None else [self.root]
        return why_private(path, roots, self.private_globs, self.respect_gitignore, is_folder) is not None

    def stamp(self, path: Path) -> Stamp | None:
        """None unless `path` is a file worth reading that may be read."""
        try:
            status = path.lstat()
        except OSError:
            return None
        fits = stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MOST_BYTES
        if not fits or not language_for(path.name) or not self._reachable(path) or self.is_private(path):
            return None
        return Stamp(status.st_size, status.st_mtime_ns)

    def walk(self, breathe: Callable[[], object]) -> Iterator[tuple[Path, Stamp]]:
        """The files worth reading, the upper folders first. Links are not followed: what they point to is private,
        elsewhere, or walked anyway. `breathe` is called every few milliseconds.
        """
        self.folders = []
        waiting, left = deque([self.root] if self.root is not None else []), _MOST_ENTRIES
        while waiting and left > 0 and len(self.folders) < _MOST_FOLDERS:
            folder = waiting.popleft()
            self.folders.append(folder)
            for count, entry in enumerate(_entries(folder, min(left, _MOST_IN_FOLDER))):
                left -= 1
                if count % _BREATH == 0:
                    breathe()
                path = folder / entry.name
                if _is_folder(entry):
                    if self._enters(path):
                        waiting.append(path)
                elif (stamp := self.stamp(path)) is not None:
                    yield path, stamp

    def read(self, path: Path) -> str | None:
        """The text with `\\n` line ends, or None for what is no text, nobody's hand work or a link by now."""
        try:
            # Not blocking, should it have become a pipe since it was looked at.
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            with os.fdopen(os.open(path, flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return None
                text = file.read(MOST_BYTES).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError):
            return None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        return text if is_handmade(text) else None

    def _enters(self, folder: Path) -> bool:
        if _is_skipped(folder.name):
            return False
        return not (folder / "pyvenv.cfg").exists() and not self.is_private(folder, is_folder=True)

    def _reachable(self, path: Path) -> bool:
        """Whether a walk would come to `path`: no folder above it is left out."""
        key = self.key(path)
        return key != "" and not any(map(_is_skipped, key.split("/")[:-1]))


def _entries(folder: Path, most: int) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(islice(found, most), key=lambda entry: entry.name)
    except OSError:
        return []


def _is_skipped(folder: str) -> bool:
    """Whether a folder of this name holds tools' and other people's files."""
    return folder in _SKIPPED_FOLDERS or (folder.startswith(".") and folder != ".github")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def display_name(file: str, document: str) -> str:
    """What the model reads as the path of a document outside the folder."""
    return PurePath(file).name if file else document.rsplit("/", 1)[-1]
