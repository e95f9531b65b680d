"""A corpus is made of any archives: goes on where it was killed, leaves out with a reason, writes nothing of theirs."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from habitab_adapters.pretrain import archives, corpus, packages, pip_client
from habitab_adapters.pretrain.packages import GONE, Fetched, Package, UnavailableError, load_packages
from habitab_engine.errors import InputError

CODE = b"def area(width, height):\n    return width * height\n\n\ndef side(area):\n    return area ** 0.5\n"
MIT = b"Metadata-Version: 2.4\nLicense-Expression: MIT\n"
Content = bytes | tuple[bytes, str]
LETTERS = str.maketrans("0123456789", "ghijklmnop")


def code(number: int) -> bytes:
    """Code unlike that of other numbers."""
    words = [hashlib.md5(f"{number} {i}".encode()).hexdigest().translate(LETTERS)[:8] for i in range(30)]
    return "".join(f"def {word}(x):\n    return x + {word[::-1]}\n" for word in words).encode()


def tarball(path: Path, members: Mapping[str, Content], kind: str = "gz") -> Path:
    """An archive of name and content; a pair instead of content is a member's type and what it points to."""
    with tarfile.open(path, f"w:{kind}") as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


def wheel(path: Path, members: Mapping[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if name in links else 0o100644) << 16
            file.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def is_code(path: str) -> bool:
    return path.endswith(".py")


# ---- archives ----

HOSTILE = {"a-1/../../evil.py": CODE, "a-1//evil.py": CODE, "a-1/./b.py": CODE, "a-1/b\\..\\c.py": CODE}


def test_only_regular_files_below_the_top_folder_are_read(tmp_path: Path) -> None:
    members: dict[str, Content] = {"a-1/a/b.py": CODE, "a-1/logo.png": b"x", **HOSTILE}
    members |= {"a-1/link.py": (tarfile.SYMTYPE, "/etc/passwd"), "a-1/hard.py": (tarfile.LNKTYPE, "a-1/a/b.py")}
    members |= {"a-1/pipe.py": (tarfile.FIFOTYPE, ""), "a-1/huge.py": b"#" * (archives.LARGEST_FILE + 1)}
    files, left_out = archives.read(tarball(tmp_path / "a-1.tar.gz", members), is_code)
    assert files == {"a/b.py": CODE}
    assert left_out == {"link or device": 3, "too large": 1, "unsafe path": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["a-1.tar.gz"]


def test_an_absolute_path_is_unsafe_and_several_tops_are_kept(tmp_path: Path) -> None:
    members = {"/etc/evil.py": CODE, "a/b.py": CODE, "c.py": CODE}
    files, left_out = archives.read(tarball(tmp_path / "a.tar.xz", members, "xz"), is_code)
    assert files == {"a/b.py": CODE, "c.py": CODE} and left_out == {"unsafe path": 1}


def test_a_wheel_is_read_without_links_and_has_no_top_folder(tmp_path: Path) -> None:
    path = wheel(tmp_path / "a.whl", {"a/b.py": CODE, "../evil.py": CODE, "a/link.py": b"/etc"}, ("a/link.py",))
    assert archives.read(path, is_code) == ({"a/b.py": CODE}, {"unsafe path": 1, "link or device": 1})


@pytest.mark.parametrize("kind", ["tar.gz", "whl"])
def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    members = {f"a/{i}.py": b"#" * 900_000 for i in range(4)}
    path = wheel(tmp_path / "a.whl", members) if kind == "whl" else tarball(tmp_path / "a.tar.gz", members)
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(archives, "MOST_BYTES", 2_000_000)
    with pytest.raises(InputError, match="too large"):
        archives.read(path, is_code)
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    with pytest.raises(InputError, match=r"too (many|large)"):
        archives.read(path, is_code)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.zip", "a.tar.xz", "a.rpm", "a.deb"])
def test_what_is_no_archive_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8bno archive" * 9)
    with pytest.raises(InputError, match=r"cannot be read \(.*\): delete it"):
        archives.read(tmp_path / name, is_code)


@pytest.mark.parametrize("cut", [20, 200, 400])
def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = tarball(tmp_path / "a.tar.gz", {f"a/{i}.py": os.urandom(300) for i in range(9)})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="cannot be read"):
        archives.read(path, is_code)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian's own tool is not here")
def test_a_debian_package_is_read_without_being_installed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a\nDescription: a\n"
    )
    (tree / "DEBIAN" / "postinst").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tree / "DEBIAN" / "postinst").chmod(0o755)
    (tree / "usr" / "share").mkdir(parents=True)
    (tree / "usr" / "share" / "a.py").write_bytes(CODE)
    command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(tmp_path / "a.deb")]
    subprocess.run(command, check=True, capture_output=True)
    assert archives.read(tmp_path / "a.deb", is_code)[0] == {"usr/share/a.py": CODE}
    assert not (tmp_path / "ran").exists()


