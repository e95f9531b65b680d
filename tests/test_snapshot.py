"""A folder without git becomes a history in the order of its changes, without what habitab never reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from habitab_adapters.repository import Repository
from habitab_adapters.snapshot import WHO, as_history
from habitab_engine.errors import InputError


def write(folder: Path, name: str, text: str | bytes, changed: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, (changed, changed))


def test_files_are_committed_one_by_one_from_the_oldest_to_the_newest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source, "new.py", "new = 1\n", 1_700_000_300)
    write(source, "deep/old file.py", "old = 1\n", 1_700_000_100)
    write(source, 'quo"ted.py', "quoted = 1\n", 1_700_000_200)
    with Repository(as_history(source, tmp_path / "history")) as repository:
        commits = repository.commits()
        added = list(repository.added([commit.id for commit in commits]))
        assert [a.path for a in added] == ["deep/old file.py", "new.py"]  # git quotes the third name: passed over
        assert [commit.written for commit in commits] == [1_700_000_100, 1_700_000_200, 1_700_000_300]
        assert {commit.author for commit in commits} == {WHO}
        assert repository.blob(f"{commits[-1].id}:deep/old file.py") == b"old = 1\n"


def test_secrets_ignored_binary_and_foreign_files_stay_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (".env", "id_rsa.py", "node_modules/x.js", "vendor/y.py", "ignored/z.py", "notes.txt"):
        write(source, name, "value = 1\n", 1)
    write(source, "binary.py", b"\xff\x00", 1)
    write(source, ".gitignore", "ignored/\n", 1)
    write(source, "kept.py", "kept = 1\n", 2)
    (source / ".git").mkdir()
    with Repository(as_history(source, tmp_path / "history")) as repository:
        added = list(repository.added([commit.id for commit in repository.commits()]))
    assert [a.path for a in added] == ["kept.py"]


def test_a_folder_without_code_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source file"):
        as_history(tmp_path, tmp_path / "history")
