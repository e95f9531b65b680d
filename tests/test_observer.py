"""What the engine is told of folders and documents: soon, seldom, and nothing that is private or switched off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from habitab_engine.config import Settings
from habitab_engine.types import Folder, OpenText
from habitab_server import observer as observer_module
from habitab_server.documents import Document, Documents
from habitab_server.observer import Observer
from habitab_server.scope import Scope
from links import SetLink


class Setting:
    def __init__(self, folder: Path) -> None:
        self.folder, self.link = folder, SetLink()
        self.documents, self.scope = Documents(), Scope()
        self.tasks: list[asyncio.Task[None]] = []
        self.scope.set_folders([folder.as_uri()])
        self.observer = Observer(self.documents, self.scope, self._spawn)
        self.observer.link = self.link

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def open(self, name: str, text: str) -> Document:
        document = Document((self.folder / name).as_uri(), "python", 1, text)
        self.documents.open(document)
        self.observer.changed(document)
        return document


@pytest.fixture
async def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setting]:
    monkeypatch.setattr(observer_module, "QUIET_SECONDS", 0.01)
    made = Setting(tmp_path)
    yield made
    made.observer.close()
    await asyncio.gather(*made.tasks)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


async def test_many_edits_are_told_as_one_text(setting: Setting) -> None:
    document = setting.open("a.py", "x = 1\n")
    for version in range(2, 9):
        document.change(version, "y", (0, 0, 0, 0))
        setting.observer.changed(document)
    await until(lambda: bool(setting.link.observed))
    root = str(setting.folder)
    assert setting.link.observed == [OpenText(document.uri, "yyyyyyyx = 1\n", str(setting.folder / "a.py"), root)]


async def test_a_new_engine_is_told_everything(setting: Setting) -> None:
    setting.open("a.py", "x = 1\n")
    setting.open("b.py", "y = 1\n")
    setting.scope.set_private(("*.sql",), False)
    setting.observer.introduce()
    await until(lambda: len(setting.link.observed) == 2)
    assert setting.link.folders == [Folder(str(setting.folder), ("*.sql",), False)]


async def test_a_secret_is_never_told(setting: Setting) -> None:
    setting.open(".env", "TOKEN=1\n")
    setting.open("a.py", "x = 1\n")
    await until(lambda: bool(setting.link.observed))
    assert [text.text for text in setting.link.observed] == ["x = 1\n"]


@pytest.mark.parametrize(
    "values",
    [
        {"enabled": False},
        {"privateGlobs": 3},
        {
            "contextOpen": False,
            "contextEdits": False,
            "contextImports": False,
            "contextSimilar": False,
            "memory": False,
        },
    ],
)
async def test_nothing_is_told_where_nothing_may_be_used(setting: Setting, values: dict[str, Any]) -> None:
    setting.observer.configure(Settings.from_json(values)[0])
    setting.open("a.py", "x = 1\n")
    await asyncio.sleep(0.05)
    assert setting.link.folders == setting.link.observed == []


async def test_a_closed_document_is_not_told_any_more(setting: Setting) -> None:
    document = setting.open("a.py", "x = 1\n")
    setting.observer.forget(document.uri)
    await asyncio.sleep(0.05)
    assert setting.link.observed == []


async def test_a_huge_document_is_told_without_its_text(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer_module, "MOST_CHARACTERS", 10)
    setting.open("a.py", "x = 123456789\n")
    await until(lambda: bool(setting.link.observed))
    assert setting.link.observed[0].text == ""


async def test_an_engine_that_is_gone_disturbs_nobody(setting: Setting) -> None:
    setting.link.fault = "no engine"
    setting.observer.introduce()
    await until(lambda: bool(setting.link.folders))
