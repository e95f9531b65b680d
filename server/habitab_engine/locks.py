"""Lock files: one process at a time does what a lock file stands for."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from habitab_engine.home import open_private


@contextmanager
def locked(path: Path, seconds: float, served: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Hold the lock file at `path` while inside; False if another process holds it for `seconds` more.

    Also False once `served` is true: then the holder is an engine at work, not one that is ending. The
    operating system frees the lock of a process that dies. The file names the holder's process id.
    """
    deadline = time.monotonic() + seconds
    with open_private(path, "ab+") as file:
        held = _try_lock(file.fileno())
        while not held and time.monotonic() < deadline and not served():
            time.sleep(0.05)
            held = _try_lock(file.fileno())
        if held:
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
        yield held


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            # A byte far behind the process id, which must stay readable.
            os.lseek(descriptor, 4096, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
