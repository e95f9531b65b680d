"""Versions are written once, numbered once and verified; the pointer always names one of them, or the bare base."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import write_tiny
from habitab_adapters import registry as registry_module
from habitab_adapters.registry import CONFIG, Registry
from habitab_engine.adapters import FACTS, POINTER, WEIGHTS, active_version
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.errors import AdapterError
from habitab_engine.home import Home
from habitab_engine.locks import locked
from loras import facts_of, random_lora

METRICS = {"rows": 1600, "bits_per_byte": -0.031, "interval": [0.01, 0.05], "verdict": "promoted", "worst": None}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Checkpoint:
    return load_checkpoint(tiny_base)


@pytest.fixture
def registry(tmp_path: Path, tiny_base: Path) -> Registry:
    return Registry(Home(tmp_path / "h", "ann"), tiny_base)


def add(registry: Registry, base: Checkpoint, seed: int = 0, **more: Any) -> str:
    return registry.add(random_lora(base, seed=seed), facts_of(base, **more))


def names(registry: Registry) -> list[str]:
    return [version.name for version in registry.versions()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_before_the_first_version_there_is_nothing_and_nothing_is_made(registry: Registry) -> None:
    assert (registry.versions(), registry.active) == ([], None)
    assert not registry.home.path.exists()


def test_a_version_has_the_facts_and_the_tensors_that_were_given(registry: Registry, base: Checkpoint) -> None:
    lora = random_lora(base, rank=3, alpha=5.0)
    name = registry.add(lora, facts_of(base, metrics=METRICS, parent=None, created="2026-11-26T21:00:00Z"))
    found, again = registry.info(name), registry.load(name)
    assert (name, found.rank, found.metrics, found.damage) == ("v1", 3, METRICS, "")
    assert found.facts == json.loads((registry.path(name) / FACTS).read_bytes())
    assert found.facts["created"] == "2026-11-26T21:00:00Z"
    assert found.bytes == sum(path.stat().st_size for path in registry.path(name).iterdir())
    assert (again.rank, again.alpha, again.factors.keys()) == (3, 5.0, lora.factors.keys())
    assert all(np.array_equal(x, y) for key in lora.factors for x, y in zip(again.factors[key], lora.factors[key]))  # noqa: B905
    assert registry.active is None


def test_versions_are_listed_by_number_with_the_newest_last(registry: Registry, base: Checkpoint) -> None:
    assert [add(registry, base, seed) for seed in range(11)] == [f"v{number}" for number in range(1, 12)]
    assert names(registry)[-3:] == ["v9", "v10", "v11"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_everything_is_readable_by_the_person_only(registry: Registry, base: Checkpoint) -> None:
    registry.activate(add(registry, base))
    for path in [registry.folder, *registry.folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_number_is_never_given_twice(registry: Registry, base: Checkpoint) -> None:
    add(registry, base)
    add(registry, base, 1)
    registry.remove("v2")
    assert add(registry, base, 2) == "v3"
    (registry.folder / registry_module.LAST).unlink()
    registry.remove("v3")
    assert add(registry, base, 3) == "v4"


def test_adding_and_activating_leave_the_other_versions_as_they_are(registry: Registry, base: Checkpoint) -> None:
    add(registry, base)
    before = contents(registry.path("v1"))
    add(registry, base, 1)
    registry.activate("v2")
    registry.rollback()
    registry.remove("v2")
    assert contents(registry.path("v1")) == before


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"metrics": {"code": "def f(x): return x"}}, "metrics"),
        ({"metrics": {"path": "/home/ann/shop.py"}}, "metrics"),
        ({"metrics": {"nll": float("nan")}}, "metrics"),
        ({"metrics": {"big": 10**400}}, "metrics"),
        ({"metrics": {"deep": {"a": {"b": {"c": 1}}}}}, "metrics"),
        ({"metrics": [1]}, "metrics"),
        ({"method": "two words"}, "method"),
        ({"parent": "../v1"}, "parent"),
        ({"created": "yesterday"}, "created"),
        ({"base": {"id": "tiny"}}, "base"),
        ({"base": {"id": "../tiny", "sha256": "0" * 64}}, "base"),
        ({"base": {"id": "other", "sha256": "0" * 64}}, "made for the base model tiny"),
        ({"author": "ann"}, "author"),
    ],
)
def test_facts_that_are_not_numbers_and_short_words_are_refused(
    registry: Registry, base: Checkpoint, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(AdapterError, match=said):
        registry.add(random_lora(base), facts_of(base) | wrong)
    assert names(registry) == []


def test_the_pointer_is_what_the_engine_reads(registry: Registry, base: Checkpoint) -> None:
    add(registry, base)
    registry.activate("v1")
    assert (registry.active, active_version(registry.folder)) == ("v1", "v1")
    registry.activate(None)
    assert (registry.active, active_version(registry.folder)) == (None, None)


def test_rollback_goes_back_step_by_step_to_the_bare_base(registry: Registry, base: Checkpoint) -> None:
    for seed in range(3):
        registry.activate(add(registry, base, seed))
    registry.activate("v3")  # it is: nothing to take back
    assert [registry.rollback(), registry.rollback(), registry.rollback()] == ["v2", "v1", None]
    with pytest.raises(AdapterError, match="nothing to go back to"):
        registry.rollback()
    assert registry.active is None


def test_rollback_passes_over_what_was_removed(registry: Registry, base: Checkpoint) -> None:
    for seed in range(2):
        registry.activate(add(registry, base, seed))
    registry.activate("v1")
    registry.remove("v2")
    assert registry.rollback() is None


def test_rollback_to_a_damaged_version_changes_nothing(registry: Registry, base: Checkpoint) -> None:
    for seed in range(2):
        registry.activate(add(registry, base, seed))
    damage(registry.path("v1") / WEIGHTS)
    with pytest.raises(AdapterError, match="v1 is damaged"):
        registry.rollback()
    assert registry.active == "v2"


def test_the_active_version_is_not_removed(registry: Registry, base: Checkpoint) -> None:
    registry.activate(add(registry, base))
    with pytest.raises(AdapterError, match="v1 is active"):
        registry.remove("v1")
    assert names(registry) == ["v1"]
    registry.activate(None)
    registry.remove("v1")
    assert not (registry.folder / "v1").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "v1/../../x", "/etc", "v0", "v01", "V1", "v1 ", "v1\n", "v١", "v" + "9" * 40]
)
@pytest.mark.parametrize("act", ["info", "path", "verified", "load", "activate", "remove"])
def test_a_name_that_is_no_version_is_refused(registry: Registry, base: Checkpoint, act: str, name: str) -> None:
    add(registry, base)
    with pytest.raises(AdapterError, match="is no version"):
        getattr(registry, act)(name)
    with pytest.raises(AdapterError, match="There is no version v7"):
        getattr(registry, act)("v7")


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "weights": lambda place: damage(place / WEIGHTS),
    "cut": lambda place: os.truncate(place / WEIGHTS, 100),
    "no weights": lambda place: (place / WEIGHTS).unlink(),
    "no config": lambda place: (place / CONFIG).unlink(),
    "config": lambda place: (place / CONFIG).write_text("{"),
    "config of others": lambda place: (place / CONFIG).write_text('{"r": 4, "target_modules": ["/etc/passwd"]}'),
    "no facts": lambda place: (place / FACTS).unlink(),
    "facts": lambda place: (place / FACTS).write_bytes(b"\xff{"),
    "empty facts": lambda place: (place / FACTS).write_text("{}"),
    "deep facts": lambda place: (place / FACTS).write_text('{"a":' * 100_000),
    "a folder in a file's place": lambda place: ((place / FACTS).unlink(), (place / FACTS).mkdir()),
    "a file in its place": lambda place: (shutil.rmtree(place), place.write_text("x")),
    "other version's": lambda place: shutil.copy(place.parent / "v2" / FACTS, place / FACTS),
    "newer format": lambda place: (place / FACTS).write_text((place / FACTS).read_text().replace(": 1,", ": 2,")),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_version_is_listed_never_activated_and_can_be_removed(
    registry: Registry, base: Checkpoint, kind: str
) -> None:
    add(registry, base)
    registry.activate(add(registry, base, 1))
    DAMAGES[kind](registry.path("v1"))
    assert [bool(version.damage) for version in registry.versions()] == [True, False]
    json.dumps([version.as_json() for version in registry.versions()])
    with pytest.raises(AdapterError, match="v1 is damaged"):
        registry.activate("v1")
    assert registry.active == "v2"
    registry.remove("v1")
    assert names(registry) == ["v2"]


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_link_is_no_version_and_what_it_leads_to_stays(registry: Registry, base: Checkpoint, tmp_path: Path) -> None:
    add(registry, base)
    shutil.copytree(registry.path("v1"), tmp_path / "elsewhere")
    (registry.folder / "v2").symlink_to(tmp_path / "elsewhere")
    assert registry.info("v2").damage == "it is no folder"
    with pytest.raises(AdapterError):
        registry.activate("v2")
    registry.remove("v2")
    assert len(contents(tmp_path / "elsewhere")) == 3


def test_a_version_of_another_base_is_not_activated(registry: Registry, base: Checkpoint, tmp_path: Path) -> None:
    add(registry, base)
    changed = write_tiny(tmp_path / "tiny", rms_norm_eps=1e-6)
    weights = (changed / "model.safetensors").read_bytes()
    (changed / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    with pytest.raises(AdapterError, match="other weights of tiny"):
        Registry(registry.home, changed).activate("v1")
    with pytest.raises(AdapterError, match="made for the base model tiny, and this is another"):
        Registry(registry.home, write_tiny(tmp_path / "another")).activate("v1")
    assert registry.active is None


@pytest.mark.parametrize("pointer", [b"", b"{", b"[]", b'{"version": 3}', b'{"version": "../x"}', b"\xff" * 50])
def test_a_broken_pointer_counts_as_none_and_is_written_anew(
    registry: Registry, base: Checkpoint, pointer: bytes
) -> None:
    add(registry, base)
    (registry.folder / POINTER).write_bytes(pointer)
    assert registry.active is None
    registry.activate("v1")
    assert registry.active == active_version(registry.folder) == "v1"
    assert registry.rollback() is None


def test_while_another_process_changes_the_registry_one_waits_and_says_so(
    registry: Registry, base: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "PATIENCE", 0.1)
    add(registry, base)
    with locked(registry.folder / registry_module.LOCK, 1) as held:
        assert held
        for change in (lambda: add(registry, base), lambda: registry.activate("v1"), lambda: registry.remove("v1")):
            with pytest.raises(AdapterError, match="Another process"):
                change()
    assert (names(registry), registry.active) == (["v1"], None)


ADD = """
import sys
import warnings
from pathlib import Path
from habitab_adapters.registry import Registry
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.home import Home
from loras import facts_of, random_lora

