"""`habitab adapters …`: the versions of a person's adapter, which of them serves, and how one is carried away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from habitab_adapters.registry import Registry, Version
    from habitab_server.cli import Session

NONE = "none"
KINDS = ("habitab", "peft", "gguf")
_HEAD = ("", "version", "created", "method", "parent", "rank", "MB", "")


@click.group("adapters")
def adapters_group() -> None:
    """The versions of your adapter."""


@adapters_group.command("list")
@click.pass_obj
def adapters_list(session: Session) -> None:
    """Every version, the newest last; * marks the one that serves."""
    registry = _registry(session)
    versions, active = registry.versions(), registry.active
    result = {"active": active, "versions": [version.as_json() for version in versions]}
    session.finish(result, _table(versions, active) if versions else "There is no adapter yet.")


@adapters_group.command("show")
@click.argument("version", metavar="V")
@click.pass_obj
def adapters_show(session: Session, version: str) -> None:
    """What version V is, and what was measured of it."""
    registry = _registry(session)
    found = registry.info(version)
    result = found.as_json() | {"active": registry.active == version}
    facts = _flat(result)
    width = max(map(len, facts))
    session.finish(result, "\n".join(f"{name:<{width}}  {_plain(value)}" for name, value in facts.items()))


@adapters_group.command("activate")
@click.argument("version", metavar="V")
@click.pass_obj
def adapters_activate(session: Session, version: str) -> None:
    """Let version V serve, once it is verified; `none` lets the bare base serve."""
    chosen = None if version == NONE else version
    _registry(session).activate(chosen)
    session.finish({"active": chosen}, _serves(chosen))


@adapters_group.command("rollback")
@click.pass_obj
def adapters_rollback(session: Session) -> None:
    """Go back to what served before the last activation: another version, or the bare base."""
    active = _registry(session).rollback()
    session.finish({"active": active}, _serves(active))


@adapters_group.command("remove")
@click.argument("version", metavar="V")
@click.pass_obj
def adapters_remove(session: Session, version: str) -> None:
    """Delete version V for good; not the one that serves."""
    _registry(session).remove(version)
    session.finish({"removed": version}, f"{version} is deleted.")


@adapters_group.command("export")
@click.argument("words", metavar="[V] FILE", nargs=-1, required=True)
@click.option("--format", "kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True)
@click.pass_obj
def adapters_export(session: Session, words: Sequence[str], kind: str) -> None:
    """Write version V, or the one that serves, to FILE.

    habitab is one file for `habitab adapters import`, peft a folder for PEFT, gguf one file for llama.cpp. None of them
    holds your code, a path or what was recorded.
    """
    if len(words) > 2:
        raise click.UsageError("Name a version and a file, or a file alone.")
    from habitab_adapters.archive import export_adapter

    file = Path(words[-1])
    version = export_adapter(_registry(session), words[0] if len(words) == 2 else None, file, kind)
    size = sum(path.stat().st_size for path in (file.iterdir() if file.is_dir() else [file]))
    result = {"version": version, "file": str(file), "format": kind, "bytes": size}
    session.finish(result, f"{file} holds {version} ({size / 1e6:.1f} MB).")


@adapters_group.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--activate", is_flag=True, help="Let it serve at once.")
@click.pass_obj
def adapters_import(session: Session, file: Path, activate: bool) -> None:
    """Keep the adapter in FILE (made by `habitab adapters export`), once all of it is verified.

    It does not serve before it is activated.
    """
    from habitab_adapters.archive import import_adapter

    registry = _registry(session)
    found = import_adapter(registry, file, activate)
    result = {"version": found.version, "known": found.known, "active": registry.active == found.version}
    said = f"{found.version} is that adapter, it is there already." if found.known else f"{found.version} is there now."
    how = "It serves." if result["active"] else f"`habitab adapters activate {found.version}` lets it serve."
    session.finish(result, f"{said} {how}")


def _registry(session: Session) -> Registry:
    from habitab_adapters.registry import Registry

    return Registry(session.home, session.base)


def _serves(version: str | None) -> str:
    return f"{version} serves now." if version else "The bare base serves now."


def _table(versions: Sequence[Version], active: str | None) -> str:
    rows = [_HEAD, *(_row(version, version.name == active) for version in versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(version: Version, active: bool) -> tuple[str, ...]:
    mark = "*" if active else ""
    if version.damage:
        return mark, version.name, "", "", "", "", "", _plain(f"damaged: {version.damage}")
    facts = version.facts
    size = f"{version.bytes / 1e6:.1f}"
    return mark, version.name, facts["created"], facts["method"], facts["parent"] or "", str(version.rank), size, ""


def _flat(facts: dict[str, Any], above: str = "") -> dict[str, Any]:
    """What stands in objects, under the names of both: `base.id`."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return flat


def _plain(value: object) -> str:
    """A value in words; control characters of a damaged file must not reach the terminal."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return "".join(char if char.isprintable() else "�" for char in text)
