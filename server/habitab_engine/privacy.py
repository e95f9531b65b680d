"""Which files habitab never reads: secrets, what git ignores, what the person excludes, what is no text.

A rule that cannot be read makes the file private: it fails closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from pathspec import GitIgnoreSpec

from habitab_engine.errors import InputError, NotTextError

SECRET_GLOBS = (
    *(
        ".env*",
        "*.env",
        ".envrc",
        "*.pem",
        "*.key",
        "*.cert",
        "*.crt",
        "*.cer",
        "*.der",
        "*.p8",
        "*.p12",
        "*.pfx",
    ),
    *("*.kdbx", "*.jks", "*.keystore", "*.ppk", "*.gpg", "*.ovpn", "*.tfvars", "*.tfstate*"),
    *(
        "id_*",
        "*_rsa",
        "*_ed25519",
        "secrets.y*ml",
        "secrets.json",
        "secrets.toml",
        "*secret*.y*ml",
        "credentials*",
    ),
    *(".npmrc", ".netrc", "_netrc", ".pypirc", ".htpasswd", ".pgpass", ".git-credentials", ".dockercfg"),
)
SECRET_FOLDERS = frozenset({".git", ".ssh", ".gnupg", ".aws", ".azure", ".kube"})


class _BrokenRuleError(Exception):
    """A privacy rule that cannot be read; the message is the reason to keep the file private."""


def why_private(
    path: Path,
    roots: Sequence[Path],
    extra_globs: Sequence[str] = (),
    respect_gitignore: bool = True,
    is_folder: bool = False,
) -> str | None:
    """The reason not to read `path`, or None. A link is private if either its name or its target is.

    `roots` are the workspace folders; `extra_globs` are the person's own patterns in .gitignore's language. Without
    `respect_gitignore` what git ignores is read; secrets never are. Of a folder (`is_folder`) the reason holds for
    everything in it.
    """
    tops = [_absolute(root) for root in roots]
    try:
        for candidate in dict.fromkeys((_absolute(path), path.resolve())):
            if reason := _why_private(candidate, tops, tuple(extra_globs), respect_gitignore, is_folder):
                return reason
    except _BrokenRuleError as broken:
        return str(broken)
    except (OSError, RuntimeError) as error:
        return f"the path cannot be followed ({type(error).__name__})"
    return None


def _why_private(
    path: Path, roots: Sequence[Path], extra_globs: tuple[str, ...], respect_gitignore: bool, is_folder: bool
) -> str | None:
    if not is_folder and any(fnmatchcase(path.name.lower(), glob) for glob in SECRET_GLOBS):
        return "its name is that of a secret"
    folders = path.parts if is_folder else path.parts[:-1]
    if folder := next((part for part in folders if part.lower() in SECRET_FOLDERS), None):
        return f"it lies in {folder}"
    top = _top(path, roots)
    if _person_rules(extra_globs).match_file(path.relative_to(top).as_posix() + "/" * is_folder):
        return "the privacy setting excludes it"
    return "git ignores it" if respect_gitignore and _git_ignores(path, top, is_folder) else None


def _absolute(path: Path) -> Path:
    """Without `..` but with links as they are: `Path.resolve` would follow them."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _top(path: Path, roots: Sequence[Path]) -> Path:
    """The highest folder whose rules count: the workspace root or the git work tree, whichever is above."""
    repository = next((folder for folder in path.parents if (folder / ".git").exists()), path.parent)
    containing = [root for root in roots if path.is_relative_to(root) and path != root]
    return min([repository, *containing], key=lambda folder: len(folder.parts))


@lru_cache(maxsize=16)
def _person_rules(globs: tuple[str, ...]) -> GitIgnoreSpec:
    for glob in globs:
        if not isinstance(glob, str) or not _is_pattern(glob):
            raise _BrokenRuleError(f"the privacy pattern {glob!r} is not valid; correct it in the settings")
    return GitIgnoreSpec.from_lines(globs)


def _is_pattern(glob: str) -> bool:
    """Whether a pattern excludes something: it parses, and is neither empty, a comment nor an exception."""
    try:
        return any(pattern.include for pattern in GitIgnoreSpec.from_lines([glob]).patterns)
    # `re.error` comes from a bad range such as `[z-a]` and is no ValueError.
    except Exception:
        return False


def _git_ignores(path: Path, top: Path, ends_in_folder: bool) -> bool:
    """Whether `path` or a folder between it and `top` is ignored, by the rules from `top` down."""
    rules: list[tuple[Path, GitIgnoreSpec]] = []
    parts = path.relative_to(top).parts
    for depth in range(len(parts)):
        folder = top.joinpath(*parts[:depth])
        rules += [(folder, spec) for spec in _rules_of(folder)]
        is_folder = ends_in_folder or depth < len(parts) - 1
        if _ignored(folder / parts[depth], is_folder, rules):
            return True
    return False


def _ignored(path: Path, is_folder: bool, rules: Iterable[tuple[Path, GitIgnoreSpec]]) -> bool:
    """The deepest file with an opinion decides."""
    for folder, spec in reversed(list(rules)):
        name = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
        verdict = spec.check_file(name).include
        if verdict is not None:
            return verdict
    return False


def _rules_of(folder: Path) -> Iterator[GitIgnoreSpec]:
    """The rules that a folder brings, the weakest first."""
    for file in (_exclude_file(folder), folder / ".gitignore"):
        try:
            status = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _BrokenRuleError(f"{file} cannot be read; make it readable") from error
        yield _parsed(str(file), status.st_mtime_ns, status.st_size)


def _exclude_file(folder: Path) -> Path:
    """`.git/info/exclude`; in a linked work tree `.git` is a file that points to the repository."""
    git = folder / ".git"
    if git.is_file():
        git = folder / _first_line(git).removeprefix("gitdir:").strip()
        common = git / "commondir"
        git = git / _first_line(common) if common.is_file() else git
    return git / "info" / "exclude"


def _first_line(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise _BrokenRuleError(f"{file} cannot be read; make it readable") from error


@lru_cache(maxsize=256)
def _parsed(file: str, mtime_ns: int, size: int) -> GitIgnoreSpec:
    """The parsed file, read again when its time or size changes."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        return GitIgnoreSpec.from_lines(lines)
    # Whatever is wrong with the file (its bytes, a pattern), the answer is the same: private.
    except Exception as error:
        raise _BrokenRuleError(f"{file} cannot be understood; correct it") from error


def read_text(path: Path, limit_bytes: int = 2_000_000) -> str:
    """The text of a UTF-8 file, line ends as they are, without a byte order mark.

    Raises NotTextError for a binary file, InputError for a missing, unreadable or too large one, or a folder.
    """
    data = _read_bytes(path, limit_bytes)
    if len(data) > limit_bytes:
        raise InputError(f"{path} is too large: choose a file of at most {limit_bytes / 1e6:g} MB.")
    if b"\0" in data:
        raise NotTextError(f"{path} is not a text file: choose one that is.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotTextError(f"{path} is not UTF-8 text: save it as UTF-8 first.") from error


def _read_bytes(path: Path, limit_bytes: int) -> bytes:
    """At most one byte more than the limit, so that a huge file costs nothing."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: choose a file in it.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file: choose one that is.")
    try:
        with path.open("rb") as file:
            return file.read(limit_bytes + 1)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}: check the name.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
