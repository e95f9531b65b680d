"""What holds the house up: imports point down, the front stays light, the README's map is true, nothing phones."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("habitab_base", "habitab_engine", "habitab_adapters", "habitab_server")
CLIENT = ("client-vscode/src", "client-vscode/test", "tests/vscode")
OTHERS = {".c", ".h", ".lua", ".el"}
SOURCES = sorted([*ROOT.glob("server/*/**/*.py"), *ROOT.glob("adapters/*/**/*.py")])
HEAVY = {"torch", "tokenizers", "numpy", "transformers", "safetensors", "gguf", "xllamacpp"}
HEAVY |= {"sqlite_utils", "detect_secrets"}


def floor(path: Path) -> str:
    """The package that a file belongs to."""
    return path.relative_to(ROOT).parts[1]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_imports_point_down(path: Path) -> None:
    above = FLOORS[FLOORS.index(floor(path)) + 1 :]
    assert not [name for name in imported(path) if name.split(".")[0] in above]


def test_all_floors_are_looked_at() -> None:
    assert {floor(path) for path in SOURCES} == set(FLOORS)


@pytest.mark.parametrize("module", ["habitab_server.lsp", "habitab_server.cli", "habitab_engine.link"])
def test_the_front_never_imports_the_model_s_libraries(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_adapters_are_kept_and_carried_without_torch() -> None:
    code = "import sys, habitab_adapters.archive, habitab_engine.lora; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_engine_knows_nothing_of_editors(path: Path) -> None:
    if floor(path) != "habitab_server":
        assert not [name for name in imported(path) if name.split(".")[0] in {"pygls", "lsprotocol", "click", "rich"}]


def test_the_readme_maps_every_file_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    mapped = set(re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE))
    others = (path for part in ("server", "adapters") for path in (ROOT / part).rglob("*") if path.suffix in OTHERS)
    client = (path for part in CLIENT for path in (ROOT / part).iterdir())
    files = {path.relative_to(ROOT).as_posix() for path in [*SOURCES, *others, *client, *ROOT.glob("tests/*.py")]}
    of_client = {name for name in mapped if name.rpartition("/")[0] in CLIENT}
    assert {name for name in mapped if Path(name).suffix in {".py", *OTHERS}} | of_client == files
    assert all((ROOT / name).exists() for name in mapped if "/" in name)


OFFLINE = """
import sys, threading

def refuse(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        raise SystemExit(f"the network was asked: {event}")

sys.addaudithook(refuse)
from habitab_engine.config import EngineSettings
from habitab_engine.engine import Engine
from habitab_engine.types import CompletionRequest

engine = Engine.load(EngineSettings(base=sys.argv[1]))
request = CompletionRequest("d", "a.py", "def area(w, h):\\n    return ", "\\n", max_tokens=4)
print(engine.complete(request, threading.Event()).prompt_tokens)
"""


def test_pain_15_a_completion_never_asks_the_network(tiny_base: Path) -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE, str(tiny_base)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
