"""Reads a git repository that nobody vouches for: its objects alone, never its hooks, filters, programs or remotes.

Only plumbing is called, with the repository's own configuration overruled wherever it could name a program to run
or a server to ask. Text is taken from blobs as they are; no work tree is made by git.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from habitab_engine.errors import InputError, MissingExtraError
from habitab_engine.syntax import language_of

LARGEST_BLOB = 1_000_000  # bytes; beyond it nobody types, and git is told to take such files as binary
_OPTIONS = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    f"core.attributesFile={os.devnull}",
    f"core.bigFileThreshold={LARGEST_BLOB}",
    "core.quotePath=false",
    "protocol.allow=never",  # a partial clone must not fetch what it lacks
    "safe.directory=*",
    "i18n.logOutputEncoding=utf-8",
)
_DIFF = (
    "diff-tree --stdin -r -p --root -U0 -M -l400 --full-index --diff-algorithm=histogram --no-ext-diff --no-textconv"
    " --no-color --no-relative --ignore-submodules=all --src-prefix=a/ --dst-prefix=b/"
)
_END = b"end of the patch\n"  # what is no commit's id, `diff-tree --stdin` prints as it is
_BLOB = re.compile(rb"[0-9a-f]{40,64} blob (\d+)\n")
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_MODE = re.compile(rb"(?:new file mode|new mode|index \S+) (\d{6})\n")


class _CutOffError(InputError):
    def __init__(self) -> None:
        super().__init__("Git could not read the history: run `git fsck` in the repository.")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that is no merge; `parent` is a commit, or the empty tree before the first one.

    `written` is when its author made it, in seconds since 1970.
    """

    id: str
    parent: str
    author: str
    written: int


# Consecutive lines of a file with their numbers from 0 on.
Numbered = tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Added:
    """The lines a commit added to one file, as the new file numbers them, hunk by hunk.

    `moved` are those that the same commit took out elsewhere, perhaps with another indentation: nobody typed them.
    """

    commit: str
    path: str
    hunks: tuple[Numbered, ...]
    moved: frozenset[int] = frozenset()


class Repository:
    """One repository, with a work tree or bare; a context manager, since it keeps git processes open."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where `path` is no repository, or one whose history was cut off."""
        if not path.is_dir():
            raise InputError(f"There is no folder {path}: name a git repository.")
        self.path = path
        self._git = ["git", "--no-pager", *(part for option in _OPTIONS for part in ("-c", option))]
        try:
            found = self._run("-C", str(path), "rev-parse", "--absolute-git-dir").strip()
        except InputError as exc:
            raise InputError(f"{path} is not a git repository that can be read: name another folder.") from exc
        self._git.append(f"--git-dir={found}")
        if self._run("rev-parse", "--is-shallow-repository").strip() == "true":
            raise InputError(f"{path} is a shallow clone: run `git fetch --unshallow` in it and try again.")
        self.empty_tree = self._run("hash-object", "-t", "tree", "--stdin").strip()
        self._sizes, self._contents = self._open("--batch-check"), self._open("--batch")

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        for process in (self._sizes, self._contents):
            _end(process)

    def head(self) -> str:
        """The id of the commit that is checked out. Raises InputError where there is none yet."""
        try:
            return self._run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").strip()
        except InputError as exc:
            raise InputError(f"{self.path} has no commits yet: name a repository with a history.") from exc

    def commits(self) -> list[Commit]:
        """All commits but merges that lead to the head, parents first, otherwise oldest first."""
        listed = self._run(
            "rev-list", "--date-order", "--reverse", "--no-merges", "--format=%H%x00%P%x00%ae%x00%at", "HEAD"
        )
        found = []
        for line in listed.splitlines()[1::2]:
            identity, parents, author, written = line.split("\0")
            parent = parents.partition(" ")[0] or self.empty_tree
            found.append(Commit(identity, parent, author.casefold(), int(written)))
        return found

    def added(self, commits: Sequence[str]) -> Iterator[Added]:
        """What each commit added to which regular text file, with renames followed.

        A commit is passed over where the clone lacks what it compares. Raises InputError where that is all of them.
        """
        process, lost = None, 0
        try:
            for commit in commits:
                process = process or self._popen(*_DIFF.split())
                try:
                    found = _patch_of(process, commit)
                except (_CutOffError, BrokenPipeError):
                    _end(process)
                    process, lost, found = None, lost + 1, []
                yield from found
        finally:
            if process is not None:
                _end(process)
        if commits and lost == len(commits):
            raise _CutOffError()

    def changes(self, old: str, new: str) -> Iterator[tuple[str, str]]:
        """(path, blob) of each file that differs between two trees; the blob is "" where no regular file is left."""
        options = ("-r", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=all")
        fields = self._run("diff-tree", *options, old, new).split("\0")
        for facts, path in zip(fields[:-1:2], fields[1::2], strict=True):
            _, mode, _, blob, _ = facts.split(" ")
            yield path, blob if mode.startswith("100") else ""

    def blob(self, name: str) -> bytes | None:
        """The bytes of a blob by its id or `commit:path`; None where it is missing, no blob or too large."""
        size = self._ask(self._sizes, name)
        if size is None or size > LARGEST_BLOB:
            return None
        self._ask(self._contents, name)
        return cast(IO[bytes], self._contents.stdout).read(size + 1)[:size]

    def _ask(self, process: subprocess.Popen[bytes], name: str) -> int | None:
        """The size that `cat-file` gives for a blob; None for anything else."""
        stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        stdin.write(name.encode("utf-8", "surrogateescape") + b"\n")
        stdin.flush()
        found = _BLOB.fullmatch(stdout.readline())
        return int(found[1]) if found else None

    def _open(self, mode: str) -> subprocess.Popen[bytes]:
        return self._popen("cat-file", mode)

    def _popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self._git, *arguments], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment()
        )

    def _run(self, *arguments: str) -> str:
        """The command's output; names that are not UTF-8 keep their bytes. Raises InputError where it fails."""
        return run_git([*self._git, *arguments])


