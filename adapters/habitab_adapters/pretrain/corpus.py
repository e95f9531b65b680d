"""The corpus: permissively licensed packages, fetched, filtered and written as documents with a manifest.

In the folder: `archives/`, what was fetched; `packages/`, one file for each package that was read; `documents.jsonl.gz`
and `manifest.json`, made of them at the end, without near-duplicates. A run that was cut off goes on where it was.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import random
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from habitab_adapters.pretrain import filters, licences
from habitab_adapters.pretrain.archives import read
from habitab_adapters.pretrain.duplicates import NearDuplicates
from habitab_adapters.pretrain.packages import GONE, Fetched, Package, UnavailableError, check_name, fetch
from habitab_engine.errors import InputError

DOCUMENTS = "documents.jsonl.gz"
MANIFEST = "manifest.json"
MOST_CHARACTERS = 2_000_000  # of one package, so that none dominates
_ROOM = 500_000_000  # bytes that the disk must have before a package is fetched
_PATIENCE = 12  # packages in a row that cannot be had: then it is the connection
_METADATA = frozenset({"PKG-INFO", "METADATA", "package.json", "copyright"})
_LICENCE_FILES = ("license", "licence", "copying")
_INSTALLED = re.compile(r"^usr/share/(?:cargo/registry|gocode/src)/")  # where Debian's packages have their sources
_DAMAGED = (OSError, EOFError, zlib.error, ValueError)


@dataclass(frozen=True, slots=True)
class Document:
    """One file of the corpus, as a line of documents.jsonl.gz has it."""

    package: str
    version: str
    source: str
    licence: str
    language: str
    path: str
    text: str


def build(
    folder: Path, packages: Sequence[Package], progress: Callable[[str], None], *, seed: int = 0
) -> dict[str, Any]:
    """Make or finish the corpus of `packages` in `folder` and return its manifest; `progress` gets a line a package.

    A package that cannot be had or used is left out and counted. Raises InputError for a name that is none, a folder
    that cannot be written, a full disk, no connection, and where nothing is left.
    """
    for package in packages:
        check_name(package)
    left_out: Counter[str] = Counter()
    with _disk_faults(folder):
        (folder / "packages").mkdir(parents=True, exist_ok=True)
        parts = list(_parts(folder, packages, progress, seed, left_out))
        return _write(folder, parts, left_out, seed)


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise InputError(f"The corpus in {folder} cannot be written ({why}): mend that and run it again.") from error


def _parts(
    folder: Path, packages: Sequence[Package], progress: Callable[[str], None], seed: int, left_out: Counter[str]
) -> Iterator[Path]:
    """The file of each package that could be read; `left_out` counts the others.

    The order is random: sources take turns, so that many failures in a row mean that there is no connection.
    """
    missed = 0
    for number, package in enumerate(random.Random(seed).sample(packages, len(packages)), 1):
        part = folder / "packages" / f"{package.key}.jsonl.gz"
        try:
            note, missed = _part(folder, package, part, seed), 0
            yield part
        except UnavailableError as fault:
            note, missed = f"left out, {fault}", missed + 1 if str(fault) == GONE else 0
            left_out[f"package: {fault}"] += 1
        progress(f"{number}/{len(packages)} {package.source} {package.name}: {note}")
        if missed >= _PATIENCE:
            raise InputError(
                f"{missed} packages in a row could not be fetched ({package.name} was the last): check the connection "
                "and run it again; what was fetched is kept."
            )


def _part(folder: Path, package: Package, part: Path, seed: int) -> str:
    """Make the package's file unless it is there; a note for the progress. Raises UnavailableError."""
    if filters.is_history(package.name):
        raise UnavailableError("a history that the base is tested on")
    if _head(part).get("seed") == seed:
        return "already read"
    if shutil.disk_usage(folder).free < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fetched = fetch(package, folder / "archives")
    documents, left_out = documents_of(package, fetched, seed)
    head = {"seed": seed, "name": package.name, "version": fetched.version, "left_out": left_out}
    with _replacing(part) as file:
        for line in (head, *map(asdict, documents)):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return f"{fetched.version}, {len(documents)} files"


def documents_of(package: Package, fetched: Fetched, seed: int) -> tuple[list[Document], Counter[str]]:
    """(what is worth learning of a package, by path; how many files were left out by reason).

    Raises UnavailableError where an archive is broken or the licence is not permissive.
    """
    files, left_out = _files(package, fetched)
    licence_of, compiled = _licences(package, files), filters.compiled(files)
    texts: dict[str, str] = {}
    for path, data in files.items():
        if filters.language(path, package.languages):
            text = filters.decode(data)
            fault = "built" if path in compiled else _fault(path, text, licence_of(path))
            if fault or text is None:
                left_out[fault] += 1
            else:
                texts[path] = text
    kept = filters.share(texts, MOST_CHARACTERS, seed)
    left_out["beyond the package's share, or its tests'"] += len(texts) - len(kept)
    return [_document(package, fetched.version, path, texts[path], licence_of(path)) for path in kept], +left_out


def _files(package: Package, fetched: Fetched) -> tuple[dict[str, bytes], Counter[str]]:
    """The files of a package that may matter, from all its archives."""
    files: dict[str, bytes] = {}
    left_out: Counter[str] = Counter()
    for archive in fetched.archives:
        try:
            found, faults = read(archive, lambda path: _matters(path, package))
        except InputError as error:
            archive.unlink(missing_ok=True)  # the next run fetches it again
            raise UnavailableError("broken archive") from error
        files |= found
        left_out += faults
    return files, left_out


