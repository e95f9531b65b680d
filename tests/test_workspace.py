from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from habitab_engine import workspace as module
from habitab_engine.workspace import Workspace

PATIENCE = 20.0
CODE = "def total(prices):\n    return sum(prices)\n"


def write(path: Path, text: str = CODE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it comes true within `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_REST_SECONDS", 0.1)
    monkeypatch.setattr(module, "_REST", 0.0)
    (tmp_path / "work" / ".git" / "info").mkdir(parents=True)
    return tmp_path / "work"


class Ear:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def on_text(self, path: str, text: str) -> None:
        self.texts[path] = text

    def on_gone(self, path: str) -> None:
        del self.texts[path]


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def opened(root: Path, ear: Ear) -> Iterator[Callable[..., Workspace]]:
    made: list[Workspace] = []

    def open_it(**options: object) -> Workspace:
        options = {"on_text": ear.on_text, "on_gone": ear.on_gone} | options
        made.append(Workspace(root, **options))  # type: ignore[arg-type]
        return made[-1]

    yield open_it
    for workspace in made:
        workspace.close()


def settled(workspace: Workspace) -> list[str]:
    assert workspace.settle(PATIENCE)
    return sorted(workspace.index.paths())


def test_a_folder_is_indexed_and_told_of(root: Path, ear: Ear, opened: Callable[..., Workspace]) -> None:
    write(root / "a.py")
    write(root / "src" / "b.py", "x = 1\n")
    workspace = opened()
    assert settled(workspace) == ["a.py", "src/b.py"]
    assert ear.texts == {str(root / "a.py"): CODE, str(root / "src" / "b.py"): "x = 1\n"} == dict(workspace.texts())


def test_changes_on_disk_are_noticed(root: Path, ear: Ear, opened: Callable[..., Workspace]) -> None:
    write(root / "a.py")
    workspace = opened()
    settled(workspace)
    write(root / "b.py", "new = 1\n")
    write(root / "fresh" / "c.py", "made = 1\n")
    (root / "a.py").unlink()
    assert eventually(lambda: sorted(workspace.index.paths()) == ["b.py", "fresh/c.py"])
    write(root / "fresh" / "c.py", "changed = 2\n")
    assert eventually(lambda: workspace.index.text("fresh/c.py") == "changed = 2\n")
    assert eventually(lambda: sorted(Path(path).name for path in ear.texts) == ["b.py", "c.py"])


def test_a_file_that_becomes_ignored_is_forgotten(root: Path, ear: Ear, opened: Callable[..., Workspace]) -> None:
    write(root / "keys.py")
    write(root / "a.py")
    workspace = opened()
    workspace.observe("uri:keys", str(root / "keys.py"), "token = 'abc'\n")
    assert settled(workspace) == ["a.py", "keys.py"]
    rules = write(root / ".gitignore", "keys.py\n")
    assert eventually(lambda: workspace.index.paths() == ["a.py"])
    assert list(ear.texts) == [str(root / "a.py")]
    assert workspace.document("uri:keys") is None
    rules.unlink()
    workspace.refresh([rules])
    assert settled(workspace) == ["a.py", "keys.py"]


def test_the_repositorys_exclude_file_is_watched(root: Path, opened: Callable[..., Workspace]) -> None:
    write(root / "a.py")
    workspace = opened()
    assert settled(workspace) == ["a.py"]
    write(root / ".git" / "info" / "exclude", "a.py\n")
    assert eventually(lambda: workspace.index.paths() == [])


def test_an_open_document_counts_as_its_editor_has_it(root: Path, opened: Callable[..., Workspace]) -> None:
    path = write(root / "a.py")
    workspace = opened()
    settled(workspace)
    workspace.observe("uri:a", str(path), "typed = 1\n")
    assert settled(workspace) == ["a.py"]
    assert workspace.index.text("a.py") == "typed = 1\n"
    write(path, "changed_on_disk = 1\n")
    workspace.refresh([path])
    settled(workspace)
    assert workspace.index.text("a.py") == "typed = 1\n"
    workspace.forget("uri:a")
    settled(workspace)
    assert workspace.index.text("a.py") == "changed_on_disk = 1\n"


def test_a_document_without_a_file_lives_as_long_as_it_is_open(opened: Callable[..., Workspace]) -> None:
    workspace = opened()
    workspace.observe("untitled:1", "", CODE)
    assert settled(workspace) == ["untitled:1"]
    workspace.forget("untitled:1")
    assert settled(workspace) == []


def test_a_document_closed_and_opened_again_at_once_stays(root: Path, opened: Callable[..., Workspace]) -> None:
    path = write(root / "a.py")
    workspace = opened()
    workspace.observe("uri:a", str(path), "typed = 1\n")
    settled(workspace)
    workspace.forget("uri:a")
    workspace.observe("uri:a", str(path), "typed = 2\n")
    settled(workspace)
    assert workspace.index.text("a.py") == "typed = 2\n"


def test_a_file_deleted_while_it_was_open_is_told_of(root: Path, ear: Ear, opened: Callable[..., Workspace]) -> None:
    path = write(root / "a.py")
    workspace = opened()
    settled(workspace)
    workspace.observe("uri:a", str(path), "typed = 1\n")
    settled(workspace)
    path.unlink()
    workspace.forget("uri:a")
    assert settled(workspace) == []
    assert ear.texts == {}


@pytest.mark.parametrize("name", [".env", "secrets.yaml", "hidden/a.py"])
def test_a_private_document_is_not_served(root: Path, opened: Callable[..., Workspace], name: str) -> None:
    write(root / ".gitignore", "hidden/\n")
    workspace = opened()
    workspace.observe("uri:secret", str(write(root / name)), CODE)
    assert settled(workspace) == []
    assert workspace.document("uri:secret") is None
    assert workspace.documents() == []


def test_a_link_to_a_secret_is_not_served(root: Path, tmp_path: Path, opened: Callable[..., Workspace]) -> None:
    (root / "a.py").symlink_to(write(tmp_path / "secrets.yaml"))
    workspace = opened()
    workspace.observe("uri:a", str(root / "a.py"), CODE)
    assert settled(workspace) == []


@pytest.mark.parametrize(
    "text", ["x\0y = 1\n", "x=1;" * 1_000, "# Code generated by x. DO NOT EDIT.\n", "x = 1\n" * 100_000]
)
def test_odd_documents_are_not_indexed(opened: Callable[..., Workspace], text: str) -> None:
    workspace = opened()
    workspace.observe("untitled:1", "", text)
    assert settled(workspace) == []


def test_too_many_files_and_too_much_text_are_left_out(
    root: Path, opened: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(10):
        write(root / f"{i}.py", f"x{i} = 1\n")
    monkeypatch.setattr(module, "MOST_FILES", 3)
    assert len(settled(opened())) == 3
    monkeypatch.setattr(module, "MOST_TOTAL_BYTES", 16)
    assert len(settled(opened())) == 2


def test_too_many_documents_are_forgotten_the_oldest_first(
    opened: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_DOCUMENTS", 2)
    workspace = opened()
    for i in range(4):
        workspace.observe(f"untitled:{i}", "", CODE)
    assert settled(workspace) == ["untitled:2", "untitled:3"]


def test_the_work_waits_while_it_is_told_to(root: Path, opened: Callable[..., Workspace]) -> None:
    write(root / "a.py")
    may_go = threading.Event()
    workspace = opened(pause=lambda: may_go.wait(PATIENCE))
    assert not workspace.settle(0.3)
    assert workspace.index.paths() == []
    may_go.set()
    assert settled(workspace) == ["a.py"]


def test_a_folder_that_hangs_stops_nobody_else(
    root: Path, tmp_path: Path, opened: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "slow" / "a.py")
    hangs, scandir = threading.Event(), os.scandir

    def slow(path: Path) -> object:
        if Path(path).name == "slow":
            hangs.wait(PATIENCE)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    workspace = opened()
    assert not workspace.settle(0.5)
    workspace.observe("uri:b", str(root / "b.py"), CODE)
    assert (workspace.document("uri:b"), workspace.documents()) == (None, [])
    write(tmp_path / "other" / "c.py")
    other = Workspace(tmp_path / "other")
    assert settled(other) == ["c.py"]
    other.close()
    hangs.set()


def test_one_file_that_fails_does_not_end_the_reading(
    root: Path, opened: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "a.py")
    write(root / "b.py", "fine = 1\n")
    put = module.Index.put

    def failing(self: module.Index, path: str, *rest: object) -> object:
        if path == "a.py":
            raise RuntimeError
        return put(self, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Index, "put", failing)
    assert settled(opened()) == ["b.py"]


def test_a_closed_workspace_has_no_threads(root: Path) -> None:
    write(root / "a.py")
    workspace = Workspace(root)
    settled(workspace)
    workspace.close()
    assert not [t for t in (workspace._thread, workspace._watcher._thread) if t is not None and t.is_alive()]
