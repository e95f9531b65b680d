import assert from "node:assert/strict";
import { test } from "node:test";
import { type Machine, absolute, inVenv, installArgument, pythons, scriptPlaces } from "../src/paths";

const linux: Machine = { platform: "linux", home: "/home/ada", env: { PATH: "/usr/bin:relative:/opt/bin" } };
const mac: Machine = { platform: "darwin", home: "/Users/ada", env: { PATH: "/usr/bin" } };
const windows: Machine = {
  platform: "win32",
  home: "C:\\Users\\ada",
  env: { Path: "C:\\Python312\\Scripts;.;D:\\tools", PIPX_BIN_DIR: "E:\\pipx" },
};

test("PATH comes first, then the folders of uv and pipx; nothing relative", () => {
  assert.deepEqual(scriptPlaces(linux, "habitab"), [
    "/usr/bin/habitab",
    "/opt/bin/habitab",
    "/home/ada/.local/bin/habitab",
  ]);
});

test("Windows: .exe files, Path in any case, the folder that pipx was told", () => {
  assert.deepEqual(scriptPlaces(windows, "habitab"), [
    "C:\\Python312\\Scripts\\habitab.exe",
    "D:\\tools\\habitab.exe",
    "E:\\pipx\\habitab.exe",
    "C:\\Users\\ada\\.local\\bin\\habitab.exe",
  ]);
});

test("macOS: Homebrew's folders too, for a VS Code started from the desktop", () => {
  const places = scriptPlaces({ ...mac, env: {} }, "habitab");
  assert.deepEqual(places, ["/Users/ada/.local/bin/habitab", "/opt/homebrew/bin/habitab", "/usr/local/bin/habitab"]);
});

test("XDG_DATA_HOME and UV_TOOL_BIN_DIR are followed", () => {
  const env = { XDG_DATA_HOME: "/data/share", UV_TOOL_BIN_DIR: "/uv" };
  assert.deepEqual(scriptPlaces({ ...linux, env }, "habitab"), [
    "/uv/habitab",
    "/data/bin/habitab",
    "/home/ada/.local/bin/habitab",
  ]);
});

test("a program in a virtual environment", () => {
  assert.equal(inVenv(linux, "/s/venv", "habitab"), "/s/venv/bin/habitab");
  assert.equal(inVenv(windows, "C:\\s\\venv", "habitab"), "C:\\s\\venv\\Scripts\\habitab.exe");
});

test("a setting may begin with the home folder, and must be absolute", () => {
  assert.equal(absolute(linux, " ~/bin/habitab "), "/home/ada/bin/habitab");
  assert.equal(absolute(windows, "~\\bin\\habitab.exe"), "C:\\Users\\ada\\bin\\habitab.exe");
  assert.equal(absolute(windows, "\\\\server\\share\\habitab.exe"), "\\\\server\\share\\habitab.exe");
  assert.equal(absolute(linux, "bin/habitab"), undefined);
  assert.equal(absolute(linux, "~eve/habitab"), undefined);
  assert.equal(absolute(linux, ""), undefined);
});

test("a home folder is taken as it is written", () => {
  assert.equal(absolute({ ...linux, home: "/home/$&" }, "~/x"), "/home/$&/x");
});

test("what is installed is a path or an address, never a bare name", () => {
  assert.equal(installArgument(linux, "~/habitab-0.1.0-py3-none-any.whl"), "/home/ada/habitab-0.1.0-py3-none-any.whl");
  assert.equal(installArgument(windows, "C:\\src\\habitab"), "C:\\src\\habitab");
  assert.equal(installArgument(linux, "https://example.org/h.whl"), "https://example.org/h.whl");
  assert.equal(installArgument(linux, "git+ssh://git@example.org/h.git"), "git+ssh://git@example.org/h.git");
  for (const refused of ["habitab", "habitab==0.1.0", "http://example.org/h.whl", "--index-url=https://x", "./h", ""]) {
    assert.equal(installArgument(linux, refused), undefined, refused);
  }
});

test("Python is looked for under its usual names", () => {
  assert.ok(pythons(linux).includes("/usr/bin/python3"));
  assert.ok(pythons(windows).includes("C:\\Python312\\Scripts\\python.exe"));
});
