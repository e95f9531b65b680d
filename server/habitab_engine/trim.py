"""Gives memory that was freed back to the system, which some C libraries keep for later."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def trim() -> None:
    """To be called after work that took much and freed it: loading leaves about 60 MB, an index or a prompt as much."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)
