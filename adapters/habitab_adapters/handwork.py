"""Which files and lines of a history a person has typed: code by hand, neither other people's nor a program's."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from habitab_adapters.repository import Repository, is_wanted
from habitab_engine import privacy
from habitab_engine.syntax import PLAIN, syntax_of
from habitab_engine.tree import is_handmade, language_for

SHORTEST, LONGEST, LEAST_VISIBLE = 3, 200, 3  # characters of a line worth typing
_NOT_TYPED_FOLDERS = frozenset(
    {
        *("vendor", "vendored", "_vendor", "_vendored", "third_party", "third-party", "thirdparty", "node_modules"),
        *("bower_components", "site-packages", "dist", "generated", "__generated__"),
    }
)
_NOT_TYPED_NAMES = (
    *("*.min.*", "*-lock.*", "*.generated.*", "*_generated.*", "*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py"),
    *("*.pb.go", "*.pb.h", "*.pb.cc", "*.g.dart", "*.ini", "*.cfg", "*.conf"),
)
_DIGEST = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{32,}(?![0-9A-Za-z])")  # MD5 or longer: of pinned actions, of files
_LONGEST_LINE = 5_000  # characters; a file with a longer one was made by a program


def is_typed(path: str) -> bool:
    """Whether a person would write such a file by hand, and habitab would serve it: code by its name."""
    language, parts = language_for(path), path.lower().split("/")
    if not is_wanted(path) or not language or syntax_of(language) is PLAIN:
        return False
    if _NOT_TYPED_FOLDERS & set(parts[:-1]) or any(fnmatchcase(parts[-1], name) for name in _NOT_TYPED_NAMES):
        return False
    return privacy.why_private(Path("/", path), (), respect_gitignore=False) is None


def is_worth_typing(line: str) -> bool:
    """Whether a person would type it, and may be helped with it: a digest comes from a program."""
    fits = SHORTEST <= len(line) <= LONGEST and len("".join(line.split())) >= LEAST_VISIBLE
    return fits and not _DIGEST.search(line)


def content_of(repository: Repository, commit: str, path: str) -> list[str]:
    """The lines of a file at a commit; none where it is no UTF-8 text, or was not written by hand."""
    text = as_text(repository.blob(f"{commit}:{path}") or b"")
    lines = text.split("\n")
    if not text or "\r" in text or not is_handmade(text) or max(map(len, lines)) > _LONGEST_LINE:
        return []
    return lines


def as_text(data: bytes) -> str:
    """UTF-8 text with `\\n` line ends and without a byte order mark; "" for anything else."""
    try:
        return "" if b"\0" in data else data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return ""
