"""Export and import of a person's adapter: one portable `.habitab` file, PEFT's folder, or a GGUF file.

A `.habitab` file is a zip without compression: a manifest and PEFT's two files. Nothing in it is believed before it is
verified, and what is kept of it is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitab_adapters.container import printable, read_container, refuse, shown
from habitab_adapters.facts import CREATED, WORD, are_metrics, fits, is_base, parse
from habitab_adapters.registry import Registry, Version, base_fault
from habitab_engine.adapters import CONFIG, WEIGHTS
from habitab_engine.base_files import Base, identify, load_config
from habitab_engine.errors import AdapterError, HabitabError, InputError
from habitab_engine.home import open_private, sha256_of

if TYPE_CHECKING:
    from habitab_engine.lora import Lora

MANIFEST = "manifest.json"
FORMAT = 1
MEMBERS = (CONFIG, WEIGHTS)
# What a manifest and the zip itself take beside the two files.
MOST_BESIDE = 200_000
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_KEYS = {"format", "base", "created", "method", "rank", "target_modules", "metrics", "members"}
# The same adapter gives the same bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to: the version, and whether it was there already."""

    version: str
    known: bool


# ---- export ----


def export_adapter(registry: Registry, version: str | None, file: Path, kind: str = "habitab") -> str:
    """Write a version (None: the active one) to `file`, which must not exist; return the version.

    `kind` is habitab (one file), peft (a folder) or gguf (one file for llama.cpp). Raises AdapterError for a version
    that is not there or does not verify, InputError where `file` exists or cannot be written; then nothing is left.
    """
    name = version or registry.active
    if name is None:
        raise AdapterError("No adapter is active: name one of `habitab adapters list`.")
    registry.verified(name)
    if os.path.lexists(file):
        raise InputError(f"{file} exists: choose another name or move it away.")
    try:
        with tempfile.TemporaryDirectory(prefix=".habitab-", dir=file.parent) as work:
            draft = Path(work) / "draft"
            _WRITERS[kind](registry, name, draft)
            draft.rename(file)
    except OSError as exc:
        if isinstance(exc, HabitabError):
            raise
        raise InputError(f"{file} cannot be written ({exc.strerror or exc}): choose another place.") from exc
    return name