# ---- what is learned of a package ----


def sdist(folder: Path, members: Mapping[str, Content], metadata: bytes = MIT) -> Fetched:
    folder.mkdir(parents=True, exist_ok=True)
    inside: dict[str, Content] = {f"a-1/{name}": content for name, content in members.items()}
    return Fetched("1", (tarball(folder / "a-1.tar.gz", {"a-1/PKG-INFO": metadata, **inside}),))


def of(package: Package, fetched: Fetched) -> tuple[list[str], dict[str, int]]:
    documents, left_out = corpus.documents_of(package, fetched, 0)
    assert all(document.source == package.source and document.version == "1" for document in documents)
    return [document.path for document in documents], dict(left_out)


PYTHON = Package("a", "pypi", ("python",))


def test_a_package_is_filtered_file_by_file_and_each_reason_counted(tmp_path: Path) -> None:
    key = "AKIA" + "QYLPMN5HFIQR7XYA"
    members: dict[str, Content] = {
        "a/core.py": CODE,
        "a/windows.py": b"\xef\xbb\xbf" + CODE.replace(b"\n", b"\r\n"),
        "a/_vendor/idna.py": CODE,
        "a/bottle.py": CODE,
        "a/rich/text.py": CODE,
        "a/latin.py": b"# \xe4\n" + CODE,
        "a/zero.py": CODE + b"\0",
        "a/gpl.py": b"# GNU General Public License\n" + CODE,
        "a/key.py": CODE + f"key = '{key}'\n".encode(),
        "a/data.py": b"X = [\n" + b"0x1f, 0x20, 3, 4,\n" * 99 + b"]\n",
        "a/__init__.py": b"",
        "a/made.py": b"# @generated\n" + CODE,
        "a/link.py": (tarfile.SYMTYPE, "core.py"),
        "a/other.js": CODE,
    }
    documents, left_out = corpus.documents_of(PYTHON, sdist(tmp_path, members), 0)
    assert [(one.path, one.text) for one in documents] == [(f"a/{n}.py", CODE.decode()) for n in ("core", "windows")]
    assert {(one.package, one.version, one.source, one.licence, one.language) for one in documents} == {
        ("a", "1", "pypi", "MIT", "python")
    }
    assert left_out == {
        "vendored": 1,
        "name of a history": 2,
        "not text": 2,
        "a licence of its own": 1,
        "secret": 1,
        "data": 1,
        "too short": 1,
        "generated or minified": 1,
        "link or device": 1,
    }


def test_a_package_never_has_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MOST_CHARACTERS", 5 * len(CODE))
    members = {f"a/{i}.py": CODE for i in range(9)} | {f"tests/test_{i}.py": CODE for i in range(9)}
    paths, left_out = of(PYTHON, sdist(tmp_path, members))
    assert len(paths) == 4 and sum(path.startswith("tests") for path in paths) == 1
    assert left_out == {"beyond the package's share, or its tests'": 14}


@pytest.mark.parametrize("metadata", [b"", b"License: GPL\n", b"License-Expression: MIT AND GPL-2.0\n"])
def test_a_package_without_a_permissive_licence_is_left_out(tmp_path: Path, metadata: bytes) -> None:
    with pytest.raises(UnavailableError, match="licence"):
        of(PYTHON, sdist(tmp_path, {"a.py": CODE}, metadata))


