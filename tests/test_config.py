"""A settings value that cannot be used gives one message and the default; privacy fails closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.config import EngineSettings, Settings

ROOT = Path(__file__).parent.parent
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from((*sorted(Settings.names()), "privacyFault", "x"))


def test_every_option_is_read_in_camel_case() -> None:
    settings, messages = Settings.from_json(
        {
            "engine": {"base": "/b", "kernel": "float32", "threads": 2, "idleMinutes": 5, "signalDays": 30},
            "enabled": False,
            "languages": {"markdown": False},
            "debounceMinMs": 10,
            "debounceMaxMs": 20,
            "completionFallback": True,
            "maxTokens": 7,
            "budgetMs": 99,
            "multiline": "never",
            "privateGlobs": ["*.sql"],
            "respectGitignore": False,
            "showThreshold": 0.5,
            "recordSuggestions": False,
            "recordTyping": True,
            "workspaceTrusted": False,
        }
    )
    assert messages == []
    assert settings == Settings(
        engine=EngineSettings("/b", "float32", 2, 5.0, signal_days=30),
        enabled=False,
        languages={"markdown": False},
        debounce_min_ms=10.0,
        debounce_max_ms=20.0,
        completion_fallback=True,
        max_tokens=7,
        budget_ms=99.0,
        multiline="never",
        private_globs=("*.sql",),
        respect_gitignore=False,
        show_threshold=0.5,
        record_suggestions=False,
        record_typing=True,
        workspace_trusted=False,
    )


# An editor in Lua writes an empty object as an empty list.
@pytest.mark.parametrize("nothing", [None, {}, [], {"engine": []}, {"engine": None, "languages": []}])
def test_nothing_said_means_the_defaults(nothing: object) -> None:
    assert Settings.from_json(nothing) == (Settings(), [])


@pytest.mark.parametrize(
    "values",
    [
        {"enabled": "yes"},
        {"enabled": 1},
        {"engine": {"kernel": "cuda"}},
        {"engine": {"threads": 1.5}},
        {"engine": {"threads": True}},
        {"engine": {"idleMinutes": float("nan")}},
        {"engine": 3},
        {"budgetMs": 1e400},
        {"maxTokens": 10**30},
        {"showThreshold": -0.1},
        {"debounceMinMs": 500, "debounceMaxMs": 100},
        {"languages": {"python": "off"}},
        {"multiline": None},
        {"recordTyping": 1},
        {"workspaceTrusted": "yes"},
        {"colour": "red"},
        {"engine": {"gpu": True}},
        {"privacy_fault": "x"},
    ],
)
def test_a_bad_value_gives_one_message_and_the_default(values: dict[str, Any]) -> None:
    settings, messages = Settings.from_json(values)
    assert settings == Settings()
    assert len(messages) == 1 and messages[0].endswith(".")
    assert next(iter(values)) in messages[0]


def test_a_bad_value_leaves_the_others_alone() -> None:
    settings, messages = Settings.from_json({"enabled": "no", "maxTokens": 5, "engine": {"threads": "x"}})
    assert (settings.max_tokens, settings.enabled, len(messages)) == (5, True, 2)


@pytest.mark.parametrize(
    "values",
    ["text", 3, [1]]
    + [{"privateGlobs": bad} for bad in ("*.sql", [1], [""], [None], {"a": 1}, ["!x"], ["# x"], None)]
    + [{"respectGitignore": "no"}],
)
def test_a_broken_privacy_setting_fails_closed(values: object) -> None:
    settings, messages = Settings.from_json(values)
    assert len(messages) == 1
    assert settings.privacy_fault == messages[0]
    assert "nothing is suggested" in messages[0]


@given(JSON | st.dictionaries(NAMES, JSON))
def test_no_json_makes_it_raise(values: object) -> None:
    settings, messages = Settings.from_json(values)
    assert isinstance(settings, Settings)
    assert all(isinstance(message, str) and message for message in messages)


def test_the_defaults_that_vs_code_shows_are_the_servers() -> None:
    package = json.loads((ROOT / "client-vscode" / "package.json").read_text(encoding="utf-8"))
    shown: dict[str, Any] = {"engine": {}}
    options = [item for part in package["contributes"]["configuration"] for item in part["properties"].items()]
    for name, option in options:
        group, _, key = name.removeprefix("habitab.").rpartition(".")
        (shown[group] if group else shown)[key] = option["default"]
    of_server = {name: value for name, value in shown.items() if name in Settings.names()}
    assert set(shown) - set(of_server) == {"serverPath", "interpreter", "installSource"}
    assert Settings.from_json(of_server) == (Settings(), [])
