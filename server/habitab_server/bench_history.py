"""A package's releases as a git repository, one commit each, by the time they were uploaded.

Archives are read in memory and handed to `git fast-import`: nothing of them is run, built, or written to disk under its
own name. Source archives are preferred (`bench_pip.py`). Releases come in the order of their uploads, without those
that mend an older line of versions: going back and forth would add the same lines again. Where the index does not know
every time, versions give the order and the newest file in each archive the time.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib.util
import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from habitab_adapters.repository import LARGEST_BLOB, environment, is_wanted, run_git
from habitab_engine.errors import InputError
from habitab_engine.home import private_folder

MOST_RELEASES = 120
MOST_BYTES = 300_000_000  # of one release, unpacked
MOST_FILES = 20_000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_UNPACK: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(OSError, EOFError, ValueError, LookupError, RuntimeError),
)


@dataclass(frozen=True, slots=True)
class Release:
    """One release: its source files by path, and when it came out in seconds since 1970."""

    version: str
    time: int
    files: dict[str, bytes]

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.time, UTC).date().isoformat()


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive; `time` is 0 where the archive gives none."""

    path: str
    time: int
    data: bytes


class _Limited:
    """A stream that ends in an error after MOST_BYTES, whatever the archive claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MOST_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the archive is too large")
        return data


def make(folder: Path, package: str) -> tuple[dict[str, Any], list[list[str]]]:
    """The JSON of `bench history`, and a table's rows; the repository is made anew under `folder`.

    Raises InputError where there are no releases, or without pip or git.
    """
    if not _NAME.fullmatch(package):
        raise InputError(f"{package!r} cannot be the name of a package: give the name only, without a version.")
    name = re.sub(r"[-_.]+", "-", package).lower()
    private_folder(folder)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as draft, Console(stderr=True).status(package):
        releases = in_order(download(name, Path(draft)))
        repo = Path(draft, "repo")
        write(repo, package, releases)
        target = folder / f"{name}.git"
        shutil.rmtree(target, ignore_errors=True)
        repo.rename(target)
    rows = [[release.version, release.day, str(len(release.files))] for release in releases]
    return {"repo": str(target), "releases": [release.version for release in releases]}, rows


def download(package: str, folder: Path) -> list[tuple[Release, bool]]:
    """The releases by version, and whether the index knows when each was uploaded."""
    if importlib.util.find_spec("pip") is None:
        raise InputError("pip is not installed for this Python: run `python -m ensurepip` and try again.")
    command = [sys.executable, "-m", "habitab_server.bench_pip", package, str(folder), str(MOST_RELEASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"The releases of {package} could not be downloaded: check the connection and try again.")
    found = []
    for facts in json.loads(done.stdout.splitlines()[-1]):
        release = read_release(facts["version"], folder / facts["file"])
        if facts["uploaded"]:
            release = replace(release, time=int(datetime.fromisoformat(facts["uploaded"]).timestamp()))
        if release.files:
            found.append((release, bool(facts["uploaded"])))
    if not found:
        raise InputError(f"The package index has no release of {package} with source files: check the name.")
    return found


def in_order(by_version: Sequence[tuple[Release, bool]]) -> list[Release]:
    """The releases as commits: later ones have later times and higher versions. They come in by version."""
    releases = [release for release, _ in by_version]
    if not all(known for _, known in by_version):
        times = [0, *(release.time for release in releases)]
        return [replace(release, time=max(times[: i + 2])) for i, release in enumerate(releases)]
    kept: list[tuple[int, Release]] = []
    for rank, release in sorted(enumerate(releases), key=lambda one: (one[1].time, one[0])):
        if not kept or rank > kept[-1][0]:
            kept.append((rank, release))
    return [release for _, release in kept]


def read_release(version: str, archive: Path) -> Release:
    """The source files of an archive; none where it is broken or too large."""
    files, newest = {}, 0
    try:
        for member in members(archive):
            path = member.path if archive.suffix == ".whl" else member.path.partition("/")[2]
            newest = max(newest, member.time)
            if is_wanted(member.path) and is_wanted(path) and not re.search(r"\.(egg|dist)-info/", path):
                files[path] = member.data
            if len(files) > MOST_FILES:
                raise ValueError("too many files")
    except _BROKEN:
        return Release(version, 0, {})
    return Release(version, newest, files)


def members(archive: Path) -> Iterator[Member]:
    """The regular files of at most LARGEST_BLOB bytes; links, folders and devices are passed over. Raises `_BROKEN`."""
    if archive.suffix in (".zip", ".whl"):
        yield from _zip_members(archive)
        return
    with (
        _UNPACK[archive.suffix](archive) as stream,
        tarfile.open(fileobj=cast(IO[bytes], _Limited(stream)), mode="r|") as tar,
    ):
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and member.size <= LARGEST_BLOB else None
            if content is not None:
                yield Member(member.name, int(member.mtime), content.read())


def _zip_members(archive: Path) -> Iterator[Member]:
    left = MOST_BYTES
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            is_link = entry.external_attr >> 28 == 0o12  # the file type in Unix's mode bits
            if entry.is_dir() or is_link or entry.file_size > LARGEST_BLOB:
                continue
            with file.open(entry) as content:
                data = content.read(LARGEST_BLOB + 1)
            left -= len(data)
            if left < 0 or len(data) > LARGEST_BLOB:
                raise ValueError("the archive is too large")
            yield Member(entry.filename, int(datetime(*entry.date_time, tzinfo=UTC).timestamp()), data)


def write(repo: Path, package: str, releases: Sequence[Release]) -> None:
    """A bare repository with one commit a release. Raises InputError where git cannot make it."""
    run_git(["git", "init", "--quiet", "--bare", "--template=", str(repo)])
    run_git(["git", f"--git-dir={repo}", "symbolic-ref", "HEAD", "refs/heads/main"])
    command = ["git", f"--git-dir={repo}", "fast-import", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment()) as process:
        stream = cast(IO[bytes], process.stdin)
        with contextlib.suppress(BrokenPipeError):  # its exit code tells that git has given up
            for release in releases:
                _write_commit(stream, package, release)
            stream.close()
    if process.returncode:
        raise InputError(f"Git could not make the repository {repo}: check that the disk has room.")


def _write_commit(stream: IO[bytes], package: str, release: Release) -> None:
    who = f"{package} <releases@localhost> {release.time} +0000"
    stream.write(f"commit refs/heads/main\ncommitter {who}\n".encode())
    _write_data(stream, f"{package} {release.version}\n".encode())
    stream.write(b"deleteall\n")
    for path, data in sorted(release.files.items()):
        quoted = path.replace('"', '\\"')
        stream.write(f'M 100644 inline "{quoted}"\n'.encode())
        _write_data(stream, data)


def _write_data(stream: IO[bytes], data: bytes) -> None:
    stream.write(b"data %d\n%s\n" % (len(data), data))