def test_a_wheel_s_own_licence_file_may_say_it(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "LICENSE").read_bytes()
    members = {"a/b.py": CODE, "a-1.dist-info/METADATA": b"Name: a\n", "a-1.dist-info/licenses/LICENSE": text}
    assert of(PYTHON, Fetched("1", (wheel(tmp_path / "a.whl", members),))) == (["a/b.py"], {})


def test_an_npm_package_has_its_top_manifest_s_licence(tmp_path: Path) -> None:
    members = {
        "package/src/a.ts": CODE,
        "package/dist/a.js": CODE,
        "package/package.json": b'{"license": "MIT"}',
        "package/src/b/package.json": b'{"license": "GPL-2.0"}',
    }
    fetched = Fetched("1", (tarball(tmp_path / "a-1.tgz", members),))
    assert of(Package("@x/a", "npm", ("javascript", "typescript")), fetched) == (["src/a.ts"], {"built": 1})


DEP5 = b"Format: https://x/copyright-format/1.0/\n\nFiles: *\nLicense: Expat\n\nFiles: gpl/*\nLicense: GPL-2+\n"


def test_a_debian_source_is_taken_file_by_file_and_a_binary_package_whole(tmp_path: Path) -> None:
    package = Package("a", "debian", ("c",))
    sources = tarball(tmp_path / "a_1.orig.tar.xz", {"a-1/src/a.c": CODE, "a-1/gpl/b.c": CODE}, "xz")
    control = tarball(tmp_path / "a_1-1.debian.tar.xz", {"debian/copyright": DEP5, "debian/c.c": CODE}, "xz")
    assert of(package, Fetched("1", (control, sources))) == (["src/a.c"], {"licence": 1, "vendored": 1})
    binary = {"./usr/share/doc/a/copyright": DEP5, "./usr/share/cargo/registry/a-1/b.c": CODE}
    with pytest.raises(UnavailableError, match="licence"):
        of(package, Fetched("1", (tarball(tmp_path / "a.tar.gz", {**binary, "./top": b""}),)))
    binary["./usr/share/doc/a/copyright"] = DEP5.replace(b"GPL-2+", b"ISC")
    paths, _ = of(package, Fetched("1", (tarball(tmp_path / "a.tar.gz", {**binary, "./top": b""}),)))
    assert paths == ["a-1/b.c"]


def test_a_broken_archive_leaves_its_package_out(tmp_path: Path) -> None:
    fetched = sdist(tmp_path, {"a.py": CODE})
    fetched.archives[0].write_bytes(b"nonsense")
    with pytest.raises(UnavailableError, match="broken archive"):
        of(PYTHON, fetched)
    assert not fetched.archives[0].exists()  # so that the next run fetches it again


# ---- the corpus ----

