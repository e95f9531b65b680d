"""Emacs 28 with eglot, typed into: ghost text from the real server, accepted, partly accepted and sent away."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hands import SLOW_SECONDS, Editor, environment, eventually, knowing_server, printed, real_engine

Start = Callable[..., "Emacs"]
EXAMPLE = (Path(__file__).parent / "example.py").read_text(encoding="utf-8").rstrip("\n")
END, WORD, LINE, DISMISS = "\x1b>", "\x1b[1;5C", "\x1b[1;5B", "\x07"
# What the tests look at: the text and the cursor, the ghost as it is drawn, and what the server was told.
EYES = """
(setq native-comp-deferred-compilation nil create-lockfiles nil make-backup-files nil auto-save-default nil
      require-final-newline nil mode-require-final-newline nil eglot-autoreconnect t warning-minimum-level :emergency)
%s
(load "%s/habitab")
(require 'server)
(setq server-socket-dir "%s" server-name "socket")
(server-start)
(defvar told nil)
(advice-add 'jsonrpc-connection-send :before
            (lambda (_ &rest sent)
              (when-let ((method (plist-get sent :method)))
                (push (vector (string-trim-left (symbol-name method) ":") (plist-get sent :params)) told))))
(defun ghost ()
  (seq-some (lambda (overlay)
              (let ((text (or (overlay-get overlay 'display) (overlay-get overlay 'after-string))))
                (and (stringp text) (eq (get-text-property 0 'face text) 'habitab-ghost)
                     (substring-no-properties text))))
            (overlays-in (point-min) (point-max))))
(defun said (buffer)
  (and (get-buffer buffer) (with-current-buffer buffer (buffer-substring-no-properties (point-min) (point-max)))))
(defun look (file)
  (let ((coding-system-for-write 'utf-8)
        (seen (with-current-buffer (window-buffer)
                (list :text (buffer-substring-no-properties (point-min) (point-max))
                      :right (buffer-substring-no-properties (point) (point-max))
                      :ghost (ghost)
                      :server (if habitab-mode t :json-false)
                      :messages (concat (said "*Messages*") (said "*Warnings*"))
                      :told (vconcat (reverse told))))))
    (write-region (json-serialize seen :null-object nil :false-object :json-false) nil file nil 'silent)))
"""


@cache
def find_emacs() -> str:
    """Emacs with eglot; what CI lacks fails there."""
    emacs = shutil.which("emacs")
    probe = [str(emacs), "-q", "--batch", "--eval", "(require 'eglot)"]
    if (
        emacs
        and shutil.which("emacsclient")
        and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    ):
        return emacs
    if os.environ.get("CI"):
        pytest.fail("CI needs Emacs with eglot.")
    pytest.skip("There is no Emacs with eglot here.")


class Emacs(Editor):
    """One Emacs in a terminal of 80 columns, with the printed configuration loaded."""

    def __init__(self, home: Path, file: Path, setup: str, path: str | None = None) -> None:
        emacs = find_emacs()
        (home / "habitab.el").write_text(printed("emacs"), encoding="utf-8")
        self._folder = tempfile.TemporaryDirectory(prefix="emacs-")
        self._socket = str(Path(self._folder.name) / "socket")
        (home / "setup.el").write_text(EYES % (setup, home, self._folder.name), encoding="utf-8")
        self._environment = environment(home, path, LC_ALL="C.UTF-8")
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [emacs, "-nw", "-q", "--no-splash", "-l", str(home / "setup.el"), str(file)]
        self.process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # It is the terminal of that session, which Emacs opens by its common name.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.screen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Take what Emacs draws; it would wait for ever for a terminal that nobody reads."""
        with contextlib.suppress(OSError):
            while drawn := os.read(self._terminal, 65536):
                self.screen += drawn

    def await_start(self) -> None:
        eventually(Path(self._socket).exists, lambda: self.screen)

    def type(self, keys: str) -> None:
        """Press keys, as a terminal sends them."""
        os.write(self._terminal, keys.encode())

    def look(self) -> dict[str, Any]:
        # Through a file, because emacsclient breaks long answers; again, because Control-G ends it.
        file = Path(self._folder.name) / "seen"
        command = ["emacsclient", "-s", self._socket, "--eval", f'(look "{file}")']
        eventually(lambda: subprocess.run(command, env=self._environment, capture_output=True).returncode == 0)
        return json.loads(file.read_text(encoding="utf-8"))

    def end(self) -> None:
        super().end()
        self._reader.join(SLOW_SECONDS)
        os.close(self._terminal)
        self._folder.cleanup()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts editors that end with the test."""
    started: list[Emacs] = []

    def start(*arguments: Any, **options: Any) -> Emacs:
        started.append(Emacs(*arguments, **options))
        started[-1].await_start()
        return started[-1]

    yield start
    for emacs in started:
        emacs.end()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    find_emacs()
    with real_engine(tmp_path_factory.mktemp("home")) as folder:
        yield folder


@pytest.fixture
def example(tmp_path: Path) -> Path:
    file = tmp_path / "example.py"
    file.write_text(EXAMPLE, encoding="utf-8")
    return file


def ready(emacs: Emacs, keys: str) -> None:
    """Go to the text's end, and press keys as soon as the server listens."""
    emacs.type(END)
    emacs.until(lambda seen: seen["server"])
    emacs.type(keys)


REAL = "(setq habitab-settings '(:budgetMs 60000 :showThreshold 0))"


def test_a_real_suggestion_is_accepted_by_word_and_as_a_whole(start: Start, home: Path, example: Path) -> None:
    emacs = start(home, example, REAL)
    ready(emacs, "u")
    ghost = emacs.ghost()
    assert ghost.startswith("rn ")
    emacs.type(WORD)
    emacs.shows(EXAMPLE + "urn", ghost[2:])
    emacs.type("\t")
    seen = emacs.until(lambda seen: seen["text"] != EXAMPLE + "urn")
    assert (seen["text"], seen["right"]) == (EXAMPLE + "u" + ghost, "")
    shown = emacs.told("textDocument/didShowCompletion")[0]
    (partly,) = emacs.told("textDocument/didPartiallyAcceptCompletion")
    assert partly == {"item": shown["item"], "acceptedLength": 2}
    (accepted,) = emacs.told("workspace/executeCommand")
    assert accepted["command"] == "habitab.accept"


def test_a_real_suggestion_is_sent_away_and_tab_indents_again(start: Start, home: Path, example: Path) -> None:
    emacs = start(home, example, REAL)
    ready(emacs, "u")
    emacs.ghost()
    # Control-G interrupts whatever Emacs does; only where that is nothing it is a key.
    emacs.until(lambda seen: not seen["ghost"] or emacs.type(DISMISS))
    emacs.shows(EXAMPLE + "u", None)
    (dismissed,) = emacs.told("habitab/didDismissCompletion")
    assert dismissed["reason"] == "rejected"
    emacs.type("\tx")
    emacs.until(lambda seen: seen["text"].endswith("ux"))


BEGUN = "# naïve\ndef main(names):\n    label = 'é𝄞'; f"
MISSING = "or name in names:\n        greet(name)\n    return names"


@pytest.fixture
def written(start: Start, tmp_path: Path) -> Callable[..., Emacs]:
    """An editor on a file that holds `begun` and lacks `missing`, which its server knows."""

    def write(begun: str = BEGUN, missing: str = MISSING, setup: str = "") -> Emacs:
        (tmp_path / "target").write_text(begun + missing, encoding="utf-8")
        (tmp_path / "main.py").write_text(begun, encoding="utf-8")
        words = " ".join(map(json.dumps, knowing_server(tmp_path / "target")))
        return start(tmp_path, tmp_path / "main.py", f"(setq habitab-command '({words})) {setup}")

    return write


def test_several_lines_are_shown_typed_through_and_accepted_by_line(written: Callable[..., Emacs]) -> None:
    emacs = written()
    ready(emacs, "o")
    emacs.shows(BEGUN + "o", MISSING[1:])
    emacs.type("r n")
    emacs.shows(BEGUN + "or n", MISSING[4:])
    emacs.type(LINE + LINE)
    emacs.shows(BEGUN + "or name in names:\n        greet(name)", " \n    return names")
    lengths = [told["acceptedLength"] for told in emacs.told("textDocument/didPartiallyAcceptCompletion")]
    assert lengths == [len("r name in names:"), len("r name in names:\n        greet(name)")]
    emacs.type("x")
    emacs.until(lambda seen: seen["ghost"] is None)
    (dismissed,) = emacs.told("habitab/didDismissCompletion")
    assert dismissed["reason"] == "typed_over"


def test_a_bracket_that_the_editor_closed_is_not_doubled(written: Callable[..., Emacs]) -> None:
    emacs = written("total = 0\nprin", "t(greet(name))\nend", "(electric-pair-mode)")
    ready(emacs, "t")
    emacs.shows("total = 0\nprint", "(greet(name))\nend")
    emacs.type("(")
    emacs.shows("total = 0\nprint()", "greet(name))\nend")
    emacs.type(WORD)
    emacs.shows("total = 0\nprint(greet)", "(name))\nend")
    emacs.type(LINE)
    emacs.shows("total = 0\nprint(greet(name))", " \nend")


def test_without_the_server_there_is_one_message_and_typing_goes_on(start: Start, example: Path) -> None:
    emacs = start(example.parent, example, "(setq warning-minimum-level :warning)", path=os.defpath)
    emacs.type(END + "urn\tx")
    seen = emacs.until(lambda seen: seen["text"].endswith("x"))
    assert seen["text"] == EXAMPLE + "urnx"
    assert seen["messages"].count("no command `habitab' on PATH") == 1


def test_a_server_killed_while_typing_is_started_again(written: Callable[..., Emacs]) -> None:
    emacs = written()
    ready(emacs, "o")
    emacs.ghost()
    for server in emacs.servers():
        server.kill()
    emacs.type("r na")
    emacs.until(lambda seen: seen["text"] == BEGUN + "or na")
    emacs.until(lambda seen: seen["server"] and seen["messages"].count("Connected!") == 2)
    emacs.type("m")
    emacs.shows(BEGUN + "or nam", "e in names:\n        greet(name)\n    return names")
