"""Any repository is read, none is trusted: its trees and added lines, as git has them, and nothing of it runs."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_adapters import lines
from habitab_adapters.handwork import content_of, is_typed, is_worth_typing
from habitab_adapters.lines import Visit, make_plan, plan_of
from habitab_adapters.repository import Added, Checkout, Commit, Repository, is_wanted
from habitab_engine.errors import InputError, MissingExtraError
from histories import History

EVIL = "#!/bin/sh\ntouch {}\ncat\n"


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repo")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def added_by(repository: Repository, commit: str) -> dict[str, list[tuple[int, str]]]:
    return {added.path: [line for hunk in added.hunks for line in hunk] for added in repository.added([commit])}


def test_a_checkout_holds_the_source_files_of_each_commit_in_turn(history: History, tmp_path: Path) -> None:
    commits = [
        history.commit({"a.py": "one\n", "deep/b.go": "two", "picture.png": b"\x89PNG"}),
        history.commit({"a.py": "one\nmore\n", "deep/b.go": None, "new name é.rs": "three\n"}),
        history.commit({"a.py": None, "deep/er/c.ts": "four\r\n", ".gitignore": "*.log\n"}),
    ]
    (tmp_path / "tree").mkdir()
    with Repository(history.folder) as repository:
        checkout = Checkout(repository, tmp_path / "tree")
        for commit in [*commits, commits[0], commits[2]]:
            checkout.move_to(commit)
            names = history.git("-c", "core.quotePath=off", "ls-tree", "-r", "--name-only", commit).splitlines()
            expected = {
                name: repository.blob(f"{commit}:{name}") for name in names if not name.endswith((".png", "config"))
            }
            assert files_in(tmp_path / "tree") == expected


def test_links_submodules_and_names_that_lead_out_are_passed_over(history: History, tmp_path: Path) -> None:
    blob = history.git("hash-object", "-w", "--stdin", given=b"print()\n")
    link = history.git("hash-object", "-w", "--stdin", given=b"../outside.py")
    entries = [("100644", "..", blob), ("100644", "..\\b.py", blob), ("120000", "link.py", link)]
    entries += [("100644", "fine.py", blob), ("160000", "module.py", "1" * 40)]
    tree = b"".join(f"{mode} {name}".encode() + b"\0" + bytes.fromhex(oid) for mode, name, oid in sorted(entries))
    inner = history.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", given=tree)
    outer = b"40000 ..\0" + bytes.fromhex(inner) + b"40000 sub\0" + bytes.fromhex(inner)
    root = history.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", given=outer)
    commit = history.git("commit-tree", root, "-m", "hostile")
    history.git("update-ref", "HEAD", commit)
    folder = tmp_path / "inside" / "tree"
    folder.mkdir(parents=True)
    with Repository(history.folder) as repository:
        Checkout(repository, folder).move_to(commit)
        assert {"sub/fine.py"} <= added_by(repository, commit).keys()
        assert "sub/link.py" not in added_by(repository, commit)
    assert files_in(tmp_path / "inside") == {"tree/sub/fine.py": b"print()\n"}


@pytest.mark.parametrize(
    "name", ["/a.py", "../a.py", "a/../b.py", "a//b.py", ".git/a.py", "x/.GIT/a.py", "c:a.py", "a\\b.py", "a\n.py", ""]
)
def test_a_name_that_could_leave_the_folder_is_never_written(name: str) -> None:
    assert not is_wanted(name) and is_wanted("a/b.py")


def test_nothing_that_a_repository_names_is_ever_run(history: History, tmp_path: Path) -> None:
    proof, program = tmp_path / "it ran", tmp_path / "evil.sh"
    program.write_text(EVIL.format(f"'{proof}'"))
    program.chmod(0o755)
    history.commit({"a.py": "first = 1\n"})
    last = history.commit({"a.py": "first = 1\nsecond = 2\n", ".gitattributes": "*.py filter=evil diff=evil\n"})
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        (history.folder / ".git" / "hooks").mkdir(exist_ok=True)
        (history.folder / ".git" / "hooks" / hook).write_text(EVIL.format(f"'{proof}'"))
        (history.folder / ".git" / "hooks" / hook).chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "diff.external", "diff.evil.command", "diff.evil.textconv"):
        history.git("config", key, str(program))
    for key in ("filter.evil.smudge", "filter.evil.clean", "filter.evil.process", "gpg.program", "core.sshCommand"):
        history.git("config", key, str(program))
    history.git("config", "log.showSignature", "true")
    history.git("config", "remote.origin.url", f"ext::{program}")
    history.git("config", "remote.origin.promisor", "true")
    history.git("config", "extensions.partialClone", "origin")
    proof.unlink(missing_ok=True)
    (tmp_path / "tree").mkdir()
    with Repository(history.folder) as repository:
        Checkout(repository, tmp_path / "tree").move_to(last)
        assert added_by(repository, last)["a.py"] == [(1, "second = 2")]
        assert repository.blob("1" * 40) is None  # what a partial clone lacks is not fetched
    assert not proof.exists() and files_in(tmp_path / "tree")["a.py"] == b"first = 1\nsecond = 2\n"


STRANGE = ["x = 1", "y = 2", "", "--- a", "+++ b/c", "@@ -1 +1 @@", "\\ No newline", "diff --git a/b b/b"]


def test_added_lines_are_those_of_the_new_file_and_all_others_were_in_the_old_one(history: History) -> None:
    rng = random.Random(0)
    for _ in range(25):
        old, new = (rng.choices(STRANGE, k=rng.randrange(12)) for _ in range(2))
        history.commit({"a.py": "".join(f"{line}\n" for line in old)})
        commit = history.commit({"a.py": "".join(f"{line}\n" for line in new).removesuffix(rng.choice(["\n", "?"]))})
        with Repository(history.folder) as repository:
            added = dict(added_by(repository, commit).get("a.py", []))
        assert all(new[number] == text for number, text in added.items())
        before = iter(old)
        assert all(text in before for i, text in enumerate(new) if i not in added)


def test_a_renamed_file_adds_only_what_was_written(history: History) -> None:
    text = "".join(f"line_{i} = {i}\n" for i in range(30))
    history.commit({"old.py": text})
    commit = history.commit({"old.py": None, "new name.py": text + "last = 30\n"})
    with Repository(history.folder) as repository:
        assert added_by(repository, commit) == {"new name.py": [(30, "last = 30")]}


def test_merges_are_skipped_and_commits_come_parents_first(history: History) -> None:
    first = history.commit({"a.py": "a = 1\n"})
    history.git("checkout", "--quiet", "-b", "side")
    side = history.commit({"b.py": "b = 1\n"})
    history.git("checkout", "--quiet", "main")
    main = history.commit({"c.py": "c = 1\n"})
    history.git("merge", "--quiet", "--no-edit", "side")
    with Repository(history.folder) as repository:
        commits = repository.commits()
        assert [commit.id for commit in commits] == [first, side, main]
        assert commits[0].parent == repository.empty_tree and commits[2].parent == first


def test_a_bare_repository_and_a_folder_inside_are_the_same_history(history: History, tmp_path: Path) -> None:
    commit = history.commit({"deep/a.py": "a = 1\n"})
    history.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    for path in (tmp_path / "bare", history.folder, history.folder / "deep"):
        with Repository(path) as repository:
            assert repository.head() == commit


def test_what_is_no_whole_repository_is_refused_with_one_sentence(history: History, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        Repository(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a git repository"):
        Repository(tmp_path / "empty")
    with Repository(history.folder) as repository, pytest.raises(InputError, match="no commits"):
        make_plan(repository, 0.7, None, None)
    history.commit({"a.py": "a = 1\n"})
    history.commit({"a.py": "a = 2\n"})
    history.git("clone", "--quiet", "--depth=1", history.folder.as_uri(), str(tmp_path / "shallow"))
    with pytest.raises(InputError, match="--unshallow"):
        Repository(tmp_path / "shallow")


def test_a_damaged_repository_is_refused_with_one_sentence(history: History) -> None:
    history.commit({"a.py": "a = 1\n"})
    commit = history.commit({"a.py": "a = 2\n"})
    tree = history.git("rev-parse", f"{commit}^{{tree}}")
    (history.folder / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with Repository(history.folder) as repository, pytest.raises(InputError, match="git fsck"):
        make_plan(repository, 0.5, None, None)


def test_a_commit_is_passed_over_where_the_clone_lacks_a_file_of_it(history: History) -> None:
    history.commit({"a.py": "a = 1\n"})
    for text in ("a = 1\nb = 20\n", "a = 1\nb = 20\nc = 30\n", "a = 1\nb = 20\nc = 30\nd = 40\n"):
        history.commit({"a.py": text})
    blob = history.git("rev-parse", "HEAD~1:a.py")
    (history.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with Repository(history.folder) as repository:
        commits = [commit.id for commit in repository.commits()]
        assert [added.hunks for added in repository.added(commits)] == [(((0, "a = 1"),),), (((1, "b = 20"),),)]


def test_without_git_the_person_is_told_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("habitab_adapters.repository.environment", lambda: {"PATH": str(tmp_path)})
    monkeypatch.setattr(os, "environ", {"PATH": str(tmp_path)})
    with pytest.raises(MissingExtraError, match="Git is not installed"):
        Repository(tmp_path)


def test_huge_binary_and_foreign_files_have_no_lines(history: History) -> None:
    strange = {
        "latin.py": "name = 'é'\n".encode("latin-1"),
        "binary.py": b"a = 1\n\0\0",
        "huge.py": "x = 1\n" * 300_000,
        "minified.js": "var a=1;" * 2_000,
        "made.go": "// Code generated by hand. DO NOT EDIT.\nvar answer = 42\n",
        "old_mac.py": "a = 1\rb = 2\r",
    }
    history.commit({"a.py": "a = 1\n"})
    commit = history.commit(strange | {"good.py": "\ufeffgood = 1\r\nbetter = 2\r\n"})
    with Repository(history.folder) as repository:
        assert [name for name in strange if content_of(repository, commit, name)] == []
        assert content_of(repository, commit, "good.py") == ["good = 1", "better = 2", ""]
        plan = make_plan(repository, 0.5, None, None)
        assert [(visit.path, visit.typed) for visit in plan.visits] == [("good.py", (0, 1))]


@pytest.mark.parametrize(
    ("path", "typed"),
    [
        ("src/main.py", True),
        ("web/style.css", True),
        ("Makefile", True),
        ("README.md", False),
        ("data.json", False),
        ("vendor/x/a.go", False),
        ("a/node_modules/b/index.js", False),
        ("lib/jquery.min.js", False),
        ("api_pb2.py", False),
        ("poetry.lock", False),
        ("pnpm-lock.yaml", False),
        ("logo.svg", False),
        (".ssh/config.py", False),
        ("credentials.py", False),
        ("photo.png", False),
    ],
)
def test_only_code_that_persons_write_and_habitab_may_read_is_typed(path: str, typed: bool) -> None:
    assert is_typed(path) is typed


def test_lines_worth_typing_are_neither_tiny_nor_endless() -> None:
    assert [is_worth_typing(line) for line in ("", "  }", "a=1", "    pass", "x" * 200, "x" * 201)] == [
        *(False, False, True, True, True, False)
    ]


def test_nobody_types_a_digest() -> None:
    digest = "0c69e560cd9e7cd7f8c3236205c9b7dedb00c69e"
    assert not is_worth_typing(f"uses: checkout@{digest} # v4")
    assert is_worth_typing(f"uses: checkout@{digest[:12]} # v4") and is_worth_typing(f"word{digest}")


@pytest.mark.parametrize(
    ("text", "today", "rest"),
    [
        ("use(new_name, new_name)", ["new_name = 1"], {7: "_name"}),
        ("use(newName)", ["let newName"], {7: "Name"}),
        ("use(new_name)", [], {}),  # not today
        ("use(new_name)", ["new_name = 1", "new_name"], {}),  # its third use
        ("use(plain, return)", ["plain, return"], {}),  # one word may be prose or a keyword
        ("use(a_b, ab_c)", ["a_b, ab_c"], {}),  # nothing worth completing is left
    ],
)
def test_second_uses_are_those_of_names_typed_once_today(text: str, today: list[str], rest: dict[int, str]) -> None:
    line = lines.Line("", "a.py", ["new_name" if not today else "", *today], text, ["below"], today)
    assert line.second_uses == rest


def a_plan_of(history: History, **options: object) -> list[str]:
    with Repository(history.folder) as repository:
        asked = {"split": 0.5, "events": None, "author": None} | options
        return make_plan(repository, **asked).lines  # type: ignore[arg-type]


def test_a_sample_is_exact_in_order_and_the_same_every_time(history: History) -> None:
    for i in range(12):
        history.commit({f"a{i % 3}.py": "".join(f"value_{i}_{j} = {j}\n" for j in range(20))})
    everything = a_plan_of(history)
    assert len(everything) == len(set(everything)) == 120
    for events in (1, 7, 50):
        sample = a_plan_of(history, events=events)
        assert len(sample) == events and sample == a_plan_of(history, events=events)
        assert sample == [line for line in everything if line in set(sample)]
    assert len({line.partition(":")[0] for line in a_plan_of(history, events=50)}) == 6
    assert a_plan_of(history, events=1_000) == everything


def test_a_sample_may_be_spread_evenly_and_a_larger_one_goes_on_with_it(history: History) -> None:
    for i in range(12):
        history.commit({f"a{i}.py": "".join(f"value_{i}_{j} = {j}\n" for j in range(60 if i == 3 else 6))})
    with Repository(history.folder) as repository:
        few, more = (plan_of(repository, repository.commits(), n, 3, evenly=True).lines for n in (36, 48))
    assert {line.partition(":")[0] for line in few} == {line.partition(":")[0] for line in more}
    assert set(few) < set(more) and max(Counter(line.partition(":")[0] for line in few).values()) == 3


def test_a_long_history_is_sampled_too(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_COMMITS", 3)
    for i in range(12):
        history.commit({"a.py": f"value = {i}\n"})
    assert len(a_plan_of(history)) == 3


def test_one_author_s_commits_are_split_and_typed_alone(history: History) -> None:
    for i in range(4):
        history.commit({"a.py": f"value = {i}\n"}, author="ada@x.org")
    for i in range(4):
        history.commit({"b.py": f"value = {i}\n"}, author="bob@x.org")
    assert all(":a.py:" in line for line in a_plan_of(history, author="Ada@X.org"))
    assert len(a_plan_of(history, author="ada@x.org")) == 2
    with pytest.raises(InputError, match="shortlog"):
        a_plan_of(history, author="eve@x.org")


def test_a_split_that_leaves_nothing_says_so(history: History) -> None:
    history.commit({"a.py": "a = 1\n"})
    history.commit({"notes.md": "no code\n"})
    with pytest.raises(InputError, match="no line of source code"):
        a_plan_of(history, split=0.5)
    with pytest.raises(InputError, match="smaller --split"):
        a_plan_of(history, split=1.0)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.booleans()), min_size=1))
def test_above_a_line_stands_the_new_file_and_below_it_the_old_one(rows: list[tuple[str, bool, bool]]) -> None:
    """Each row is a line of the new file: its text, whether it was added, whether it is typed."""
    content = [text for text, _, _ in rows]
    added = frozenset(i for i, (_, is_added, _) in enumerate(rows) if is_added)
    typed = tuple(i for i in sorted(added) if rows[i][2])
    visit = Visit(Commit("c", "p", "ada", 0), "a.py", typed, added)
    for number, line in zip(typed, visit.lines(content), strict=True):
        assert [*line.above, line.text] == content[: number + 1]
        assert line.below == [text for i, text in enumerate(content) if i > number and i not in added]


def test_lines_that_were_only_moved_or_indented_are_not_typed(history: History) -> None:
    history.commit({"a.py": "first = 1\nsecond = 2\nthird = 3\n", "b.py": "top = 0\n"})
    commit = history.commit(
        {"a.py": "if top:\n    first = 1\nthird = 3\n", "b.py": "top = 0\nsecond = 2\nsecond = 2\n"}
    )
    with Repository(history.folder) as repository:
        assert {added.path: added.moved for added in repository.added([commit])} == {"a.py": {1}, "b.py": {1}}
        visits = make_plan(repository, 0.5, None, None).visits
    assert [(visit.path, visit.typed, visit.added) for visit in visits] == [
        ("a.py", (0,), {0, 1}),
        ("b.py", (2,), {1, 2}),
    ]


def test_hunks_of_one_file_stay_apart(history: History) -> None:
    history.commit({"a.py": "".join(f"line_{i}\n" for i in range(9))})
    text = "".join(f"line_{i}\n" + ("added\n" if i in (2, 6) else "") for i in range(9))
    commit = history.commit({"a.py": text})
    with Repository(history.folder) as repository:
        expected = Added(commit, "a.py", (((3, "added"),), ((8, "added"),)))
        assert list(repository.added([commit])) == [expected]
