"""`habitab editor` prints what connects an editor; Helix's part goes as far as the server."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from habitab_server import cli
from hands import printed
from test_lsp import Client, span, where

EDITORS = ("nvim", "emacs", "helix")


@pytest.mark.parametrize("editor", EDITORS)
def test_the_configuration_is_printed_as_it_stands_in_the_package(editor: str) -> None:
    folder = Path(cli.__file__).parent / "editors"
    assert printed(editor) == (folder / cli.EDITORS[editor]).read_text(encoding="utf-8")


@pytest.mark.parametrize("editor", EDITORS)
def test_the_configuration_says_how_it_is_installed_and_is_plain_text(editor: str) -> None:
    config = printed(editor)
    assert f"habitab editor {editor} >" in config
    assert config.isascii()
    assert max(map(len, config.splitlines())) <= 120


def test_with_json_the_last_line_is_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--json", "editor", "nvim"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found == {"editor": "nvim", "config": printed("nvim")}


def test_an_unknown_editor_is_a_usage_error_that_names_the_known(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["editor", "ed"]) == 2
    said = capfd.readouterr().err
    assert all(editor in said for editor in EDITORS)


def helix() -> dict[str, Any]:
    return tomllib.loads(printed("helix"))


def test_helix_starts_habitab_serve_and_asks_it_last() -> None:
    server = helix()["language-server"]["habitab"]
    assert [server["command"], *server["args"]] == ["habitab", "serve"]
    languages = helix()["language"]
    assert len({language["name"] for language in languages}) == len(languages) > 5
    assert all(language["language-servers"][-1] == "habitab" for language in languages)


async def test_helix_gets_suggestions_in_its_completion_menu() -> None:
    client = Client()
    found = await client.initialize(helix()["language-server"]["habitab"]["config"], textDocument={"completion": {}})
    assert "completionProvider" in found["capabilities"] and not client.warnings()
    client.open()
    place = where(2, 11)
    (item,) = (await client.result("textDocument/completion", place))["items"]
    assert item["textEdit"] == {"range": span(2, 11, 11), "newText": "sum(values)"}
    await client.end()
