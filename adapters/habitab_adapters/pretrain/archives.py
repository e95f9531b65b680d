"""Reads archives of strangers in memory: nothing of them is run, or written to disk under its own name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from habitab_engine.errors import InputError

MOST_BYTES = 500_000_000  # of one archive, unpacked, the unwanted files included
MOST_FILES = 100_000
LARGEST_FILE = 1_000_000
_OPEN: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, LookupError, RuntimeError, OSError),
)


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry that is no folder; `fault` says why it must not be read, "" where it may."""

    path: str
    fault: str
    read: Callable[[], bytes]


class _Limited:
    """A stream that ends in an error after MOST_BYTES, whatever the archive claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MOST_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("it is too large unpacked")
        return data


def read(archive: Path, is_wanted: Callable[[str], bool]) -> tuple[dict[str, bytes], Counter[str]]:
    """(the wanted regular files by path, how many were left out by reason). Links are never followed.

    A tarball's only top folder is no part of the paths, as dpkg-source has it. Raises InputError for an archive that is
    broken, of an unknown kind or a bomb.
    """
    files: dict[str, bytes] = {}
    left_out: Counter[str] = Counter()
    tops: set[str] = set()
    size = 0
    try:
        for count, member in enumerate(_members(archive)):
            if count >= MOST_FILES:
                raise ValueError("it has too many files")
            path = member.path.removeprefix("./")
            tops.add(path.partition("/")[0] if "/" in path else "")
            if not is_wanted(path):
                continue
            fault = member.fault or ("" if _is_safe(path) else "unsafe path")
            left_out.update([fault] if fault else [])
            if not fault:
                files[path] = member.read()
                size += len(files[path])
            if size > MOST_BYTES:
                raise ValueError("it is too large unpacked")
    except _BROKEN as error:
        raise InputError(f"The archive {archive.name} cannot be read ({error}): delete it and try again.") from error
    return _without_top(archive, files, tops), left_out


def _is_safe(path: str) -> bool:
    parts = path.split("/")
    return "\\" not in path and "\0" not in path and not any(part in ("", ".", "..") for part in parts)


def _without_top(archive: Path, files: dict[str, bytes], tops: set[str]) -> dict[str, bytes]:
    has_top = archive.suffix not in (".whl", ".deb") and ".debian.tar." not in archive.name
    if not has_top or len(tops) != 1 or "" in tops:
        return files
    return {path.partition("/")[2]: data for path, data in files.items()}


def _members(archive: Path) -> Iterator[_Member]:
    if archive.suffix in (".zip", ".whl"):
        yield from _zip_members(archive)
        return
    with _tar_stream(archive) as stream, tarfile.open(fileobj=cast(Any, _Limited(stream)), mode="r|") as tar:
        for info in tar:
            if not info.isdir():
                fault = "link or device" if not info.isreg() else "too large" if info.size > LARGEST_FILE else ""
                yield _Member(info.name, fault, lambda info=info: tar.extractfile(info).read())  # type: ignore


@contextmanager
def _tar_stream(archive: Path) -> Iterator[IO[bytes]]:
    """The unpacked tar in a tarball or a Debian package, of which nothing else is looked at."""
    if archive.suffix != ".deb":
        with _OPEN[archive.suffix](archive) as stream:
            yield stream
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(archive.resolve())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield cast(IO[bytes], process.stdout)
        finally:
            process.kill()


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            if not entry.is_dir():
                is_link = entry.external_attr >> 28 == 0o12  # the file type in Unix's mode bits
                fault = "link or device" if is_link else "too large" if entry.file_size > LARGEST_FILE else ""
                yield _Member(entry.filename, fault, lambda entry=entry: _unzip(file, entry))  # type: ignore


def _unzip(file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with file.open(entry) as content:
        data = content.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError("a file in it is larger than it says")
    return data