base = load_checkpoint(Path(sys.argv[2]))
registry = Registry(Home(Path(sys.argv[1]), "ann"), Path(sys.argv[2]))
"""


def script(registry: Registry, code: str) -> list[str]:
    return [sys.executable, "-c", ADD + code, str(registry.home.path), str(registry.base)]


def run(registry: Registry, code: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(script(registry, code), stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_do_not_give_one_number_twice(registry: Registry) -> None:
    code = "for seed in range(12): print(registry.add(random_lora(base, seed=seed), facts_of(base)))"
    processes = [run(registry, code) for _ in range(2)]
    given = [line for process in processes for line in process.communicate(timeout=120)[0].split()]
    assert sorted(given, key=lambda name: int(name[1:])) == [f"v{number}" for number in range(1, 25)]
    assert names(registry) == sorted(given, key=lambda name: int(name[1:]))
    assert not any(version.damage for version in registry.versions())


# Every call that changes the disk is counted; the process ends itself, as kill -9 would, before the one of a number.
DYING = """
import os, signal, tempfile, shutil
left = int(os.environ["STEPS"])

def counted(function):
    def wrapped(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped

for owner, names in ((Path, ("rename", "replace", "chmod", "write_text", "unlink", "mkdir")),
                     (os, ("fsync", "rmdir")), (tempfile, ("mkdtemp", "mkstemp")), (shutil, ("rmtree",))):
    for name in names:
        setattr(owner, name, counted(getattr(owner, name)))
if os.environ["ACT"] == "add":
    registry.add(random_lora(base, seed=5), facts_of(base))
elif os.environ["ACT"] == "activate":
    registry.activate("v1")
elif os.environ["ACT"] == "rollback":
    registry.rollback()
else:
    registry.remove("v1")
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("act", ["add", "activate", "rollback", "remove"])
def test_a_process_killed_between_any_two_steps_leaves_a_usable_registry(
    registry: Registry, base: Checkpoint, act: str
) -> None:
    add(registry, base)
    registry.activate(add(registry, base, 1))
    template = registry.home.path.with_name("template")
    shutil.copytree(registry.home.path, template)
    for steps in range(200):
        shutil.rmtree(registry.home.path)
        shutil.copytree(template, registry.home.path)
        finished = dies(registry, act, steps)
        assert not any(version.damage for version in registry.versions())
        assert {"v2"} <= set(names(registry)) <= {"v1", "v2", "v3"}
        assert registry.active in {"activate": ("v1", "v2"), "rollback": (None, "v2")}.get(act, ("v2",))
        name = add(registry, base, 9)
        registry.activate(name)
        assert name in ("v3", "v4")
        assert not list(registry.folder.glob(".draft-*"))
        if finished:
            break
    assert finished
    assert steps > 3


def dies(registry: Registry, act: str, steps: int) -> bool:
    """Whether `act` was done before the process had used up its steps; a fork, since torch takes long to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not use
        child = os.fork()
    if child == 0:
        os.environ.update(STEPS=str(steps), ACT=act)
        sys.argv = ["", str(registry.home.path), str(registry.base)]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            exec(compile(ADD + DYING, "dying", "exec"), {})
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return status == 0


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_full_disk_is_one_sentence_and_the_active_version_stays(registry: Registry, base: Checkpoint) -> None:
    registry.activate(add(registry, base))
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    registry.add(random_lora(base, seed=5), facts_of(base))
except Exception as error:
    print(type(error).__name__, error)
"""
    said = run(registry, code).communicate(timeout=60)[0]
    assert said.startswith("AdapterError") and said.count("\n") == 1
    assert "cannot be written" in said
    assert (names(registry), registry.active) == (["v1"], "v1")
    assert {path.name for path in registry.folder.iterdir()} == {"v1", POINTER, "last.json", "adapters.lock"}


def test_the_registry_is_read_without_the_model_s_libraries() -> None:
    code = "import sys, habitab_adapters.registry, habitab_adapters.archive; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "safetensors", "numpy"} & set(done.stdout.split())
