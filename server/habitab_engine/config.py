"""Every setting a person may change; camelCase comes in, a bad value gives one message and the default."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar

from habitab_engine.types import SOURCES

KERNELS = ("auto", "int8", "bf16", "float32")
MULTILINE = ("auto", "always", "never")

_Check = Callable[[object], Any]
_T = TypeVar("_T")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("a text")


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _as_number(value: object) -> float:
    """NaN for what is not a number, so that every comparison with it is false."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return value


def _number(low: float, high: float) -> _Check:
    def check(value: object) -> float:
        if low <= (number := _as_number(value)) <= high:
            return float(number)
        raise ValueError(f"a number from {low:g} to {high:g}")

    return check


def _whole(low: int, high: int) -> _Check:
    def check(value: object) -> int:
        if low <= (number := _as_number(value)) <= high and number == int(number):
            return int(number)
        raise ValueError(f"a whole number from {low} to {high}")

    return check


def _one_of(names: tuple[str, ...]) -> _Check:
    def check(value: object) -> str:
        if isinstance(value, str) and value in names:
            return value
        raise ValueError("one of " + ", ".join(names))

    return check


def _switches(value: object) -> Mapping[str, bool]:
    value = _as_object(value)
    if isinstance(value, dict) and all(isinstance(on, bool) for on in value.values()):
        return {str(name): on for name, on in value.items()}
    raise ValueError("an object from language ids to true or false")


def _globs(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(glob, str) and _excludes(glob) for glob in value):
        return tuple(value)
    raise ValueError("a list of patterns as in .gitignore, none empty, a comment or an exception")


def _excludes(glob: str) -> bool:
    from pathspec import GitIgnoreSpec

    try:
        return any(pattern.include for pattern in GitIgnoreSpec.from_lines([glob]).patterns)
    except (ValueError, re.error):
        return False


