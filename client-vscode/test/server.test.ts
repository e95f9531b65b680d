import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isNewEnough } from "../src/install";
import type { Machine } from "../src/paths";
import { type Outcome, run, spell } from "../src/process";
import { type Candidate, candidates, find, isOlder, versionIn } from "../src/server";

const machine: Machine = { platform: "linux", home: "/home/ada", env: { PATH: "/usr/bin" } };
const nothing = { serverPath: "", interpreter: "", active: "", venv: "/storage/venv" };
const good: Outcome = { code: 0, stdout: "habitab, version 0.1.0\n", stderr: "" };

function programs(found: Candidate[]): string[] {
  return found.map(spell);
}

async function search(places: Candidate[], answers: Record<string, Outcome>) {
  const lines: string[] = [];
  const asked: string[] = [];
  const found = await find(
    places,
    (path) => path in answers,
    async (command) => {
      asked.push(spell(command));
      return answers[command.program]!;
    },
    (line) => lines.push(line),
  );
  return { found, lines, asked };
}

test("the order: PATH and usual folders, interpreter, the Python extension's, our own folder", () => {
  const wishes = { ...nothing, interpreter: "/py/a", active: "/py/b" };
  assert.deepEqual(programs(candidates(machine, wishes)), [
    "/usr/bin/habitab",
    "/home/ada/.local/bin/habitab",
    "/py/a -m habitab_server",
    "/py/b -m habitab_server",
    "/storage/venv/bin/habitab",
  ]);
});

test("a named server is the only one that is tried", () => {
  assert.deepEqual(programs(candidates(machine, { ...nothing, serverPath: "~/h", interpreter: "/py" })), ["/home/ada/h"]);
});

test("the first that works is taken, and no other is asked", async () => {
  const { found, asked } = await search(candidates(machine, nothing), {
    "/home/ada/.local/bin/habitab": good,
    "/storage/venv/bin/habitab": good,
  });
  assert.deepEqual(found, { command: { program: "/home/ada/.local/bin/habitab", args: [] }, version: "0.1.0" });
  assert.deepEqual(asked, ["/home/ada/.local/bin/habitab --version"]);
});

test("one that fails is logged with command, exit code and its last lines; the next is tried", async () => {
  const broken: Outcome = { code: 1, stdout: "", stderr: "Traceback\nno torch" };
  const { found, lines } = await search(candidates(machine, nothing), {
    "/usr/bin/habitab": broken,
    "/storage/venv/bin/habitab": good,
  });
  assert.equal(found.command?.program, "/storage/venv/bin/habitab");
  assert.deepEqual(lines, ["From the PATH: /usr/bin/habitab --version\n  exit code 1\n  Traceback\n  no torch"]);
});

for (const [name, outcome, why] of [
  ["too old", { ...good, stdout: "habitab, version 0.0.9" }, /is version 0\.0\.9; 0\.1\.0 or newer is needed/],
  ["foreign", { ...good, stdout: "habitat 3.1" }, /is not habitab/],
  ["failing", { code: 3, stdout: "", stderr: "" }, /ended with exit code 3/],
  ["no program", { code: undefined, stdout: "", stderr: "EACCES" }, /could not be run/],
] as const) {
  test(`a server that is ${name} is refused, and why is said`, async () => {
    const { found } = await search(candidates(machine, nothing), { "/usr/bin/habitab": outcome });
    assert.match(found.command ? "" : found.why, why);
  });
}

test("a setting that names no file is named in the message", async () => {
  const { found } = await search(candidates(machine, { ...nothing, serverPath: "/no/habitab" }), {});
  assert.equal(found.command ? "" : found.why, "the setting habitab.serverPath names /no/habitab, which is no file");
});

test("an interpreter without habitab is no fault of the person's", async () => {
  const missing: Outcome = { code: 1, stdout: "", stderr: "No module named habitab_server" };
  const { found } = await search(candidates(machine, { ...nothing, active: "/py" }), { "/py": missing });
  assert.equal(found.command ? "" : found.why, "no habitab server is installed where the extension looks");
});

test("versions", () => {
  assert.equal(versionIn("habitab, version 0.1.0\r\n"), "0.1.0");
  assert.equal(versionIn("habitab, version 1.2.3.dev4+g1"), "1.2.3");
  assert.equal(versionIn("habitab, version x"), "");
  assert.ok(isOlder("0.0.9", "0.1.0"));
  assert.ok(isOlder("0.9", "0.10.0"));
  assert.ok(!isOlder("0.1", "0.1.0"));
  assert.ok(!isOlder("1.0.0", "0.9.9"));
});

test("Python's age", () => {
  assert.ok(isNewEnough("3 11\n"));
  assert.ok(isNewEnough("4 0"));
  assert.ok(!isNewEnough("3 9"));
  assert.ok(!isNewEnough(""));
});

const limits = { cwd: tmpdir(), ms: 5_000 };
const node = (script: string) => ({ program: process.execPath, args: ["-e", script] });

test("a command's exit code, its output and the last lines of its standard error are kept", async () => {
  const script = "console.log('out'); for (let i = 0; i < 100; i++) console.error('line', i); process.exitCode = 5";
  const { code, stdout, stderr } = await run(node(script), limits);
  assert.deepEqual([code, stdout.trim()], [5, "out"]);
  assert.deepEqual(stderr.split("\n").slice(-2), ["line 98", "line 99"]);
  assert.equal(stderr.split("\n").length, 12);
});

test("a command that hangs is ended", async () => {
  const { code, stderr } = await run(node("setInterval(() => {}, 1000)"), { ...limits, ms: 200 });
  assert.deepEqual([code, stderr.trim()], [undefined, "It did not end within 0.2 s."]);
});

test("a cancelled command is ended", async () => {
  const controller = new AbortController();
  const running = run(node("setInterval(() => {}, 1000)"), { ...limits, signal: controller.signal });
  controller.abort();
  assert.deepEqual((await running).stderr.trim(), "It was cancelled.");
});

test("a program that is none, or whose name cannot be one, is an outcome and no exception", async () => {
  assert.equal((await run({ program: join(tmpdir(), "none"), args: [] }, limits)).code, undefined);
  assert.equal((await run({ program: "a\0b", args: [] }, limits)).code, undefined);
});
