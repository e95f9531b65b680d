// Installs a tiny wheel into a real virtual environment, without a network.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { type Installation, install } from "../src/install";
import { type Machine, inVenv, pythons } from "../src/paths";
import { run } from "../src/process";
import { candidates, find } from "../src/server";

const folder = mkdtempSync(join(tmpdir(), "habitab-install-"));
after(() => rmSync(folder, { recursive: true }));

const machine: Machine = { platform: process.platform, env: process.env, home: folder };
const venv = join(folder, "venv");
const wheel = join(folder, "habitab-0.1.0-py3-none-any.whl");
const lines: string[] = [];

const MAKE_WHEEL = `
import sys, zipfile
info = "habitab-0.1.0.dist-info/"
files = {
    "habitab_server/__init__.py": "def main():\\n    print('habitab, version 0.1.0')\\n",
    info + "METADATA": "Metadata-Version: 2.1\\nName: habitab\\nVersion: 0.1.0\\n",
    info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    info + "entry_points.txt": "[console_scripts]\\nhabitab = habitab_server:main\\n",
    info + "RECORD": "",
}
with zipfile.ZipFile(sys.argv[1], "w") as archive:
    for name, text in files.items():
        archive.writestr(name, text)
`;

function how(signal = new AbortController().signal): Installation {
  const log = (line: string): void => void lines.push(line);
  return { machine, exists: existsSync, venv, cwd: folder, named: [], log, signal, step: () => {} };
}

test("a wheel is installed, and the server is then found in our own folder", async () => {
  const limits = { cwd: folder, ms: 60_000 };
  for (const program of pythons(machine).filter(existsSync)) {
    await run({ program, args: ["-c", MAKE_WHEEL, wheel] }, limits);
  }
  assert.equal(await install(wheel, how()), "", lines.join("\n"));
  const wishes = { serverPath: "", interpreter: "", active: "", venv };
  const places = candidates({ ...machine, env: {} }, wishes);
  const found = await find(places, existsSync, (command) => run(command, limits), () => {});
  assert.deepEqual(found, { command: { program: inVenv(machine, venv, "habitab"), args: [] }, version: "0.1.0" });
});

test("what cannot be installed: a sentence, and command, exit code and last lines in the log", async () => {
  assert.equal(await install(join(folder, "none.whl"), how()), "The installation failed; the log says why.");
  const report = lines.at(-1)!;
  assert.match(report, /-m pip install/);
  assert.match(report, /exit code [1-9]/);
  assert.match(report, /none\.whl/);
});

test("a cancelled installation says so", async () => {
  const controller = new AbortController();
  const running = install(wheel, how(controller.signal));
  setTimeout(() => controller.abort(), 500);
  assert.equal(await running, "The installation was cancelled.");
});

test("without a Python that is new enough nothing is tried", async () => {
  const fault = await install(wheel, { ...how(), machine: { ...machine, env: {} }, exists: () => false });
  assert.match(fault, /No Python 3\.11 or newer was found/);
});
