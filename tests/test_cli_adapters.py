"""`habitab adapters`: which version serves, and how one is carried; each fault is one sentence and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from habitab_adapters.archive import KINDS
from habitab_adapters.registry import Registry
from habitab_engine.adapters import FACTS, WEIGHTS
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.home import Home
from habitab_server import cli, cli_adapters
from loras import facts_of, random_lora

CREATED = "2026-11-26T21:00:00Z"


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Checkpoint:
    return load_checkpoint(tiny_base)


@pytest.fixture
def registry(tmp_path: Path, tiny_base: Path) -> Registry:
    return Registry(Home(tmp_path / "h", "ann"), tiny_base)


@pytest.fixture
def two(registry: Registry, base: Checkpoint) -> Registry:
    """Two versions, the second of which serves."""
    registry.add(random_lora(base), facts_of(base, created=CREATED, metrics={"rows": 1600, "judged": {"bits": -0.03}}))
    registry.add(random_lora(base, seed=1), facts_of(base, created=CREATED, parent="v1"))
    registry.activate("v2")
    return registry


@pytest.fixture
def habitab(registry: Registry, capfd: pytest.CaptureFixture[str]) -> Any:
    def habitab(*arguments: object, home: Path = registry.home.path, as_json: bool = False) -> tuple[int, str, str]:
        options = ["--home", str(home), "--user", "ann", "--base", str(registry.base), *(["--json"] if as_json else [])]
        code = cli.run([*options, "adapters", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out, err

    return habitab


def result(done: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = done
    assert (code, err) == (0, "")
    return dict(json.loads(out.splitlines()[-1]))


def test_before_the_first_adapter_every_command_says_so(habitab: Any, tmp_path: Path) -> None:
    assert habitab("list") == (0, "There is no adapter yet.\n", "")
    assert result(habitab("list", as_json=True)) == {"active": None, "versions": []}
    for command in (["show", "v1"], ["activate", "v1"], ["remove", "v1"], ["rollback"], ["export", tmp_path / "x"]):
        code, out, err = habitab(*command)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("habitab: ")


def test_the_list_is_a_table_that_marks_the_version_that_serves(habitab: Any, two: Registry) -> None:
    lines = habitab("list")[1].splitlines()
    assert lines[0].split() == ["version", "created", "method", "parent", "rank", "MB"]
    assert lines[1].split() == ["v1", CREATED, "ce", "4", "0.0"]
    assert lines[2].split() == ["*", "v2", CREATED, "ce", "v1", "4", "0.0"]


def test_the_json_of_list_and_show_is_what_habitab_json_says_and_more(habitab: Any, two: Registry) -> None:
    listed = result(habitab("list", as_json=True))
    shown = result(habitab("show", "v1", as_json=True))
    facts = json.loads((two.path("v1") / FACTS).read_bytes())
    assert listed["active"] == "v2"
    assert [version["version"] for version in listed["versions"]] == ["v1", "v2"]
    assert shown == listed["versions"][0] | {"active": False}
    assert facts.items() <= shown.items()
    assert (shown["rank"], shown["damage"], len(shown["target_modules"])) == (4, "", 7)


def test_show_names_every_measurement(habitab: Any, two: Registry) -> None:
    lines = dict(line.split(maxsplit=1) for line in habitab("show", "v1")[1].splitlines() if len(line.split()) > 1)
    assert (lines["metrics.rows"], lines["metrics.judged.bits"], lines["base.id"]) == ("1600", "-0.03", "tiny")


def test_a_damaged_version_is_listed_as_such_and_keeps_the_terminal_clean(habitab: Any, two: Registry) -> None:
    (two.path("v1") / WEIGHTS).write_bytes(b"x")
    (two.path("v2") / FACTS).write_text('{"format": 1, "\\u001b[2J": 1}')
    code, out, err = habitab("list")
    assert (code, err, out.count("damaged: "), "\x1b" in out) == (0, "", 2, False)
    assert "the checksum of" in habitab("show", "v1")[1]


def test_activate_rollback_and_remove_do_what_they_say(habitab: Any, two: Registry) -> None:
    assert habitab("activate", "v1") == (0, "v1 serves now.\n", "")
    assert habitab("activate", "none") == (0, "The bare base serves now.\n", "")
    assert two.active is None
    assert result(habitab("rollback", as_json=True)) == {"active": "v1"}
    assert habitab("rollback") == (0, "v2 serves now.\n", "")
    assert habitab("rollback") == (0, "The bare base serves now.\n", "")
    assert result(habitab("activate", "v2", as_json=True)) == {"active": "v2"}
    assert habitab("remove", "v1") == (0, "v1 is deleted.\n", "")
    code, out, err = habitab("remove", "v2")
    assert (code, out, err) == (1, "", "habitab: v2 is active: activate another version or `none` first.\n")
    assert [version.name for version in two.versions()] == ["v2"]


def test_an_adapter_is_carried_to_another_home_and_serves_once_it_is_activated(
    habitab: Any, two: Registry, tmp_path: Path
) -> None:
    file, other = tmp_path / "mine.habitab", tmp_path / "other"
    assert habitab("export", file)[1].startswith(f"{file} holds v2 (")
    assert habitab("import", file, home=other)[1] == (
        "v1 is there now. `habitab adapters activate v1` lets it serve.\n"
    )
    assert result(habitab("import", file, home=other, as_json=True)) == {
        "version": "v1",
        "known": True,
        "active": False,
    }
    assert (
        habitab("import", file, "--activate", home=other)[1] == "v1 is that adapter, it is there already. It serves.\n"
    )
    brought = Registry(Home(other, "ann"), two.base)
    assert brought.active == "v1"
    assert brought.info("v1").facts["sha256"] == two.info("v2").facts["sha256"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_written_and_measured(habitab: Any, two: Registry, tmp_path: Path, kind: str) -> None:
    found = result(habitab("export", "v1", tmp_path / "out", "--format", kind, as_json=True))
    assert (found["version"], found["format"], found["file"]) == ("v1", kind, str(tmp_path / "out"))
    files = [tmp_path / "out", *(tmp_path / "out").glob("*")]
    assert found["bytes"] == sum(path.stat().st_size for path in files if path.is_file()) > 5_000


def test_the_formats_of_the_command_are_those_of_the_archive() -> None:
    assert cli_adapters.KINDS == KINDS


@pytest.mark.parametrize("words", [(), ("v1", "x", "y"), ("x", "--format", "onnx")])
def test_export_wants_a_file_and_at_most_a_version(habitab: Any, two: Registry, words: tuple[str, ...]) -> None:
    code, out, err = habitab("export", *words)
    assert (code, out, bool(err)) == (2, "", True)


def test_a_hostile_file_is_one_sentence_and_what_serves_goes_on_serving(
    habitab: Any, two: Registry, tmp_path: Path
) -> None:
    (tmp_path / "evil.habitab").write_bytes(b"PK\x03\x04" + b"\x1b[2J" * 30)
    code, out, err = habitab("import", tmp_path / "evil.habitab", "--activate")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "cut off" in err
    assert (two.active, len(two.versions())) == ("v2", 2)


def test_listing_loads_nothing_heavy(two: Registry) -> None:
    code = "import sys; from habitab_server import cli; cli.run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    options = ["--home", str(two.home.path), "--user", "ann", "adapters", "list"]
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=True)
    assert "v2" in done.stdout
    assert not {"torch", "numpy", "safetensors", "gguf"} & set(done.stderr.split())


def test_help_says_how_the_bare_base_serves(habitab: Any) -> None:
    assert "`none` lets the bare base serve" in habitab("activate", "--help")[1]
