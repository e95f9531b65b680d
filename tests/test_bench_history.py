"""Archives of strangers are read without a trace outside, and become commits in the order of their uploads."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters.lines import make_plan
from habitab_adapters.pretrain import pip_client
from habitab_adapters.repository import Repository
from habitab_engine.errors import InputError
from habitab_server import bench_history, bench_pip, cli
from habitab_server.bench_history import Release, in_order, read_release, write

CODE = b"answer = 42\n"


def sdist(path: Path, members: list[tuple[str, bytes | tuple[bytes, str]]], time: int = 1_600_000_000) -> Path:
    """An archive of (name, content); a pair instead of content is a member's type and what it points to."""
    with tarfile.open(path, "w:gz") as tar:
        for number, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.mtime = time + number
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return path


def wheel(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, (2021, 5, 6, 7, 8, 10))
            entry.external_attr = (0o120777 if name in links else 0o100644) << 16
            file.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def test_only_harmless_source_files_of_a_source_archive_are_read(tmp_path: Path) -> None:
    archive = sdist(
        tmp_path / "a-1.0.tar.gz",
        [
            ("a-1.0/a/__init__.py", CODE),
            ("a-1.0/a/logo.png", b"\x89PNG"),
            ("a-1.0/a.egg-info/top_level.txt", b"a\n"),
            ("a-1.0/../../evil.py", CODE),
            ("/etc/evil.py", CODE),
            ("a-1.0//evil.py", CODE),
            ("a-1.0/.git/hooks/evil.py", CODE),
            ("a-1.0/link.py", (tarfile.SYMTYPE, "/etc/passwd")),
            ("a-1.0/hard.py", (tarfile.LNKTYPE, "a-1.0/a/__init__.py")),
            ("a-1.0/pipe.py", (tarfile.FIFOTYPE, "")),
            ("a-1.0/huge.py", b"#" * 1_000_001),
        ],
    )
    release = read_release("1.0", archive)
    assert release.files == {"a/__init__.py": CODE}
    assert release.day == "2020-09-13"


def test_a_wheel_is_read_without_links_and_records(tmp_path: Path) -> None:
    members = {"a/b.py": CODE, "a-1.0.dist-info/METADATA.md": b"x", "../evil.py": CODE, "link.py": b"/etc/passwd"}
    release = read_release("1.0", wheel(tmp_path / "a-1.0-py3-none-any.whl", members, links=("link.py",)))
    assert release.files == {"a/b.py": CODE} and release.day == "2021-05-06"


@pytest.mark.parametrize("kind", ["tar.gz", "whl"])
def test_an_archive_that_grows_without_end_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(bench_history, "MOST_BYTES", 2_000_000)
    names = [f"a-1.0/f{i}.py" for i in range(3)]
    if kind == "whl":
        archive = wheel(tmp_path / "a.whl", {name: b"#" * 900_000 for name in names})
    else:
        archive = sdist(tmp_path / "a.tar.gz", [(name, b"#" * 900_000) for name in names])
    assert archive.stat().st_size < 50_000
    assert read_release("1.0", archive).files == {}


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip", "a.tar.bz2", "a.tar.xz", "a.rpm"])
def test_a_broken_or_foreign_archive_gives_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8bno archive" * 9)
    assert read_release("1.0", tmp_path / name).files == {}


def test_an_archive_with_too_many_files_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_history, "MOST_FILES", 2)
    assert read_release("1", sdist(tmp_path / "a.tar.gz", [(f"a/{i}.py", CODE) for i in range(3)])).files == {}


def release(version: str, time: int) -> Release:
    return Release(version, time, {"a.py": version.encode()})


def test_releases_come_by_upload_without_those_that_mend_an_older_line() -> None:
    by_version = [release("1.0", 10), release("1.0.1", 40), release("2.0", 20), release("2.1", 50)]
    assert [r.version for r in in_order([(r, True) for r in by_version])] == ["1.0", "2.0", "2.1"]


def test_without_the_index_s_times_versions_give_the_order() -> None:
    by_version = [release("1.0", 30), release("2.0", 10), release("3.0", 40)]
    found = in_order([(by_version[0], True), (by_version[1], False), (by_version[2], True)])
    assert [(r.version, r.time) for r in found] == [("1.0", 30), ("2.0", 30), ("3.0", 40)]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1))
def test_times_and_versions_only_rise(rows: list[tuple[int, bool]]) -> None:
    found = in_order([(release(f"{i:02}", time), known) for i, (time, known) in enumerate(rows)])
    assert found == sorted(found, key=lambda r: r.version) == sorted(found, key=lambda r: r.time) and found


NAMES = ["a.py", "with space.py", 'quo"te.py', "größe.py", "deep/er/𝄞.ts", ".gitignore"]


