from __future__ import annotations

import os
from pathlib import Path

import pytest

from habitab_engine.errors import InputError, NotTextError
from habitab_engine.privacy import read_text, why_private


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work" / ".git" / "info").mkdir(parents=True)
    (tmp_path / "work" / "src").mkdir()
    return tmp_path / "work"


def write(path: Path, text: str | bytes = "x = 1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


SECRETS = [
    *(".env", ".env.local", ".env.example", "a.pem", "A.PEM", "b.key", "c.crt", "d.cert", "e.p12", "f.pfx"),
    *(
        "g.kdbx",
        "h.jks",
        "secrets.yml",
        "secrets.yaml",
        "id_rsa",
        "id_ed25519",
        ".npmrc",
        ".netrc",
        ".pypirc",
    ),
    *(".htpasswd", "credentials", "credentials.json", ".git/config", ".ssh/config"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_private(work: Path, name: str) -> None:
    assert why_private(write(work / name), [work])


@pytest.mark.parametrize("name", ["a.py", "src/env.py", "src/keys.py", "README.md", "Makefile", ".gitignore"])
def test_an_ordinary_file_is_not_private(work: Path, name: str) -> None:
    assert why_private(write(work / name), [work]) is None


def test_a_file_that_does_not_exist_yet_is_judged_by_its_name(work: Path) -> None:
    assert why_private(work / "new.py", [work]) is None
    assert why_private(work / ".env", [work])


def test_what_git_ignores_is_private(work: Path) -> None:
    write(work / ".gitignore", "*.gen.py\n/build/\n")
    assert why_private(work / "src" / "a.gen.py", [work]) == "git ignores it"
    assert why_private(work / "build" / "deep" / "a.py", [work]) == "git ignores it"
    assert why_private(work / "src" / "build" / "a.py", [work]) is None


def test_a_deeper_gitignore_decides_over_one_above(work: Path) -> None:
    write(work / ".gitignore", "*.log.py\n")
    write(work / "src" / ".gitignore", "!keep.log.py\nlocal.py\n")
    assert why_private(work / "src" / "keep.log.py", [work]) is None
    assert why_private(work / "src" / "other.log.py", [work])
    assert why_private(work / "src" / "local.py", [work])
    assert why_private(work / "local.py", [work]) is None


def test_nothing_in_an_ignored_folder_can_be_taken_back(work: Path) -> None:
    write(work / ".gitignore", "out/\n")
    write(work / "out" / ".gitignore", "!a.py\n")
    assert why_private(work / "out" / "a.py", [work])


def test_the_repositorys_own_exclude_file_counts(work: Path) -> None:
    write(work / ".git" / "info" / "exclude", "scratch.py\n")
    assert why_private(work / "src" / "scratch.py", [])


def test_the_exclude_file_of_a_linked_work_tree_is_the_repositorys(work: Path, tmp_path: Path) -> None:
    write(work / ".git" / "info" / "exclude", "scratch.py\n")
    write(work / ".git" / "worktrees" / "b" / "commondir", "../..\n")
    write(tmp_path / "b" / ".git", f"gitdir: {work / '.git' / 'worktrees' / 'b'}\n")
    assert why_private(tmp_path / "b" / "scratch.py", [])
    assert why_private(tmp_path / "b" / "other.py", []) is None


def test_rules_above_a_workspace_folder_inside_the_repository_count(work: Path) -> None:
    write(work / ".gitignore", "src/a.py\n")
    assert why_private(work / "src" / "a.py", [work / "src"])


def test_rules_count_in_a_workspace_without_git(tmp_path: Path) -> None:
    write(tmp_path / "plain" / ".gitignore", "a.py\n")
    assert why_private(tmp_path / "plain" / "deep" / "a.py", [tmp_path / "plain"])


def test_a_changed_gitignore_is_read_again(work: Path) -> None:
    rules = write(work / ".gitignore", "a.py\n")
    assert why_private(work / "a.py", [work])
    write(rules, "b.py\n")
    os.utime(rules, ns=(1, 1))
    assert why_private(work / "a.py", [work]) is None


def test_the_persons_own_patterns_count(work: Path) -> None:
    assert why_private(work / "src" / "a.sql", [work], ["*.sql"]) == "the privacy setting excludes it"
    assert why_private(work / "src" / "a.py", [work], ["*.sql"]) is None


@pytest.mark.parametrize("glob", ["", "  ", "[z-a]", "foo[", "!*.py", "# all", "\\", 3, None])
def test_a_broken_privacy_setting_fails_closed(work: Path, glob: str) -> None:
    reason = why_private(work / "a.py", [work], [glob])
    assert reason and "not valid" in reason


@pytest.mark.parametrize("content", [b"\xff\xfea\x00", b"[z-a]\n", b"\\\n"])
def test_a_gitignore_that_makes_no_sense_fails_closed(work: Path, content: bytes) -> None:
    write(work / ".gitignore", content)
    reason = why_private(work / "src" / "a.py", [work])
    assert reason and ".gitignore cannot be understood" in reason


def test_a_gitignore_that_cannot_be_read_fails_closed(work: Path) -> None:
    (work / ".gitignore").mkdir()
    assert why_private(work / "a.py", [work])


def test_a_link_to_a_secret_is_private(work: Path) -> None:
    write(work / ".env")
    (work / "notes.txt").symlink_to(work / ".env")
    assert why_private(work / "notes.txt", [work])


def test_text_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_text(write(tmp_path / "a.py", "é = '𝄞'\r\n")) == "é = '𝄞'\r\n"
    assert read_text(write(tmp_path / "b.py", b"\xef\xbb\xbfx")) == "x"
    assert read_text(write(tmp_path / "c.py", "abc"), limit_bytes=3) == "abc"


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", b"caf\xe9", "x".encode("utf-16")])
def test_what_is_no_text_is_refused_with_one_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(NotTextError, match=r"text.*\.$"):
        read_text(write(tmp_path / "a.bin", content))


def test_what_cannot_be_read_is_refused_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        read_text(tmp_path / "missing.py")
    with pytest.raises(InputError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(InputError, match="too large"):
        read_text(write(tmp_path / "a.py", "abc"), limit_bytes=2)
    (tmp_path / "b.py").symlink_to(tmp_path / "b.py")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path / "b.py")


def test_the_gitignore_setting_opens_ignored_files_but_never_secrets(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("build/\n.env\n")
    assert why_private(tmp_path / "build" / "a.py", [tmp_path]) == "git ignores it"
    assert why_private(tmp_path / "build" / "a.py", [tmp_path], respect_gitignore=False) is None
    assert why_private(tmp_path / ".env", [tmp_path], respect_gitignore=False) is not None