def _matters(path: str, package: Package) -> bool:
    name = PurePosixPath(path).name
    says = name in _METADATA or name.lower().startswith(_LICENCE_FILES)
    return says or bool(filters.language(path, package.languages))


def _fault(path: str, text: str | None, licence: str) -> str:
    """Why a file is left out, "" where it is not. The cheap questions come first."""
    if fault := filters.fault_of_path(path):
        return fault
    if not licence:
        return "licence"
    if text is None:
        return "not text"
    if fault := filters.fault_of_text(text):
        return fault
    if licences.is_copyleft(text):
        return "a licence of its own"
    return "secret" if filters.has_secret(text) else ""


def _document(package: Package, version: str, path: str, text: str, licence: str) -> Document:
    language = filters.language(path, package.languages)
    place = _INSTALLED.sub("", path)
    return Document(package.name, version, package.source, licence, language, place, text)


def _licences(package: Package, files: Mapping[str, bytes]) -> Callable[[str], str]:
    """The permissive licence of each file by its path, "" for the others. Raises UnavailableError where all are."""
    if package.source == "debian":
        copyright = licences.Copyright.parse(_first(files, "copyright"))
        whole = copyright.of_all()
        # A binary package has other paths than its source, which the file speaks of.
        licence_of = copyright.licence_of if "debian/copyright" in files else lambda path: whole
        if not any(map(licence_of, files)):
            raise UnavailableError("licence not permissive or unknown")
        return licence_of
    whole = _stated(package, files)
    if not whole:
        raise UnavailableError("licence not permissive or unknown")
    return lambda path: whole


def _stated(package: Package, files: Mapping[str, bytes]) -> str:
    if package.source == "npm":
        return licences.of_npm(_first(files, "package.json"))
    texts = [_lossy(data) for path, data in files.items() if _is_licence_file(path)]
    return licences.of_pypi(_first(files, "PKG-INFO") or _first(files, "METADATA"), texts)


def _is_licence_file(path: str) -> bool:
    """Whether it is the package's own: at the top, or in a wheel's folder of metadata."""
    folder, _, name = path.rpartition("/")
    return name.lower().startswith(_LICENCE_FILES) and (not folder or ".dist-info" in folder)


def _first(files: Mapping[str, bytes], name: str) -> str:
    """The text of the file of this name that is nearest to the top, "" where there is none."""
    paths = [path for path in files if PurePosixPath(path).name == name]
    return _lossy(files[min(paths, key=lambda path: path.count("/"))]) if paths else ""


def _lossy(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _write(folder: Path, parts: Sequence[Path], left_out: Counter[str], seed: int) -> dict[str, Any]:
    """Join the packages' files without near-duplicates; returns the manifest."""
    known = NearDuplicates(seed)
    packages = []
    with _replacing(folder / DOCUMENTS) as file:
        for part in parts:
            head, *lines = _lines(part)
            documents = [json.loads(line) for line in lines]
            fresh = [document for document in documents if not known.seen(document["text"])]
            file.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in fresh)
            left_out.update(json.loads(head)["left_out"])
            left_out["near-duplicate"] += len(documents) - len(fresh)
            left_out["package: no file left"] += not fresh
            packages += _entry(fresh)
    if not packages:
        raise InputError(f"Nothing of the packages can be used ({dict(left_out)}): list others and try again.")
    manifest = {"packages": packages, "left_out": dict(sorted((+left_out).items())), "seed": seed}
    draft = folder / f"{MANIFEST}.part"
    draft.write_text(_listed(manifest), encoding="utf-8")
    draft.replace(folder / MANIFEST)
    return manifest


def _listed(manifest: Mapping[str, Any]) -> str:
    """JSON with a line for each package, so that a change of the corpus is a change of lines."""
    others = {name: value for name, value in manifest.items() if name != "packages"}
    rows = ",\n".join(json.dumps(package, ensure_ascii=False) for package in manifest["packages"])
    return f'{{"packages": [\n{rows}\n],\n{json.dumps(others, ensure_ascii=False)[1:]}\n'


def _entry(documents: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """A package's line in the manifest, none for a package without documents. The licence is that of most files."""
    if not documents:
        return []
    first = documents[0]
    size = sum(len(document["text"].encode()) for document in documents)
    licence = Counter(document["licence"] for document in documents).most_common(1)[0][0]
    facts = {"name": first["package"], "version": first["version"], "source": first["source"], "licence": licence}
    return [{**facts, "files": len(documents), "bytes": size}]


def read_documents(folder: Path) -> Iterator[Document]:
    """The documents of a corpus that is complete, those of one package one after the other.

    Raises InputError where it is not there, cut off or not ours.
    """
    path = folder / DOCUMENTS
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                yield Document(**json.loads(line))
    except (*_DAMAGED, TypeError) as error:
        raise InputError(f"The corpus {path} cannot be read ({error}): build it again.") from error


def _lines(part: Path) -> list[str]:
    with gzip.open(part, "rt", encoding="utf-8", newline="\n") as file:
        return file.read().split("\n")[:-1]


def _head(part: Path) -> dict[str, Any]:
    """The first line of a package's file; empty where there is none or it is damaged."""
    try:
        return dict(json.loads(_lines(part)[0]))
    except (*_DAMAGED, LookupError, TypeError):
        return {}


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A gzipped text file that appears under its name when it is whole; the same texts give the same bytes."""
    draft = path.with_name(path.name + ".part")
    with (
        draft.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8", newline="\n") as file,
    ):
        yield file
    draft.replace(path)
