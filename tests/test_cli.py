"""Commands: exit codes, one sentence for each fault, JSON as the last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from habitab_engine.config import EngineSettings
from habitab_engine.errors import EngineError
from habitab_engine.home import Home
from habitab_engine.link import EngineLink, with_engine
from habitab_engine.types import Completion, CompletionRequest, Suggestion
from habitab_server import cli, lsp

HABITAB = [sys.executable, "-m", "habitab_server"]


class Asked:
    """Stands where the engine is asked; keeps the request."""

    def __init__(self) -> None:
        self.requests: list[CompletionRequest] = []
        self.texts = ["stat(path)", "lstat(path)"]
        self.error: Exception | None = None

    def __call__(self, session: cli.Session, request: CompletionRequest) -> Completion:
        self.requests.append(request)
        if self.error:
            raise self.error
        texts = self.texts[: request.count]
        suggestions = tuple(Suggestion(text, (-0.1,), "end of line") for text in texts)
        return Completion(suggestions, "" if texts else "too short", 12.34, 9, 3, 4)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(cli, "ask_engine", asked)
    return asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.py"
    path.write_bytes("import os\r\n\r\ndef size(path):\r\n    x = '𝄞'; return os.\r\n".encode())
    return path


@pytest.fixture
def habitab(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    def habitab(*arguments: object) -> tuple[int, str, str]:
        code = cli.run(["--home", str(tmp_path / "h"), *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out, err

    return habitab


def test_a_completion_is_printed_within_its_line(habitab: Any, asked: Asked, file: Path) -> None:
    assert habitab("complete", file, 4, 24) == (0, "    x = '𝄞'; return os.├stat(path)┤\n", "")


def test_the_json_has_the_fields_of_the_protocol(habitab: Any, asked: Asked, file: Path) -> None:
    code, out, _ = habitab("--json", "complete", file, 4, 24)
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == {
        "text": "stat(path)",
        "latency_ms": 12.3,
        "tokens": 4,
        "adapter": "",
        "shown": True,
        "reason": "",
    }


def test_alternatives_are_listed_best_first(habitab: Any, asked: Asked, file: Path) -> None:
    _, out, _ = habitab("--json", "complete", file, 4, 24, "--count", 2)
    assert json.loads(out)["alternatives"] == ["stat(path)", "lstat(path)"]


def test_without_a_suggestion_the_reason_is_said(habitab: Any, asked: Asked, file: Path) -> None:
    asked.texts = []
    assert habitab("complete", file, 4, 24)[:2] == (0, "No suggestion: too short.\n")
    result = json.loads(habitab("--json", "complete", file, 4, 24)[1])
    assert (result["shown"], result["text"], result["reason"]) == (False, "", "too short")


def test_columns_are_code_points_and_line_ends_are_normal(habitab: Any, asked: Asked, file: Path) -> None:
    habitab("complete", file, 4, 11)
    (request,) = asked.requests
    assert request.prefix == "import os\n\ndef size(path):\n    x = '𝄞"
    assert request.suffix == "'; return os.\n"
    assert request.path == "a.py"


def test_the_model_reads_the_path_within_the_project(habitab: Any, asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "p" / ".git").mkdir(parents=True)
    (tmp_path / "p" / "src").mkdir()
    (tmp_path / "p" / "src" / "b.py").write_text("x = 1\n")
    habitab("complete", tmp_path / "p" / "src" / "b.py", 1, 1)
    assert asked.requests[0].path == "src/b.py"


@pytest.mark.parametrize("place", [(1, 1), (4, 24), (5, 1)])
def test_every_place_between_the_ends_exists(habitab: Any, asked: Asked, file: Path, place: tuple[int, int]) -> None:
    assert habitab("complete", file, *place)[0] == 0


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((6, 1), "lines 1 to 5"),
        ((0, 1), "lines 1 to 5"),
        ((1, 11), "columns 1 to 10"),
        ((1, 0), "columns 1 to 10"),
        ((5, 2), "columns 1 to 1"),
    ],
)
def test_a_place_outside_the_file_is_told_with_the_range(
    habitab: Any, asked: Asked, file: Path, place: tuple[int, int], said: str
) -> None:
    code, out, err = habitab("complete", file, *place)
    assert (code, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.bin", b"a\0b", "not a text file"),
        ("latin.py", b"# caf\xe9\n", "UTF-8"),
        ("none.py", None, "There is no file"),
        (".env", b"KEY=1\n", "secret"),
        ("id_rsa", b"x\n", "secret"),
    ],
)
def test_a_file_that_cannot_or_must_not_be_read_is_one_sentence(
    habitab: Any, asked: Asked, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = habitab("complete", tmp_path / name, 1, 1)
    assert (code, out, asked.requests) == (1, "", [])
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_is_no_file(habitab: Any, asked: Asked, tmp_path: Path) -> None:
    assert habitab("complete", tmp_path, 1, 1)[0] == 1


def test_a_file_that_git_ignores_is_read_because_the_person_named_it(
    habitab: Any, asked: Asked, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("out.py\n")
    (tmp_path / "out.py").write_text("x = 1\n")
    assert habitab("complete", tmp_path / "out.py", 1, 1)[0] == 0


def test_an_engine_that_cannot_answer_is_one_sentence(habitab: Any, asked: Asked, file: Path) -> None:
    asked.error = EngineError("The engine did not start.")
    assert habitab("complete", file, 4, 24) == (1, "", "habitab: The engine did not start.\n")


def test_what_nobody_foresaw_is_one_sentence_and_a_log_without_the_code(
    habitab: Any, asked: Asked, file: Path, tmp_path: Path
) -> None:
    asked.error = KeyError("code of the person")
    code, out, err = habitab("complete", file, 4, 24)
    log = tmp_path / "h" / "logs" / "cli.log"
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert str(log) in err
    assert "KeyError" in log.read_text()
    assert "code of the person" not in log.read_text() + err


def test_ctrl_c_ends_quietly(habitab: Any, asked: Asked, file: Path) -> None:
    asked.error = KeyboardInterrupt()  # type: ignore[assignment]
    code, out, err = habitab("complete", file, 4, 24)
    assert (code, out, err.strip()) == (130, "", "")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("complete",),
        ("complete", "a.py", "x", "1"),
        ("complete", "a.py", "1", "1", "--count", "0"),
        ("serve", "--tcp", "7000"),
        ("serve", "--tcp", "localhost:99999"),
        ("serve", "--stdio", "--tcp", "localhost:7000"),
        ("base", "export", "d"),
        ("base", "export", "d", "--format", "zip"),
        ("learn",),
        ("night",),
    ],
)
def test_wrong_usage_is_exit_2(habitab: Any, arguments: tuple[str, ...]) -> None:
    code, out, err = habitab(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [("serve",), ("base", "info"), ("complete", "FILE", 1, 1)])
def test_a_missing_base_folder_is_one_sentence(
    habitab: Any, command: tuple[object, ...], file: Path, tmp_path: Path
) -> None:
    command = tuple(file if part == "FILE" else part for part in command)
    code, out, err = habitab("--base", tmp_path / "none", *command)
    assert (code, out) == (1, "")
    assert str(tmp_path / "none") in err
    assert err.count("\n") == 1


def test_a_bad_user_name_is_one_sentence(habitab: Any, file: Path) -> None:
    code, _, err = habitab("--user", "../eve", "complete", file, 1, 1)
    assert code == 1
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "address"),
    [("127.0.0.1:7000", ("127.0.0.1", 7000)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_serve_is_given_the_address(
    habitab: Any, monkeypatch: pytest.MonkeyPatch, value: str, address: tuple[str, int]
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(lsp, "serve", lambda *arguments: calls.append(arguments))
    assert habitab("serve", "--tcp", value)[0] == 0
    assert habitab("serve")[0] == 0
    assert [call[1:] for call in calls] == [(None, address), (None, None)]


def test_the_base_is_described(habitab: Any) -> None:
    code, out, _ = habitab("--json", "base", "info")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["id"]


# ---- real processes ----


async def status(link: EngineLink) -> dict[str, Any]:
    return await link.status()


def test_the_second_completion_finds_the_engine_running(tmp_path: Path, tiny_base: Path, file: Path) -> None:
    command = [*HABITAB, "--json", "--home", str(tmp_path / "h"), "--base", str(tiny_base)]
    command += ["complete", str(file), "4", "24"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout)) >= {"text", "latency_ms", "tokens", "adapter", "shown", "reason"}
    home, settings = Home.locate(tmp_path / "h"), EngineSettings(base=str(tiny_base.resolve()))
    assert with_engine(home, settings, status)["state"] == "ready"
    with_engine(home, settings, EngineLink.shutdown)
    assert with_engine(home, settings, status) == {"state": "stopped"}


def test_a_missing_base_file_reaches_the_person_through_the_engine(tmp_path: Path, file: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [*HABITAB, "--home", str(tmp_path / "h"), "--base", str(tmp_path / "empty")]
    done = subprocess.run([*command, "complete", str(file), "1", "1"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(tmp_path / "empty") in done.stderr
    settings = EngineSettings(base=str((tmp_path / "empty").resolve()))
    with_engine(Home.locate(tmp_path / "h"), settings, EngineLink.shutdown)


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from habitab_server import cli; cli.run(['--help'])\n"
        "print({'torch', 'numpy', 'pygls', 'rich', 'tokenizers', 'asyncio'} & set(sys.modules))"
    )
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(time.monotonic() - began)
    assert done.stdout.splitlines()[-1] == "set()"
    assert min(times) < 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break differently there")
def test_a_reader_that_has_seen_enough_gets_no_complaint() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*HABITAB, "--help"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""


def test_the_version_is_the_installed_one() -> None:
    done = subprocess.run([*HABITAB, "--version"], capture_output=True, text=True, check=True)
    from habitab_engine import __version__

    assert __version__ in done.stdout
