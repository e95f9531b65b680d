"""A person's adapter versions on disk: never changed once written, never numbered twice, one of them active or none.

Everything is written beside its place and renamed, so that a process may end at any point.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from habitab_adapters.facts import CREATED, SHA256, WORD, are_metrics, fits, is_base, parse
from habitab_engine.adapters import CONFIG, FACTS, POINTER, WEIGHTS
from habitab_engine.base_files import identify
from habitab_engine.errors import AdapterError
from habitab_engine.home import Home, private_folder, sha256_of
from habitab_engine.locks import locked

if TYPE_CHECKING:
    from habitab_engine.lora import Lora

LAST, LOCK = "last.json", "adapters.lock"
FORMAT = 1
# How many activations can be taken back.
MOST_BEFORE = 50
# Seconds to wait for another process that changes the registry.
PATIENCE = 10.0
_NAME = re.compile(r"v[1-9][0-9]{0,8}")
# Folders that are being written or deleted; what a killed process left is deleted by the next change.
_DRAFT = ".draft-"
_KEYS = {"format", "version", "created", "base", "method", "parent", "sha256", "metrics"}


@dataclass(frozen=True, slots=True)
class Version:
    """One version: `facts` is its habitab.json, `rank` and `modules` are PEFT's, `bytes` is the size of its files.

    A damaged version says in `damage` what is wrong with it, and has nothing else.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 0
    modules: tuple[str, ...] = ()
    bytes: int = 0
    damage: str = ""

    @property
    def metrics(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.facts.get("metrics", {})
        return found

    def as_json(self) -> dict[str, Any]:
        more = {"rank": self.rank, "target_modules": list(self.modules), "bytes": self.bytes, "damage": self.damage}
        return {"version": self.name, **self.facts, **more}


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which version is active, and those that were before, the newest last; None is the bare base."""

    version: str | None = None
    before: tuple[str | None, ...] = ()

    def without(self, version: str) -> Pointer:
        """As if `version`, which is not the active one, had never been active."""
        kept = [one for one in (*self.before, self.version) if one != version]
        return Pointer(self.version, tuple(one for one, following in pairwise(kept) if one != following))


@dataclass(frozen=True, slots=True)
class Registry:
    """The adapters of `home`, for the base model in the folder `base` (None: the embedded one)."""

    home: Home
    base: Path | None = None

    @property
    def folder(self) -> Path:
        return self.home.adapters

    @property
    def active(self) -> str | None:
        """The version that serves; None for the bare base, also where the pointer is broken."""
        return self._pointer().version

    def versions(self) -> list[Version]:
        """Every version, the newest last; damaged ones too."""
        return [self._look(f"v{number}") for number in sorted(self._numbers())]

    def info(self, version: str) -> Version:
        """One version. Raises AdapterError where there is none of that name."""
        self.path(version)
        return self._look(version)

    def path(self, version: str) -> Path:
        """The folder of a version. Raises AdapterError where there is none of that name."""
        if not _NAME.fullmatch(version):
            raise AdapterError(f"{version!r} is no version: take one of `habitab adapters list`, such as v3.")
        place = self.folder / version
        if not os.path.lexists(place):
            raise AdapterError(f"There is no version {version}: `habitab adapters list` shows those there are.")
        return place

    def verified(self, version: str) -> Version:
        """One version, whose files are what they were when it was written. Raises AdapterError otherwise."""
        found = self.info(version)
        if found.damage:
            raise AdapterError(f"{version} is damaged ({found.damage}): take another version, or learn again.")
        return found

    def load(self, version: str) -> Lora:
        """The tensors of a version, once all of it is verified, that it was made for this base above all.

        Raises AdapterError, or BaseModelError for a base that cannot be read.
        """
        from habitab_engine.lora import read_lora

        made_for = self.verified(version).facts["base"]
        base = identify(self.base)
        if fault := base_fault(made_for, base.base_id, base.sha256):
            raise AdapterError(f"{version} cannot be used: {fault}.")
        return read_lora(self.path(version), base.base_id, base.config)

    def add(self, lora: Lora, facts: Mapping[str, Any]) -> str:
        """Write `lora` as the next version and return its name; it is not active yet.

        `facts` has `base` ({"id", "sha256"}), `method` (a word), and if they are known `parent` (a version), `metrics`
        (numbers and short words) and `created`. Raises AdapterError for other facts, or where it cannot be written.
        """
        from habitab_engine.lora import write_lora

        about = _about(lora, facts)
        with self._changing():
            name = f"v{self._take_number()}"
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.folder))
            try:
                write_lora(draft, lora)
                about |= {"version": name, "sha256": sha256_of(draft / WEIGHTS)}
                (draft / FACTS).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
                for file in draft.iterdir():
                    file.chmod(0o600)
                    _settle(file)
                draft.rename(self.folder / name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return name

    def activate(self, version: str | None) -> None:
        """Let `version` serve, None for the bare base. Raises AdapterError, and changes nothing, as `load` does."""
        if version is not None:
            self.load(version)
        with self._changing():
            if version is not None:
                self.path(version)  # another process may have removed it
            now = self._pointer()
            if now.version != version:
                self._point(Pointer(version, (*now.before, now.version)[-MOST_BEFORE:]))

    def rollback(self) -> str | None:
        """Let that version serve, or the bare base, which did before the last activation; return it.

        Once more, and it is the one before that. Raises AdapterError where nothing was active before, or where that
        version does not verify.
        """
        target = self._former()
        if target is not None:
            self.load(target)
        with self._changing():
            if self._former() != target:
                raise AdapterError("Another process has just changed the active adapter: look at it and try again.")
            self._point(Pointer(target, self._pointer().before[:-1]))
        return target

    def remove(self, version: str) -> None:
        """Delete a version for good; its number is not given again. Raises AdapterError for the active one."""
        place = self.path(version)
        with self._changing():
            now = self._pointer()
            if now.version == version:
                raise AdapterError(f"{version} is active: activate another version or `none` first.")
            self._write(LAST, {"number": self._last()})
            self._point(now.without(version))
            gone = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.folder)) / version
            if os.path.lexists(place):
                place.rename(gone)
            _delete(gone.parent)

    # ---- what the folder says ----

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name[1:]) for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]

    def _look(self, version: str) -> Version:
        place = self.folder / version
        try:
            facts = _facts(place)
            rank, modules = _shape(place, facts["base"]["id"])
            size = sum(file.stat().st_size for file in place.iterdir())
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            return Version(version, damage=why)
        return Version(version, facts, rank, modules, size)

    def _pointer(self) -> Pointer:
        try:
            said = parse((self.folder / POINTER).read_bytes())
        except (OSError, ValueError):
            return Pointer()
        before = said.get("before")
        known = [one for one in before if _is_choice(one)] if isinstance(before, list) else []
        version = said.get("version")
        return Pointer(version if fits(_NAME, version) else None, tuple(known))

    def _former(self) -> str | None:
        before = self._pointer().before
        if not before:
            raise AdapterError("There is nothing to go back to: no other adapter was active before.")
        return before[-1]

    def _last(self) -> int:
        """The highest number that was ever given, as far as anything on disk tells."""
        try:
            last = parse((self.folder / LAST).read_bytes()).get("number")
        except (OSError, ValueError):
            last = 0
        now = self._pointer()
        named = [int(name[1:]) for name in (now.version, *now.before) if name]
        return max([last if isinstance(last, int) else 0, *self._numbers(), *named])

    # ---- how it changes ----

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with the folder. Raises AdapterError where another process holds it, or where it cannot be written."""
        self.home.prepare()
        private_folder(self.folder)
        try:
            with locked(self.folder / LOCK, PATIENCE) as held:
                if not held:
                    raise AdapterError("Another process is changing the adapters: try again in a moment.")
                for left in self.folder.glob(f"{_DRAFT}*"):
                    _delete(left)
                yield
        except OSError as exc:
            why = exc.strerror or str(exc)
            raise AdapterError(f"The folder {self.folder} cannot be written ({why}): make room there.") from exc

    def _take_number(self) -> int:
        number = self._last() + 1
        self._write(LAST, {"number": number})
        return number

    def _point(self, pointer: Pointer) -> None:
        self._write(POINTER, {"version": pointer.version, "before": list(pointer.before)})

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        descriptor, draft = tempfile.mkstemp(prefix=_DRAFT, dir=self.folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file)
        _settle(Path(draft))
        Path(draft).replace(self.folder / name)


def base_fault(made_for: Mapping[str, str], base_id: str, sha256: str) -> str:
    """Why what was made for one base does not fit this one, without a full stop; "" where it fits."""
    if made_for["id"] != base_id:
        return f"it was made for the base model {made_for['id']}, and this is {base_id}"
    if made_for["sha256"] != sha256:
        return f"it was made for other weights of {base_id} than these"
    return ""


def _about(lora: Lora, facts: Mapping[str, Any]) -> dict[str, Any]:
    """habitab.json without what is known only once the files are written. Raises AdapterError."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    about = {"format": FORMAT, "created": now, "parent": None, "metrics": {}, **facts}
    if fault := _fault(about, _KEYS - {"version", "sha256"}):
        raise AdapterError(f"The adapter cannot be kept: {fault}.")
    if about["base"]["id"] != lora.base_id:
        raise AdapterError(f"The adapter cannot be kept: it was made for the base model {lora.base_id}.")
    return about


def _facts(place: Path) -> dict[str, Any]:
    """The habitab.json in `place`, whose tensors it tells the truth of. Raises OSError or ValueError."""
    if place.is_symlink() or not place.is_dir():
        raise ValueError("it is no folder")
    for name in (FACTS, CONFIG, WEIGHTS):
        if (place / name).is_symlink() or not (place / name).is_file():
            raise ValueError(f"{name} is missing")
    try:
        facts = parse((place / FACTS).read_bytes())
    except ValueError as exc:
        raise ValueError(f"{FACTS} is not what habitab wrote") from exc
    if fault := _fault(facts, _KEYS):
        raise ValueError(fault)
    if facts["version"] != place.name:
        raise ValueError(f"{FACTS} is that of another version")
    if facts["sha256"] != sha256_of(place / WEIGHTS):
        raise ValueError(f"the checksum of {WEIGHTS} is not the one in {FACTS}")
    return facts


def _shape(place: Path, base_id: str) -> tuple[int, tuple[str, ...]]:
    """Rank and target modules, from PEFT's configuration in `place`. Raises OSError or ValueError."""
    try:
        config = parse((place / CONFIG).read_bytes())
    except ValueError as exc:
        raise ValueError(f"{CONFIG} is not JSON") from exc
    rank, modules = config.get("r"), config.get("target_modules")
    named = isinstance(modules, list) and all(fits(WORD, name) for name in modules)
    if type(rank) is int and named and config.get("base_model_name_or_path") == base_id:
        return rank, tuple(modules or ())
    raise ValueError(f"{CONFIG} is not what habitab wrote")


def _fault(facts: Mapping[str, Any], keys: set[str]) -> str:
    """What is wrong with a habitab.json, without a full stop, or ""."""
    if facts.get("format") != FORMAT:
        return f"{FACTS} has another format than {FORMAT}"
    if facts.keys() != keys:
        return f"{FACTS} says too much or too little ({', '.join(sorted(facts.keys() ^ keys))})"
    right = {
        "base": is_base(facts["base"]),
        "created": fits(CREATED, facts["created"]),
        "method": fits(WORD, facts["method"]),
        "parent": _is_choice(facts["parent"]),
        "metrics": are_metrics(facts["metrics"]),
        "sha256": "sha256" not in keys or fits(SHA256, facts["sha256"]),
    }
    wrong = [name for name, ok in right.items() if not ok]
    return f"the {wrong[0]} in {FACTS} is not what habitab writes" if wrong else ""


def _is_choice(value: object) -> bool:
    return value is None or fits(_NAME, value)


def _settle(path: Path) -> None:
    """Have a file on the disk before its name is: after a power cut a renamed file must not be empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _delete(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
