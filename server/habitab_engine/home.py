"""Where a person's habitab lives on disk: folders only that person can read, logs, the engine's address."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from habitab_engine.errors import InputError

if TYPE_CHECKING:
    import logging

LOG_BYTES = 256 * 1024
# AF_UNIX paths may have 104 bytes on macOS and 108 on Linux, the closing NUL included.
LONGEST_ADDRESS = 99
_USER = re.compile(r"[\w@+-][\w.@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Home:
    """One person's folder; `path` is absolute, `user` names the person within it."""

    path: Path
    user: str

    @classmethod
    def locate(cls, path: str | os.PathLike[str] | None = None, user: str | None = None) -> Home:
        """The home at `path`, else HABITAB_HOME, else the platform's user data folder.

        Raises InputError for a user name that cannot name a folder.
        """
        chosen = str(path or os.environ.get("HABITAB_HOME") or _default_path())
        name = user or os.environ.get("HABITAB_USER") or os_user()
        if not _USER.fullmatch(name):
            raise InputError(f"The user name {name!r} cannot be used: take letters, digits and . _ - @ + (at most 64).")
        return cls(Path(os.path.abspath(os.path.expanduser(chosen))), name)  # noqa: PTH100, PTH111

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Sockets, locks and the key of the engine."""
        return self.path / "run"

    @property
    def user_folder(self) -> Path:
        return self.path / "users" / self.user

    @property
    def signals_file(self) -> Path:
        """What became of the person's suggestions: see `signals.py`."""
        return self.user_folder / "signals.db"

    @property
    def adapters(self) -> Path:
        """The person's adapters, a folder for each version, and the pointer to the active one: see `adapters.py`."""
        return self.user_folder / "adapters"

    @property
    def key_file(self) -> Path:
        return self.run / "engine.key"

    def prepare(self) -> None:
        """Create the folders, each readable by the person only.

        A home that was there before keeps its mode (it may be any folder the person named): what is inside
        is closed. Raises InputError with what to do if a folder cannot be made or belongs to somebody else.
        """
        if not self.path.exists():
            private_folder(self.path)
        for folder in (self.run, self.logs, self.path / "users", self.user_folder):
            private_folder(folder)

    def engine_address(self, base: str = "") -> str:
        """The address of this person's engine for the base model in folder `base` ("" = the embedded one).

        A path of a Unix socket under 100 bytes, or the name of a Windows pipe. The machine's name is part of
        it, because a home on a network drive is seen by several machines.
        """
        who = [str(self.path), os_user(), self.user, _base_identity(base), socket.gethostname()]
        name = hashlib.sha256("\0".join(who).encode("utf-8", "surrogateescape")).hexdigest()[:24]
        if sys.platform == "win32":
            return rf"\\.\pipe\habitab-{name}"
        inside = self.run / f"{name}.sock"
        if len(os.fsencode(inside)) <= LONGEST_ADDRESS:
            return str(inside)
        return str(_short_temporary(name) / "engine.sock")

    def engine_lock(self, address: str) -> Path:
        """The lock file of the engine at `address`."""
        if sys.platform == "win32":
            return self.run / (address.rpartition("\\")[2] + ".lock")
        return Path(address).with_suffix(".lock")


def os_user() -> str:
    """The operating system's name for the person, or the numeric id where there is no name."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return str(os.getuid()) if hasattr(os, "getuid") else "user"


def private_folder(folder: Path) -> None:
    """Make `folder` with mode 0700, or check that it is one that only this person can use.

    Raises InputError with what to do.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if fault := folder_fault(folder):
            raise InputError(fault)
        if sys.platform != "win32" and stat.S_IMODE(folder.lstat().st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as exc:
        raise InputError(
            f"The folder {folder} cannot be used ({_plain(exc)}): make it writable or choose another with --home."
        ) from exc


def folder_fault(folder: Path) -> str:
    """One sentence if `folder` is a link or belongs to somebody else, else ""."""
    if sys.platform == "win32":
        return ""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        return f"{folder} is not a folder: move it away or choose another home with --home."
    if facts.st_uid != os.getuid():
        return f"The folder {folder} belongs to another user: choose another home with --home."
    return ""


def open_log(home: Home, name: str) -> logging.Logger:
    """The small rotating log `logs/<name>.log`, the logger `habitab.<name>`.

    It may never stop anything: where it cannot be written, one sentence goes to standard error.
    """
    import logging

    logger = logging.getLogger(f"habitab.{name}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    try:
        home.prepare()
        logger.addHandler(_rotating_handler(home.logs / f"{name}.log"))
    except (OSError, InputError) as exc:
        logger.addHandler(logging.NullHandler())
        _say(f"habitab: no log is written ({_plain(exc)}).")
    return logger


def open_private(path: str | Path, mode: str = "ab") -> IO[bytes]:
    """Open a file for writing that only this person can read."""
    return open(path, mode, opener=lambda p, flags: os.open(p, flags, 0o600))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def engine_key(home: Home) -> bytes:
    """The 32 secret bytes that clients and engine show each other, made at the first call.

    Raises OSError if the file cannot be written or read.
    """
    key = _read_key(home.key_file)
    if key:
        return key
    descriptor, name = tempfile.mkstemp(dir=home.run, prefix="key-")
    try:
        with os.fdopen(descriptor, "wb") as draft:
            draft.write(os.urandom(32))
        # Whoever publishes first wins, so that two processes starting at once read the same key.
        _publish(Path(name), home.key_file)
    finally:
        Path(name).unlink(missing_ok=True)
    return home.key_file.read_bytes()


def _read_key(path: Path) -> bytes:
    """The key, or nothing; a file that is no key (say after a full disk) is removed."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return b""
    if len(key) == 32:
        return key
    path.unlink(missing_ok=True)
    return b""


def _publish(draft: Path, target: Path) -> None:
    """Give `draft` its name unless the name is taken."""
    try:
        if sys.platform == "win32":
            draft.rename(target)
        else:
            target.hardlink_to(draft)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links.
        draft.replace(target)


def _rotating_handler(path: Path) -> logging.Handler:
    from logging import CRITICAL, Formatter
    from logging.handlers import RotatingFileHandler

    class PrivateLog(RotatingFileHandler):
        def _open(self) -> IO[str]:  # type: ignore[override]
            return open(self.baseFilename, self.mode, encoding="utf-8", opener=_owner_only)

        def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the base class's name)
            _say(f"habitab: the log {self.baseFilename} cannot be written ({_plain(sys.exception())}).")
            self.setLevel(CRITICAL + 1)
            with contextlib.suppress(OSError):
                self.close()

    handler = PrivateLog(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    return handler


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _say(sentence: str) -> None:
    try:
        print(sentence, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # Nobody reads standard error any more.
        return


def _plain(exc: BaseException | None) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def _default_path() -> str:
    from platformdirs import user_data_dir

    return user_data_dir("habitab", appauthor=False)


def _base_identity(base: str) -> str:
    return os.path.realpath(base) if base else ""


def _short_temporary(name: str) -> Path:
    """A private folder with a short name, for a home whose own path is too long for a socket."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        folder = Path(parent) / f"habitab-{name}"
        if len(os.fsencode(folder / "engine.sock")) <= LONGEST_ADDRESS:
            break
    private_folder(folder)
    return folder