def _write_habitab(registry: Registry, version: str, draft: Path) -> None:
    contents = {name: (registry.path(version) / name).read_bytes() for name in MEMBERS}
    manifest = json.dumps(_manifest(registry.info(version), contents), indent=2) + "\n"
    with open_private(draft, "xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {MANIFEST: manifest.encode(), **contents}.items():
            member = zipfile.ZipInfo(name, _NO_TIME)
            member.external_attr = 0o600 << 16
            archive.writestr(member, content)


def _write_peft(registry: Registry, version: str, draft: Path) -> None:
    draft.mkdir(mode=0o700)
    for name in MEMBERS:
        shutil.copy2(registry.path(version) / name, draft / name)


def _write_gguf(registry: Registry, version: str, draft: Path) -> None:
    from habitab_adapters.gguf_lora import write_gguf_lora

    write_gguf_lora(registry.load(version), load_config(registry.base), draft)
    draft.chmod(0o600)


_WRITERS: Mapping[str, Callable[[Registry, str, Path], None]] = {
    "habitab": _write_habitab,
    "peft": _write_peft,
    "gguf": _write_gguf,
}
KINDS = tuple(_WRITERS)


def _manifest(version: Version, contents: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        **{name: version.facts[name] for name in ("base", "created", "method", "metrics")},
        "rank": version.rank,
        "target_modules": list(version.modules),
        "members": {name: _measure(content) for name, content in contents.items()},
    }


def _measure(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


# ---- import ----


def import_adapter(registry: Registry, file: Path, activate: bool = False) -> Imported:
    """Keep the adapter in the `.habitab` file `file` as a version of this person's, active only with `activate`.

    One that is there already is not kept twice. Raises AdapterError, with a sentence that says why, for whatever does
    not verify, and then keeps nothing.
    """
    from habitab_engine.lora import MOST_BYTES

    members = read_container(file, MOST_BYTES + MOST_BESIDE)
    manifest = _read_manifest(file, members)
    base = identify(registry.base)
    if fault := base_fault(manifest["base"], base.base_id, base.sha256):
        refuse(file, fault)
    known = _version_of(registry, manifest["members"])
    version = known or registry.add(_read_lora(file, manifest, members, base), _facts(manifest))
    if activate:
        registry.activate(version)
    return Imported(version, known is not None)


def _read_manifest(file: Path, members: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest, which tells the truth about the other members. Raises AdapterError."""
    if pickles := [name for name in members if name.lower().endswith(PICKLES)]:
        refuse(file, f"its member {shown(pickles[0])} is a pickle file, which can run code when opened")
    if MANIFEST not in members:
        refuse(file, f"it has no {MANIFEST}")
    try:
        manifest = parse(members[MANIFEST])
    except ValueError as exc:
        raise AdapterError(f"The adapter in {file} cannot be used: its {MANIFEST} is damaged ({exc}).") from exc
    if fault := _manifest_fault(manifest) or _members_fault(manifest, members):
        refuse(file, fault)
    return manifest


def _manifest_fault(manifest: Mapping[str, Any]) -> str:
    """What in a manifest is not as habitab writes it, or ""."""
    if type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        return f"its format is {shown(manifest.get('format'))}, and this habitab reads {FORMAT}; install a newer one"
    if unknown := sorted(manifest.keys() - _KEYS):
        return f"its {MANIFEST} says {shown(unknown[0])}, which this habitab does not know; install a newer one"
    if missing := sorted(_KEYS - manifest.keys()):
        return f"its {MANIFEST} does not say {missing[0]!r}"
    right = {
        "base": is_base(manifest["base"]),
        "created": fits(CREATED, manifest["created"]),
        "method": fits(WORD, manifest["method"]),
        "metrics": are_metrics(manifest["metrics"]),
    }
    wrong = [name for name, ok in right.items() if not ok]
    return f"the {wrong[0]!r} in its {MANIFEST} is not what habitab writes: short numbers and words" if wrong else ""


def _members_fault(manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> str:
    """What in the zip is not what its manifest says, or ""."""
    if unexpected := [name for name in members if name not in (MANIFEST, *MEMBERS)]:
        return f"its member {shown(unexpected[0])} is no part of an adapter"
    if missing := [name for name in MEMBERS if name not in members]:
        return f"{missing[0]} is missing"
    promised = manifest["members"]
    if not isinstance(promised, dict) or promised.keys() != set(MEMBERS):
        return f"the members in its {MANIFEST} are not those of an adapter"
    wrong = [name for name in MEMBERS if promised[name] != _measure(members[name])]
    return f"the size or checksum of {wrong[0]} is not the one in its {MANIFEST}" if wrong else ""


def _version_of(registry: Registry, members: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The version that has the same two files, if there is one."""
    weights, config = members[WEIGHTS]["sha256"], members[CONFIG]["sha256"]
    for version in registry.versions():
        if version.facts.get("sha256") == weights and sha256_of(registry.path(version.name) / CONFIG) == config:
            return version.name
    return None


def _read_lora(file: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes], base: Base) -> Lora:
    from habitab_engine.lora import read_lora

    with tempfile.TemporaryDirectory(prefix="habitab-") as work:
        for name in MEMBERS:
            (Path(work) / name).write_bytes(members[name])
        try:
            lora = read_lora(Path(work), base.base_id, base.config)
        except AdapterError as exc:
            raise AdapterError(printable(str(exc)).replace(work, str(file))) from exc
    modules = sorted({name.split(".")[-2] for name in lora.factors})
    if (lora.rank, modules) != (manifest["rank"], manifest["target_modules"]):
        refuse(file, f"its {MANIFEST} tells of another rank or other target modules than its tensors have")
    return lora


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a manifest; the version that was learned on is not part of it."""
    return {name: manifest[name] for name in ("base", "created", "method", "metrics")}
