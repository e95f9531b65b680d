"""A folder without git as a history: one commit for each file, in the order in which the files were last changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from habitab_adapters.handwork import is_typed
from habitab_adapters.repository import run_git
from habitab_engine.errors import InputError
from habitab_engine.tree import Tree

WHO = "snapshot@localhost"
MOST_FILES = 5_000


def as_history(folder: Path, target: Path) -> Path:
    """Write the history of the source files in `folder` to a bare repository at `target`.

    What habitab never reads (secrets, what git ignores, binary files) is left out. Raises InputError where nothing is
    left, or without git.
    """
    files = sorted(_files(folder), key=lambda found: (found[0], found[1]))
    if not files:
        raise InputError(f"There is no source file in {folder} to learn from: name a folder with code.")
    run_git(["git", "init", "--quiet", "--bare", str(target)])
    stream = b"".join(_commit(*file) for file in files[-MOST_FILES:])
    run_git(["git", f"--git-dir={target}", "fast-import", "--quiet"], stream)
    run_git(["git", f"--git-dir={target}", "symbolic-ref", "HEAD", "refs/heads/main"])
    return target


def _files(folder: Path) -> Iterator[tuple[int, str, bytes]]:
    """(changed, path, content) of each source file, the time in seconds since 1970."""
    tree = Tree(folder)
    for file, stamp in tree.walk(bool):
        if is_typed(tree.key(file)) and (text := tree.read(file)):
            yield stamp.changed_ns // 1_000_000_000, tree.key(file), text.encode()


def _commit(changed: int, path: str, data: bytes) -> bytes:
    """As `git fast-import` reads it; a path that needs quotes is put into them."""
    quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
    head = f"commit refs/heads/main\ncommitter {WHO} <{WHO}> {changed} +0000\ndata 0\nM 100644 inline {quoted}\n"
    return head.encode("utf-8", "surrogateescape") + f"data {len(data)}\n".encode() + data + b"\n"
