"""Reads a zip file that may come from anybody: few members, stored as they are, none that leads out of a folder."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path, PureWindowsPath
from typing import NoReturn

from habitab_engine.errors import AdapterError

MOST_MEMBERS = 16
MOST_DIRECTORY = 16_384
# How a zip ends (APPNOTE.TXT 4.3.16): this disk, disk of the directory, entries here and in all, the directory's bytes
# and place, length of a comment.
_END = struct.Struct("<4s4H2LH")
_FIRST, _LAST, _ZIP64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07"
_ZIP64_BYTES = 20
_ENCRYPTED = 0x1
# What zipfile raises at a damaged file, whatever it says about it.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError, struct.error)


def read_container(file: Path, most: int) -> dict[str, bytes]:
    """The members of the zip `file`, which has at most `most` bytes, by their names in the order of its directory.

    Raises AdapterError, with a sentence that says why, before anything is unpacked that is not as it has to be.
    """
    data = _read(file, most)
    if fault := _frame_fault(data):
        refuse(file, fault)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if fault := _members_fault(members, len(data)):
                refuse(file, fault)
            return {member.filename: archive.read(member) for member in members}
    except _DAMAGE as exc:
        if isinstance(exc, AdapterError):
            raise
        raise AdapterError(f"The adapter in {file} cannot be used: it is damaged.") from exc


def refuse(file: Path, why: str) -> NoReturn:
    raise AdapterError(f"The adapter in {file} cannot be used: {why}.")


def shown(name: object) -> str:
    """A name of somebody else's, for a sentence."""
    text = printable(str(name))
    return repr(text if len(text) <= 60 else text[:59] + "…")


def printable(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _read(file: Path, most: int) -> bytes:
    try:
        if not file.is_file():
            raise AdapterError(f"There is no file {file}.")
        with file.open("rb") as source:
            data = source.read(most + 1)
    except OSError as exc:
        raise AdapterError(f"{file} cannot be read ({exc.strerror or exc}).") from exc
    if len(data) > most:
        refuse(file, f"it is larger than {most / 1e6:g} MB")
    return data


def _frame_fault(data: bytes) -> str:
    """What is wrong with a zip's two ends, or ""."""
    if not data.startswith(_FIRST):
        return "it is no .habitab file (no zip)"
    if len(data) < _END.size or data[-_END.size :][:4] != _LAST:
        return "it is cut off, or something was added behind its end"
    _, disk, start, here, count, size, place, comment = _END.unpack(data[-_END.size :])
    if data[-_END.size - _ZIP64_BYTES :][:4] == _ZIP64 or count > MOST_MEMBERS or size > MOST_DIRECTORY:
        return "it has more members than an adapter"
    if (disk, start, here, comment) != (0, 0, count, 0) or place + size + _END.size != len(data):
        return "it is damaged, or something was put before it"
    return ""


def _members_fault(members: list[zipfile.ZipInfo], size: int) -> str:
    names = [member.orig_filename for member in members]
    if fault := next(filter(None, map(_member_fault, members)), ""):
        return fault
    if twice := next((name for name in names if names.count(name) > 1), ""):
        return f"it holds {shown(twice)} twice"
    if sum(member.file_size for member in members) > size:
        return "its members are larger than the file"
    return ""


def _member_fault(member: zipfile.ZipInfo) -> str:
    """Why a member is not unpacked, or ""."""
    name = member.orig_filename
    kind = stat.S_IFMT(member.external_attr >> 16)
    if _leads_out(name):
        return f"its member {shown(name)} names a place outside of it"
    if kind == stat.S_IFLNK:
        return f"its member {shown(name)} is a link"
    if name.endswith("/") or kind not in (0, stat.S_IFREG):
        return f"its member {shown(name)} is not a file"
    if member.flag_bits & _ENCRYPTED:
        return f"its member {shown(name)} is encrypted"
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        return f"its member {shown(name)} is compressed"
    return ""


def _leads_out(name: str) -> bool:
    parts = name.split("/")
    return (
        not name
        or "\\" in name
        or "\0" in name
        or ".." in parts
        or name.startswith("/")
        or bool(PureWindowsPath(name).drive)
    )