def test_a_repository_holds_each_release_as_one_commit(tmp_path: Path) -> None:
    releases = [
        Release("1.0", 1_000_000_000, {name: f"{name} 1\n".encode() for name in NAMES}),
        Release("2.0", 1_000_086_400, {name: f"{name} 2\r\n".encode() for name in NAMES[1:]}),
    ]
    write(tmp_path / "repo", "some-package", releases)
    with Repository(tmp_path / "repo") as repository:
        commits = repository.commits()
        for commit, made in zip(commits, releases, strict=True):
            for name in NAMES:
                assert repository.blob(f"{commit.id}:{name}") == made.files.get(name)
        assert len(make_plan(repository, 0.5, None, None).lines) == len(NAMES) - 3  # git quotes a name with a quote
    log = ["git", "-C", str(tmp_path / "repo"), "log", "--format=%s %ct", "--reverse"]
    said = subprocess.run(log, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["some-package 1.0 1000000000", "some-package 2.0 1000086400"]
    again = tmp_path / "again"
    write(again, "some-package", releases)
    with Repository(again) as repository:
        assert repository.commits() == commits


# ---- the command ----


def pip_that_downloads(monkeypatch: pytest.MonkeyPatch, found: list[dict[str, str]], code: int = 0) -> None:
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if "habitab_server.bench_pip" not in command:
            return real(command, **options)
        for number, facts in enumerate(found):
            sdist(Path(command[4], facts["file"]), [(f"a-{number}/a.py", b"value = %d\n" % number)])
        return SimpleNamespace(returncode=code, stdout=f"a warning\n{json.dumps(found)}\n")

    monkeypatch.setattr(subprocess, "run", run)


def test_the_command_makes_the_repository_and_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = [{"version": f"1.{i}", "file": f"a-1.{i}.tar.gz", "uploaded": f"202{i}-01-02T03:04:05.6Z"} for i in (1, 2)]
    pip_that_downloads(monkeypatch, found)
    for _ in range(2):
        assert cli.run(["--home", str(tmp_path / "h"), "bench", "history", "Some_Package"]) == 0
        result = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert result["releases"] == ["1.1", "1.2"]
        assert Path(result["repo"]).name == "some-package.git"
        with Repository(Path(result["repo"])) as repository:
            assert len(repository.commits()) == 2
        assert [path.name for path in Path(result["repo"]).parent.iterdir()] == ["some-package.git"]


@pytest.mark.parametrize("name", ["--index-url=x", "a b", "../a", "", "a==1.0", "https://x/y.tar.gz"])
def test_only_a_name_reaches_pip(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name of a package"):
        bench_history.make(tmp_path, name)


def test_faults_of_the_download_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that_downloads(monkeypatch, [], code=1)
    with pytest.raises(InputError, match="connection"):
        bench_history.make(tmp_path, "some-package")
    pip_that_downloads(monkeypatch, [])
    with pytest.raises(InputError, match="check the name"):
        bench_history.make(tmp_path, "some-package")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(bench_history.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="ensurepip"):
        bench_history.make(tmp_path, "some-package")


# ---- what pip's side does ----


def candidate(version: str, is_wheel: bool = False, **facts: bool) -> SimpleNamespace:
    from packaging.version import Version

    link = SimpleNamespace(is_wheel=is_wheel, is_yanked=facts.get("yanked", False), filename=f"{version}-{is_wheel}")
    return SimpleNamespace(version=Version(version), link=link)


def test_all_releases_are_of_one_kind_final_and_by_version() -> None:
    found = [candidate("1.10"), candidate("1.9"), candidate("2.0rc1"), candidate("1.8", yanked=True)]
    found += [candidate("1.9", is_wheel=True), candidate("1.10", is_wheel=True)]
    assert [(v, link.is_wheel) for v, link in bench_pip.one_kind(found)] == [("1.9", False), ("1.10", False)]
    found.append(candidate("1.11", is_wheel=True))
    assert [v for v, link in bench_pip.one_kind(found) if link.is_wheel] == ["1.9", "1.10", "1.11"]


class Session:
    """Stands for pip's network session."""

    def __init__(self, body: bytes = b"", status: int = 200, kind: str = "") -> None:
        self.body, self.status_code, self.headers = body, status, {"Content-Type": kind}

    def get(self, url: str, **options: Any) -> Session:
        return self

    def iter_content(self, size: int) -> Iterator[bytes]:
        yield self.body[:3]
        yield self.body[3:]

    def json(self) -> Any:
        return json.loads(self.body)


def link(digest: str | None) -> SimpleNamespace:
    return SimpleNamespace(url_without_fragment="https://x/a", hash_name=digest and "sha256", hash=digest)


def test_an_archive_counts_only_whole_and_as_the_index_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, target = b"an archive", tmp_path / "a"
    assert pip_client.fetch(Session(body), link(hashlib.sha256(body).hexdigest()), target)
    assert target.read_bytes() == body
    assert pip_client.fetch(Session(body), link(None), target)
    assert not pip_client.fetch(Session(body), link("00"), target)
    assert not pip_client.fetch(Session(body, status=404), link(None), target)
    monkeypatch.setattr(pip_client, "LARGEST_ARCHIVE", 5)
    assert not pip_client.fetch(Session(body), link(None), target)


def test_times_of_upload_are_taken_where_the_index_has_them() -> None:
    files = [{"filename": "a", "upload-time": "2020-01-01T00:00:00Z"}, {"filename": "b"}]
    body, kind = json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json"
    assert bench_pip.upload_times(Session(body, kind=kind), ["https://x"], "a") == {"a": "2020-01-01T00:00:00Z"}
    assert bench_pip.upload_times(Session(b"<html>", kind="text/html"), ["https://x", "file:///y"], "a") == {}


def test_pip_has_what_is_used_of_it(tmp_path: Path) -> None:
    """Pip's inside is nobody's promise; without an index it finds nothing, and that is said in JSON."""
    command = [sys.executable, "-m", "habitab_server.bench_pip", "habitab-no-such-package", str(tmp_path), "5"]
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [] and list(tmp_path.iterdir()) == []