def run_git(command: Sequence[str], given: bytes = b"") -> str:
    """Run a git command in a clean environment.

    Raises InputError with what git said, MissingExtraError without git.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=True, env=environment())
    except FileNotFoundError as exc:
        raise MissingExtraError("Git is not installed: install it and try again.") from exc
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InputError(f"Git failed: {said[-1] if said else exc.returncode}.") from exc
    return done.stdout.decode("utf-8", "surrogateescape")


def configured_author(path: Path) -> str:
    """The e-mail address that git would write into a commit made at `path` now. Raises InputError where none is set.

    Unlike all else here this reads the person's own configuration.
    """
    command = ["git", "-C", str(path), "config", "--get", "user.email"]
    try:
        found = subprocess.run(command, capture_output=True, check=False, text=True).stdout.strip()
    except FileNotFoundError as exc:
        raise MissingExtraError("Git is not installed: install it and try again.") from exc
    if not found:
        raise InputError("Git does not know who you are: name yourself with --author EMAIL.")
    return found


def environment() -> dict[str, str]:
    """The environment for git: nobody's configuration, no prompt, no fetch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _patch_of(process: subprocess.Popen[bytes], commit: str) -> list[Added]:
    """What one commit added. One is asked at a time: all at once would block both sides where they are many."""
    asked, patches, removed = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout), Counter[str]()
    asked.write(f"{commit}\n".encode() + _END)
    asked.flush()
    files = list(_read_patch(commit, patches, removed))
    return [replace(added, moved=frozenset(_moved(added, removed))) for added in files]


def _read_patch(commit: str, lines: IO[bytes], removed: Counter[str]) -> Iterator[Added]:
    """One commit's patch without context lines, up to `_END`; binary files, links and submodules are left out.

    `removed` gets the lines that it takes out, without the blanks around them.
    """
    path, regular, hunks = "", True, list[Numbered]()
    for line in iter(lines.readline, b""):
        if line == _END or line.startswith(b"diff --git "):
            if path and regular and hunks:
                yield Added(commit, path, tuple(hunks))
            if line == _END:
                return
            path, regular, hunks = "", True, []
        elif line.startswith(b"+++ b/"):  # a name with control characters stands in quotes, and is passed over
            path = line[6:-1].removesuffix(b"\t").decode("utf-8", "surrogateescape")
        elif found := _MODE.fullmatch(line):
            regular = found[1].startswith(b"100")
        elif found := _HUNK.match(line):
            hunks.append(_read_hunk(found, lines, removed))
    raise _CutOffError()


def _read_hunk(head: re.Match[bytes], lines: IO[bytes], removed: Counter[str]) -> Numbered:
    gone, first, added = (1 if part is None else int(part) for part in head.groups())
    texts = list[str]()
    while gone or len(texts) < added:
        line = lines.readline()
        text = line[1:].rstrip(b"\r\n").decode("utf-8", "replace")
        if line.startswith(b"+"):
            texts.append(text)
        elif line.startswith(b"-"):
            gone -= 1
            removed[text.strip()] += 1
        elif not line.startswith(b"\\"):  # "\\ No newline at end of file"
            raise _CutOffError()
    return tuple(enumerate(texts, first - 1))


def _moved(added: Added, removed: Counter[str]) -> Iterator[int]:
    """The numbers of added lines that are among the removed ones; each of those counts once."""
    for number, text in (line for hunk in added.hunks for line in hunk):
        if removed[text.strip()] > 0:
            removed[text.strip()] -= 1
            yield number


class Checkout:
    """Trees of commits as files under `folder`, one after the other: regular source files with harmless names only.

    Nothing but this class writes there, and it makes no links, so no name can lead out of the folder.
    """

    def __init__(self, repository: Repository, folder: Path) -> None:
        self.folder = folder
        self._repository = repository
        self._commit = repository.empty_tree

    def move_to(self, commit: str) -> list[str]:
        """Make the files those of `commit`; return the paths that were written or removed."""
        changed = self._repository.changes(self._commit, commit)
        self._commit = commit
        return [path for path, blob in changed if is_wanted(path) and self._put(path, blob)]

    def _put(self, path: str, blob: str) -> bool:
        """False where the file system does not take the name (too long, or a folder stands there)."""
        target, data = self.folder / path, self._repository.blob(blob) if blob else None
        try:
            target.unlink(missing_ok=True)
            if data is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        except (OSError, ValueError):
            return False
        return True


def is_wanted(path: str) -> bool:
    """Whether a file of a tree is worth having: source code (or rules what to ignore) that stays in the folder."""
    parts = path.split("/")
    leading_out = any(part in ("", ".", "..") or part.casefold() == ".git" for part in parts)
    if leading_out or "\\" in path or ":" in path or not path.isprintable():
        return False
    return bool(language_of(path)) or parts[-1] == ".gitignore"
