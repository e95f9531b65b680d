"""The list of packages, and how their archives are fetched: by pip's, npm's and Debian's own clients, run to download.

Nothing of a package is built, installed or run. What was fetched stays in the folder and is not asked for again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from habitab_engine.errors import InputError

LIST = Path(__file__).with_name("packages.toml")
SOURCES = ("pypi", "npm", "debian")
_NAMES = {
    "pypi": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"),
    "npm": re.compile(r"(?:@[a-z0-9][a-z0-9._-]{0,98}/)?[a-z0-9][a-z0-9._-]{0,98}"),
    "debian": re.compile(r"[a-z0-9][a-z0-9+.-]{1,98}"),
}
_PATIENCE = 300  # seconds for one package
_RECORD = "fetched.json"
_ARCHIVE = re.compile(r"\.(?:whl|zip|tgz|deb|tar\.\w+)$")
GONE = "gone, or no connection"


class UnavailableError(Exception):
    """A package cannot be had; the message is the reason, in a few words."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package by its name at its source; `languages` are those of its files that are taken."""

    name: str
    source: str
    languages: tuple[str, ...]

    @property
    def key(self) -> str:
        """A file name for it."""
        return f"{self.source}-{self.name.replace('/', '+')}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The archives of one version."""

    version: str
    archives: tuple[Path, ...]


def load_packages(path: Path = LIST) -> list[Package]:
    """The packages of a TOML file: tables `group` of `source`, `languages` and `names`.

    Raises InputError for a file that cannot be read or has other contents.
    """
    try:
        groups = tomllib.loads(path.read_text(encoding="utf-8"))["group"]
        packages = [
            Package(name, group["source"], tuple(group["languages"]))
            for group in groups
            for name in group["names"].split()
        ]
        if not packages:
            raise ValueError("it names none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The list of packages {path} cannot be read ({error!r}): correct it.") from error
    for package in packages:
        check_name(package)
    return list(dict.fromkeys(packages))


def check_name(package: Package) -> None:
    """Raises InputError for what is no name of a package, since it would be an option or a path to a client."""
    pattern = _NAMES.get(package.source)
    if pattern is None or not pattern.fullmatch(package.name):
        raise InputError(
            f"{package.source} {package.name!r} is no package: give a source ({', '.join(SOURCES)}) and a name."
        )


def fetch(package: Package, folder: Path) -> Fetched:
    """The package's archives in `folder`, downloaded unless they are there. Raises UnavailableError."""
    place = folder / package.key
    if known := _recorded(place):
        return known
    _need_client(package.source)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    version = {"pypi": _from_pypi, "npm": _from_npm, "debian": _from_debian}[package.source](package.name, place)
    archives = sorted(path for path in place.iterdir() if _ARCHIVE.search(path.name))
    if not archives:
        raise UnavailableError(GONE)
    draft = place / f"{_RECORD}.part"
    record = {"version": version, "archives": [path.name for path in archives]}
    draft.write_text(json.dumps(record), encoding="utf-8")
    draft.replace(place / _RECORD)
    return Fetched(version, tuple(archives))


def _need_client(source: str) -> None:
    client = {"pypi": "pip", "npm": "npm", "debian": "apt-get"}[source]
    found = importlib.util.find_spec("pip") if client == "pip" else shutil.which(client)
    if found is None:
        raise UnavailableError(f"{client} is not installed")


def _recorded(place: Path) -> Fetched | None:
    """What an earlier run fetched whole: the record is written last."""
    try:
        record = json.loads((place / _RECORD).read_text(encoding="utf-8"))
        archives = tuple(place / Path(name).name for name in record["archives"])
        return Fetched(str(record["version"]), archives) if all(map(Path.is_file, archives)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_pypi(name: str, place: Path) -> str:
    """Downloads into `place`, as the others do, and returns the version."""
    return _stated(_run([sys.executable, "-m", "habitab_adapters.pretrain.pip_client", name, str(place)], Path.cwd()))


def _from_npm(name: str, place: Path) -> str:
    return _stated(_run(["npm", "pack", "--json", "--silent", "--ignore-scripts", name], place))


def _stated(printed: str) -> str:
    """The version in a client's JSON: an object, or a list of one."""
    try:
        value = json.loads(printed)
        return str((value[0] if isinstance(value, list) else value)["version"])
    except (ValueError, LookupError, TypeError) as error:
        raise UnavailableError(GONE) from error


def _from_debian(name: str, place: Path) -> str:
    """The source package if it can be had, else the binary package of this name."""
    try:
        options = _source_index(place.parent / "debian-index")
        _run(["apt-get", *options, "source", "--download-only", "-qq", name], place)
    except UnavailableError:
        for path in place.iterdir():
            path.unlink()
        _run(["apt-get", "download", "-qq", name], place)
    described = next((path for path in place.iterdir() if path.suffix in (".dsc", ".deb")), None)
    return described.stem.split("_")[1] if described and "_" in described.stem else ""


def _source_index(folder: Path) -> list[str]:
    """Options for apt-get with an index of sources of our own, for the system's own servers; made once.

    Most systems list no sources, and the system's own lists are not ours to change.
    """
    sources, lists = folder / "sources.list", folder / "lists"
    options = [f"Dir::Etc::SourceList={sources.resolve()}", f"Dir::Etc::SourceParts={os.devnull}"]
    options += [f"Dir::State::Lists={lists.resolve()}", f"Dir::Cache={(folder / 'cache').resolve()}"]
    arguments = [part for option in options for part in ("-o", option)]
    if not any(lists.glob("*Sources*")):
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        line = "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"
        listed = _run(["apt-get", "indextargets", "--format", line, "Created-By: Packages"], folder)
        sources.write_text("".join(f"{entry}\n" for entry in sorted(set(listed.splitlines()))), encoding="utf-8")
        _run(["apt-get", *arguments, "update", "-qq"], folder)
    return arguments


def _run(command: list[str], folder: Path) -> str:
    """What the client printed. Raises UnavailableError where it failed or took too long."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError("too slow") from error
    except (subprocess.CalledProcessError, OSError) as error:
        raise UnavailableError(GONE) from error
    return done.stdout
