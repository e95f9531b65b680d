"""Which adapter of a person is active, and whether its files are those that were written. Never imports torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from habitab_engine.errors import AdapterError
from habitab_engine.home import sha256_of

POINTER, FACTS = "active.json", "habitab.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's two files
ADVICE = "activate another version with `habitab adapters activate`"
_VERSION = re.compile(r"v[1-9]\d{0,8}")


@dataclass(frozen=True, slots=True)
class Worn:
    """What an engine serves: the adapter `version`, or the base alone ("").

    `asked` is what the pointer said last (None: nothing that can be read), `trouble` the sentence why it is not served.
    """

    version: str = ""
    asked: str | None = ""
    trouble: str = ""


def active_version(folder: Path) -> str | None:
    """The version that the pointer in `folder` (`Home.adapters`) names; None for the base alone.

    Raises AdapterError for a pointer that cannot be read: whoever serves goes on as before.
    """
    path = folder / POINTER
    if not path.exists():
        return None
    version = _object(path).get("version")
    if version is not None and not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise AdapterError(f"The file {path} names no adapter: {ADVICE}.")
    return version


def verified(folder: Path, version: str, base_id: str, base_sha256: str) -> Path:
    """The folder of `version`, whose weights are those that were written, and for this base.

    Raises AdapterError; the layout of the two PEFT files is not looked at (`lora.read_lora`).
    """
    place = folder / version
    facts = _object(place / FACTS)
    base = facts.get("base")
    made_for = (base.get("id"), base.get("sha256")) if isinstance(base, dict) else (None, None)
    if made_for != (base_id, base_sha256):
        which = f"the base model {made_for[0]}" if made_for[0] != base_id else "other weights of it"
        raise AdapterError(f"The base model is {base_id}, and the adapter {version} was made for {which}: {ADVICE}.")
    if _digest(place / WEIGHTS) != facts.get("sha256"):
        raise AdapterError(f"The file {place / WEIGHTS} is damaged: {ADVICE}.")
    return place


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _object(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise AdapterError(f"The file {path} is damaged: {ADVICE}.")
    return fields


def _unreadable(path: Path, error: OSError) -> AdapterError:
    return AdapterError(f"The file {path} cannot be read ({error.strerror or error}): {ADVICE}.")