def _option(default: _T, check: _Check) -> _T:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the one engine process of a person is started with.

    `base` is a folder with another base model ("" = the embedded one); `kernel` one of `KERNELS`; `threads`
    the number of CPU threads (0 = automatic); `idle_minutes` how long an unused engine stays. Signals are kept for
    `signal_days`, and less long where their file would exceed `signal_megabytes`.
    """

    base: str = _option("", _text)
    kernel: str = _option("auto", _one_of(KERNELS))
    threads: int = _option(0, _whole(0, 256))
    idle_minutes: float = _option(30.0, _number(0.1, 10_080))
    signal_days: int = _option(180, _whole(1, 36_500))
    signal_megabytes: int = _option(500, _whole(1, 1_000_000))


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an editor can set; in JSON the same names in camelCase.

    `privacy_fault` is no option: it holds the message of a broken privacy setting. While it is not empty
    nothing is served, because what the person wanted kept private is not known.
    """

    engine: EngineSettings = EngineSettings()
    enabled: bool = _option(True, _switch)
    # An off switch per language id; a language that is not named is on.
    languages: Mapping[str, bool] = field(default_factory=dict, metadata={"check": _switches})
    # Bounds in milliseconds of the pause before an automatic suggestion once several were rejected in a row.
    debounce_min_ms: float = _option(50.0, _number(0, 60_000))
    debounce_max_ms: float = _option(3000.0, _number(0, 60_000))
    # Serve `textDocument/completion` to clients without inline completion.
    completion_fallback: bool = _option(False, _switch)
    # Most tokens of one suggestion; 0 = chosen by the engine.
    max_tokens: int = _option(0, _whole(0, 192))
    # Most milliseconds of decoding for one suggestion.
    budget_ms: float = _option(2000.0, _number(10, 60_000))
    multiline: str = _option("auto", _one_of(MULTILINE))
    # File patterns that are private besides the built-in ones.
    private_globs: tuple[str, ...] = _option((), _globs)
    respect_gitignore: bool = _option(True, _switch)
    # Where the model may look besides the document itself (`types.SOURCES`), and whether the workspace's text
    # mixes with what it says.
    context_open: bool = _option(True, _switch)
    context_edits: bool = _option(True, _switch)
    context_imports: bool = _option(True, _switch)
    context_similar: bool = _option(True, _switch)
    memory: bool = _option(True, _switch)
    # A suggestion is shown automatically if its first line is right with at least this probability. What is
    # shown in vain costs a fifth of a character for each one that is saved, so 1 in 6 pays; a little above it, fewer
    # ghosts save more on the README's histories.
    show_threshold: float = _option(0.2, _number(0, 1))
    # Keep what becomes of each suggestion, and what is typed without one (only where the workspace is trusted).
    record_suggestions: bool = _option(True, _switch)
    record_typing: bool = _option(False, _switch)
    # What the editor says of the workspace; one that knows no such thing trusts it.
    workspace_trusted: bool = _option(True, _switch)
    privacy_fault: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of snippets that are on."""
        return tuple(source for source in SOURCES if getattr(self, f"context_{source}"))

    @classmethod
    def names(cls) -> frozenset[str]:
        """The names of the options as an editor writes them."""
        return frozenset({"engine", *_options(cls)})

    @classmethod
    def from_json(cls, values: object) -> tuple[Settings, list[str]]:
        """Return the settings and one message for each value that cannot be used; never raises."""
        messages: list[str] = []
        values = _as_object(values)
        if not isinstance(values, dict):
            messages.append("The settings must be an object; nothing is suggested until they are.")
            return cls(privacy_fault=messages[0]), messages
        engine = _read(EngineSettings, values.get("engine"), "engine.", messages)
        rest = {name: value for name, value in values.items() if name != "engine"}
        settings = replace(_read(cls, rest, "", messages), engine=engine)
        return _debounce_in_order(settings, messages), messages


_PRIVACY = ("privateGlobs", "respectGitignore")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _options(kind: type[Any]) -> dict[str, Field[Any]]:
    return {_camel(option.name): option for option in fields(kind) if "check" in option.metadata}


def _as_object(values: object) -> object:
    """`{}` for null and for `[]`, which is how an editor in Lua writes an empty object."""
    return {} if values is None or values == [] else values


def _read(kind: type[_T], values: object, prefix: str, messages: list[str]) -> _T:
    """Read one dataclass; what cannot be used adds to `messages` and stays at its default."""
    values = _as_object(values)
    if not isinstance(values, dict):
        messages.append(f"The setting {prefix.rstrip('.')} must be an object; the defaults are used.")
        return kind()
    options = _options(kind)
    good: dict[str, Any] = {}
    for key, value in values.items():
        if key not in options:
            messages.append(f"There is no setting {prefix}{key}; it is ignored.")
            continue
        try:
            good[options[key].name] = options[key].metadata["check"](value)
        except ValueError as exc:
            messages.append(f"The setting {prefix}{key} must be {exc}; {_instead(key, options[key].default)}.")
            if key in _PRIVACY:
                good["privacy_fault"] = messages[-1]
    return kind(**good)


def _instead(key: str, default: object) -> str:
    if key in _PRIVACY:
        return "nothing is suggested until it is"
    if key == "languages":
        return "every language stays on"
    return f"the default {default!r} is used" if default != "" else "the default is used"


def _debounce_in_order(settings: Settings, messages: list[str]) -> Settings:
    if settings.debounce_min_ms <= settings.debounce_max_ms:
        return settings
    messages.append("The setting debounceMinMs must not exceed debounceMaxMs; the defaults are used.")
    return replace(settings, debounce_min_ms=Settings().debounce_min_ms, debounce_max_ms=Settings().debounce_max_ms)


def thread_count(settings: EngineSettings) -> int:
    """CPU threads for the model: as set, else the physical cores this process may use, at most 4.

    Decoding reads memory: more threads than that only get in each other's way.
    """
    import psutil  # type: ignore[import-untyped]

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return settings.threads or max(1, min(psutil.cpu_count(logical=False) or allowed, allowed, 4))