Shelf = dict[str, dict[str, bytes] | str]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Packages by name that can be fetched; a string is the reason why not. `asked` lists the names."""
    shelf: Shelf = {}

    def fetch(package: Package, folder: Path) -> Fetched:
        found = shelf.get(package.name, GONE)
        if isinstance(found, str):
            raise UnavailableError(found)
        return sdist(folder / package.key, found)

    monkeypatch.setattr(corpus, "fetch", fetch)
    return shelf


def listed(*names: str) -> list[Package]:
    return [Package(name, "pypi", ("python",)) for name in names]


def test_a_corpus_holds_each_package_s_documents_together_and_says_what_is_in_it(tmp_path: Path, shelf: Shelf) -> None:
    shelf |= {"one": {"a.py": code(1), "b.py": code(2)}, "two": {"c.py": code(3), "d.js": b""}, "slow": "too slow"}
    shelf |= {"copy": {"a.py": b"# a copy\n" + code(1)}}
    notes: list[str] = []
    manifest = corpus.build(tmp_path, listed("one", "two", "gone", "rich", "slow"), notes.append, seed=7)
    assert manifest == json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seed"] == 7 and len(notes) == 5
    assert sorted(entry["name"] for entry in manifest["packages"]) == ["one", "two"]
    first = next(entry for entry in manifest["packages"] if entry["name"] == "one")
    size = len(code(1)) + len(code(2))
    assert first == {"name": "one", "version": "1", "source": "pypi", "licence": "MIT", "files": 2, "bytes": size}
    assert manifest["left_out"] == {
        "package: a history that the base is tested on": 1,
        f"package: {GONE}": 1,
        "package: too slow": 1,
    }
    order = [document.package for document in corpus.read_documents(tmp_path)]
    assert sorted(order) == ["one", "one", "two"] and order != ["one", "two", "one"]
    copies = corpus.build(tmp_path / "2", listed("one", "copy"), notes.append)
    assert copies["left_out"]["near-duplicate"] == 1
    assert sum(entry["files"] for entry in copies["packages"]) == 2


def test_the_same_packages_and_seed_give_the_same_bytes(tmp_path: Path, shelf: Shelf) -> None:
    shelf |= {f"p{i}": {f"{j}.py": code(10 * i + j) for j in range(4)} for i in range(5)}
    for name in ("a", "b"):
        corpus.build(tmp_path / name, listed(*shelf), print)
    for file in (corpus.DOCUMENTS, corpus.MANIFEST):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_run_that_was_cut_off_goes_on_and_reads_no_package_twice(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf |= {f"p{i}": {"a.py": code(i)} for i in range(6)}
    read: list[str] = []
    real = corpus.documents_of

    def counted(package: Package, fetched: Fetched, seed: int) -> Any:
        if len(read) == 3:
            read.append("killed")
            raise KeyboardInterrupt
        read.append(package.name)
        return real(package, fetched, seed)

    monkeypatch.setattr(corpus, "documents_of", counted)
    with pytest.raises(KeyboardInterrupt):
        corpus.build(tmp_path, listed(*shelf), print)
    assert not (tmp_path / corpus.DOCUMENTS).exists()
    assert len(corpus.build(tmp_path, listed(*shelf), print)["packages"]) == 6
    assert sorted(read) == ["killed", *shelf]
    damaged = tmp_path / "packages" / "pypi-p0.jsonl.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    whole = (tmp_path / corpus.DOCUMENTS).read_bytes()
    corpus.build(tmp_path, listed(*shelf), print)
    assert read[-1] == "p0" and (tmp_path / corpus.DOCUMENTS).read_bytes() == whole
    corpus.build(tmp_path, listed(*shelf), print, seed=1)
    assert len(read) == 7 + 1 + 6


def test_no_connection_is_said_once_and_a_gone_package_never_stops_the_others(tmp_path: Path, shelf: Shelf) -> None:
    with pytest.raises(InputError, match=r"12 packages in a row .* check the connection"):
        corpus.build(tmp_path, listed(*(f"gone{i}" for i in range(30))), print)
    shelf["here"] = {"a.py": CODE}
    manifest = corpus.build(tmp_path, listed("here", *(f"gone{i}" for i in range(5))), print)
    assert manifest["left_out"] == {f"package: {GONE}": 5}
    shelf |= {f"other{i}": "npm is not installed" for i in range(30)}
    assert corpus.build(tmp_path, listed("here", *(f"other{i}" for i in range(30))), print)["packages"]


def test_nothing_of_use_is_one_sentence(tmp_path: Path, shelf: Shelf) -> None:
    shelf["empty"] = {"a.py": b""}
    with pytest.raises(InputError, match=r"Nothing of the packages can be used .*no file left"):
        corpus.build(tmp_path, listed("empty", "gone"), print)
    assert not (tmp_path / corpus.MANIFEST).exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf["a"] = {"a.py": CODE}
    monkeypatch.setattr(corpus.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="the disk is full"):
        corpus.build(tmp_path, listed("a"), print)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(corpus, "_part", full)
    with pytest.raises(InputError, match="the disk is full"):
        corpus.build(tmp_path, listed("a"), print)


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        corpus.build(tmp_path / "file", listed("a"), print)


@pytest.mark.parametrize("content", [None, b"nonsense", b"\x1f\x8b\x08\x00cut", "[1]\n", '{"path": 1}\n', "no json\n"])
def test_a_corpus_that_is_none_is_refused_in_one_sentence(tmp_path: Path, content: bytes | str | None) -> None:
    if isinstance(content, str):
        with corpus._replacing(tmp_path / corpus.DOCUMENTS) as file:
            file.write(content)
    elif content:
        (tmp_path / corpus.DOCUMENTS).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read .*: build it again"):
        list(corpus.read_documents(tmp_path))


# ---- the list, and fetching ----

BAD = ["--index-url=x", "a b", "../a", "", "a==1.0", "https://x/y.tar.gz", "-rx", "a;b", ".", "a/b/c"]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("source", packages.SOURCES)
def test_only_a_name_reaches_a_client(tmp_path: Path, name: str, source: str) -> None:
    with pytest.raises(InputError, match="is no package"):
        corpus.build(tmp_path, [Package(name, source, ("c",))], print)
    with pytest.raises(InputError, match="is no package"):
        packages.check_name(Package("a", "elsewhere", ("c",)))


@pytest.mark.parametrize("text", ["", "[group]", "group = 1", "[[group]]\nnames = 'a'", "[[group]\n", "\x00"])
def test_a_list_that_is_none_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"packages .* cannot be read"):
        load_packages(tmp_path / "missing.toml")
    (tmp_path / "list.toml").write_text(text)
    with pytest.raises(InputError, match=r"packages .* cannot be read"):
        load_packages(tmp_path / "list.toml")


Client = Callable[[list[str], Path], str]


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Client]]:
    """Stand-ins for the clients: (words that are in the command, what it does)."""
    known: list[tuple[list[str], Client]] = []

    def run(command: list[str], cwd: Path, **options: Any) -> SimpleNamespace:
        for words, client in known:
            if set(words) <= set(command):
                return SimpleNamespace(stdout=client(command, cwd))
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(packages.subprocess, "run", run)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/bin/{name}")
    return known


def test_archives_come_from_each_source_s_own_client_once(
    tmp_path: Path, clients: list[tuple[list[str], Client]]
) -> None:
    asked: list[str] = []

    def save(name: str, printed: str) -> Client:
        def client(command: list[str], folder: Path) -> str:
            asked.append(name)
            (folder if command[0] != sys.executable else Path(command[-1])).joinpath(name).write_bytes(b"x")
            return printed

        return client

    clients += [
        (["habitab_adapters.pretrain.pip_client", "a"], save("a-1.tar.gz", '{"version": "1", "file": "a-1.tar.gz"}')),
        (["npm", "pack", "--ignore-scripts", "@x/a"], save("x-a-2.tgz", '[{"version": "2", "filename": "x-a-2.tgz"}]')),
        (["apt-get", "download", "a-dev"], save("a-dev_3-1_all.deb", "")),
    ]
    wanted = {
        Package("a", "pypi", ("c",)): ("1", "a-1.tar.gz"),
        Package("@x/a", "npm", ("c",)): ("2", "x-a-2.tgz"),
        Package("a-dev", "debian", ("c",)): ("3-1", "a-dev_3-1_all.deb"),
    }
    for _ in range(2):
        for package, (version, name) in wanted.items():
            found = packages.fetch(package, tmp_path)
            assert (found.version, [path.name for path in found.archives]) == (version, [name])
    assert asked == ["a-1.tar.gz", "x-a-2.tgz", "a-dev_3-1_all.deb"]
    next(tmp_path.glob("npm-*/x-a-2.tgz")).unlink()
    packages.fetch(Package("@x/a", "npm", ("c",)), tmp_path)
    assert asked[3:] == ["x-a-2.tgz"]


def test_a_debian_source_is_preferred_and_its_index_made_once(
    tmp_path: Path, clients: list[tuple[list[str], Client]]
) -> None:
    asked: list[str] = []

    def targets(command: list[str], folder: Path) -> str:
        return "deb-src http://x/ stable main\n" * 2

    def update(command: list[str], folder: Path) -> str:
        assert (folder / "sources.list").read_text() == "deb-src http://x/ stable main\n"
        asked.append("update")
        (folder / "lists" / "x_Sources").touch()
        return ""

    def source(command: list[str], folder: Path) -> str:
        for ending in ("1.dsc", "1.orig.tar.gz", "1.orig.tar.gz.asc", "1.debian.tar.xz"):
            (folder / f"a_{ending}").write_bytes(b"x")
        return ""

    clients += [(["indextargets"], targets), (["update"], update), (["source", "--download-only"], source)]
    for name in ("a", "b"):
        found = packages.fetch(Package(f"{name}a", "debian", ("c",)), tmp_path)
        assert [path.name for path in found.archives] == ["a_1.debian.tar.xz", "a_1.orig.tar.gz"]
        assert found.version == "1"
    assert asked == ["update"]


@pytest.mark.parametrize("printed", ["", "null", "[]", "{}", "no json", '[{"name": "a"}]'])
def test_what_a_client_does_not_find_is_unavailable(
    tmp_path: Path, clients: list[tuple[list[str], Client]], printed: str
) -> None:
    clients.append((["npm"], lambda command, folder: printed))
    for source in packages.SOURCES:
        with pytest.raises(UnavailableError, match=GONE):
            packages.fetch(Package("aa", source, ("c",)), tmp_path)


def test_a_client_that_hangs_or_is_missing_leaves_its_package_out(
    tmp_path: Path, clients: list[tuple[list[str], Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(command: list[str], folder: Path) -> str:
        raise subprocess.TimeoutExpired(command, 1)

    clients.append((["npm"], hang))
    with pytest.raises(UnavailableError, match="too slow"):
        packages.fetch(Package("a", "npm", ("c",)), tmp_path)
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    for source, client in (("npm", "npm"), ("debian", "apt-get")):
        with pytest.raises(UnavailableError, match=f"{client} is not installed"):
            packages.fetch(Package("aa", source, ("c",)), tmp_path)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="pip is not installed"):
        packages.fetch(Package("aa", "pypi", ("c",)), tmp_path)


# ---- pip's side ----


def candidate(version: str, filename: str, yanked: bool = False) -> SimpleNamespace:
    from packaging.version import Version

    link = SimpleNamespace(is_wheel=filename.endswith(".whl"), is_yanked=yanked, filename=filename)
    return SimpleNamespace(version=Version(version), link=link)


def test_the_newest_final_release_is_taken_its_sources_first() -> None:
    found = [candidate("1.9", "a-1.9.tar.gz"), candidate("2.0rc1", "a-2.0rc1.tar.gz"), candidate("1.11", "x", True)]
    found += [candidate("1.10", "a-1.10-cp311-cp311-linux.whl"), candidate("1.10", "a-1.10-py3-none-any.whl")]
    assert [one.link.filename for one in pip_client.newest(found)] == [
        "a-1.10-py3-none-any.whl",
        "a-1.10-cp311-cp311-linux.whl",
    ]
    found.append(candidate("1.10", "a-1.10.tar.gz"))
    assert pip_client.newest(found)[0].link.filename == "a-1.10.tar.gz"
    assert pip_client.newest([]) == []


class Session:
    """Stands for pip's network session."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.body, self.status_code = body, status

    def get(self, url: str, **options: Any) -> Session:
        return self

    def iter_content(self, size: int) -> Iterator[bytes]:
        yield self.body[:3]
        yield self.body[3:]


def test_an_archive_is_kept_only_whole_and_as_the_index_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, target = b"an archive", tmp_path / "a"

    def link(digest: str | None) -> SimpleNamespace:
        return SimpleNamespace(url_without_fragment="https://x/a", hash_name=digest and "sha256", hash=digest)

    assert pip_client.fetch(Session(body), link(hashlib.sha256(body).hexdigest()), target)
    assert pip_client.fetch(Session(body), link(None), target) and target.read_bytes() == body
    assert not pip_client.fetch(Session(body), link("00"), target) and not target.exists()
    assert not pip_client.fetch(Session(body, status=404), link(None), target)
    monkeypatch.setattr(pip_client, "LARGEST_ARCHIVE", 5)
    assert not pip_client.fetch(Session(body), link(None), target) and not target.exists()


def test_pip_has_what_is_used_of_it(tmp_path: Path) -> None:
    """Pip's inside is nobody's promise; without an index it finds nothing, and that is said in JSON."""
    command = [sys.executable, "-m", "habitab_adapters.pretrain.pip_client", "habitab-no-such-package", str(tmp_path)]
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is None and list(tmp_path.iterdir()) == []
