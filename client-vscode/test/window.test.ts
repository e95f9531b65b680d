// The whole extension in a window of the stub, with the server of the tests.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, beforeEach, test } from "node:test";
import * as vscode from "vscode";
import { activate, deactivate } from "../src/extension";
import manifest from "../package.json";
import { stub, until } from "./stub";

const folder = mkdtempSync(join(tmpdir(), "habitab-client-"));
const logFile = join(folder, "server.log");
process.env["HABITAB_TEST_LOG"] = logFile;
// Nothing that is installed on this machine is found.
process.env["PATH"] = folder;
process.env["HOME"] = folder;

// The server starts with `#!/usr/bin/env node`, which needs a PATH.
const launcher = join(folder, "launch");
writeFileSync(launcher, `#!/bin/sh\nexec "${process.execPath}" "${resolve("test/server.mjs")}" "$@"\n`, { mode: 0o755 });

let context: vscode.ExtensionContext;
let state: Map<string, unknown>;

beforeEach(async () => {
  await deactivate();
  for (const each of context?.subscriptions ?? []) {
    each.dispose();
  }
  writeFileSync(logFile, "");
  state = new Map([["habitab.introduced", true]]);
  const globalState = { get: (key: string) => state.get(key), update: async (key: string, value: unknown) => state.set(key, value) };
  const globalStorageUri = vscode.Uri.file(join(folder, "storage"));
  context = { subscriptions: [], globalState, globalStorageUri } as unknown as vscode.ExtensionContext;
  for (const list of [stub.messages, stub.answers, stub.executed, stub.picks, stub.asked, stub.lines, stub.statusItems]) {
    list.length = 0;
  }
  for (const name of Object.keys(stub.settings)) {
    delete stub.settings[name];
  }
  process.env["HABITAB_TEST_MODE"] = "good";
});

after(async () => {
  await deactivate();
  rmSync(folder, { recursive: true });
});

function received(): { method: string; params: Record<string, never> }[] {
  return readFileSync(logFile, "utf8").trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

const got = (method: string): boolean => received().some((entry) => entry.method === method);
const bar = () => stub.statusItems[0]!;

async function start(): Promise<void> {
  stub.settings["habitab.serverPath"] = launcher;
  activate(context);
  await until(() => bar().text.includes("sparkle"));
}

test("it activates although the server's commands are registered too, and a window without a folder works", async () => {
  await start();
  const ids = [...stub.commands.keys()];
  assert.ok(ids.includes("habitab.accept") && ids.includes("habitab.client.menu"));
  assert.deepEqual(stub.messages, []);
});

test("every command of package.json is registered, and no other", async () => {
  await start();
  const own = [...stub.commands.keys()].filter((id) => id.startsWith("habitab.client."));
  assert.deepEqual(own.sort(), manifest.contributes.commands.map(({ command }) => command).sort());
});

test("the settings go along at the start, changes and trust follow", async () => {
  stub.settings["habitab.multiline"] = "never";
  (vscode.workspace as { isTrusted: boolean }).isTrusted = false;
  await start();
  const options = received().find(({ method }) => method === "initialize")!.params["initializationOptions"];
  assert.deepEqual(options, { workspaceTrusted: false, multiline: "never" });
  stub.set("habitab.maxTokens", 9);
  stub.set("editor.fontSize", 9);
  stub.trust();
  const changes = () => received().filter(({ method }) => method === "workspace/didChangeConfiguration");
  await until(() => changes().length === 2);
  assert.deepEqual(changes().at(-1)!.params["settings"], {
    habitab: { workspaceTrusted: true, multiline: "never", maxTokens: 9 },
  });
});

test("a suggestion from the server: shown, then sent away with our key", async () => {
  await start();
  const document = stub.open("/a.py", "def ");
  stub.show(document, 4);
  await until(() => got("textDocument/didOpen"));
  const source = new vscode.CancellationTokenSource();
  const { provider } = stub.providers[0]!;
  const position = new vscode.Position(0, 4);
  const answer = await provider.provideInlineCompletionItems(document, position, { triggerKind: 1, selectedCompletionInfo: undefined }, source.token);
  assert.equal((answer as vscode.InlineCompletionItem[])[0]!.insertText, "alpha(first, second): return first + second");
  await until(() => got("textDocument/didShowCompletion"));
  await vscode.commands.executeCommand("habitab.client.reject");
  await until(() => got("habitab/didDismissCompletion"));
  assert.ok(stub.executed.includes("editor.action.inlineSuggest.hide"));
});

test("the menu, pausing, and the statistics", async () => {
  await start();
  await vscode.commands.executeCommand("habitab.client.menu");
  assert.deepEqual(stub.picks[0]!.slice(0, 2).map(({ label }) => label), ["$(debug-pause) Pause", "$(clock) Snooze"]);
  await vscode.commands.executeCommand("habitab.client.pause");
  await until(() => received().some(({ params }) => params?.["command"] === "habitab.pause"));
  await vscode.commands.executeCommand("habitab.client.statistics");
  assert.ok(stub.picks[1]!.some(({ label, description }) => label === "Acceptance rate" && description === "50.0 %"));
});

test("a server that is started again stays paused", async () => {
  await start();
  await vscode.commands.executeCommand("habitab.client.pause");
  writeFileSync(logFile, "");
  await vscode.commands.executeCommand("habitab.client.restart");
  await until(() => received().some(({ params }) => params?.["command"] === "habitab.pause"));
});

for (const [mode, why] of [
  ["old", /version 0\.0\.9/],
  ["foreign", /is not habitab/],
] as const) {
  test(`a server that is ${mode}: one message with three ways out`, async () => {
    process.env["HABITAB_TEST_MODE"] = mode;
    stub.settings["habitab.serverPath"] = launcher;
    activate(context);
    await until(() => stub.messages.length > 0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(stub.messages.length, 1);
    assert.match(stub.messages[0]!.message, why);
    assert.deepEqual(stub.messages[0]!.buttons, ["Install", "Choose path", "Show log"]);
    assert.ok(stub.lines.some((line) => line.includes(`${launcher} --version`)));
    assert.ok(bar().text.includes("warning"));
  });
}

test("no server at all: one message; a path that is set then starts it", async () => {
  stub.answers.push("Show log");
  activate(context);
  await until(() => stub.messages.length > 0);
  assert.match(stub.messages[0]!.message, /no habitab server is installed/);
  await until(() => stub.executed.includes("log.show"));
  stub.set("habitab.serverPath", launcher);
  await until(() => bar().text.includes("sparkle"));
  assert.equal(stub.messages.length, 1);
});

test("what to install is asked for where no path or address is set, and a bare name is refused", async () => {
  await start();
  stub.settings["habitab.installSource"] = "habitab";
  await vscode.commands.executeCommand("habitab.client.install");
  const { value, validateInput } = stub.asked[0]!;
  assert.equal(value, "habitab");
  assert.match(String(validateInput!("habitab")), /names in a registry are not used/);
  assert.equal(validateInput!("/tmp/habitab.whl"), undefined);
});

test("an installation that cannot be done: one message with the log behind it", async () => {
  await start();
  stub.settings["habitab.installSource"] = "/no/habitab.whl";
  stub.answers.push("Show log");
  await vscode.commands.executeCommand("habitab.client.install");
  assert.deepEqual(stub.messages.map(({ buttons }) => buttons), [["Show log"]]);
  assert.match(stub.messages[0]!.message, /No Python 3\.11 or newer was found/);
  await until(() => stub.executed.includes("log.show"));
});

test("settings of wrong types do not stop it", async () => {
  Object.assign(stub.settings, {
    "habitab.interpreter": 5,
    "habitab.languages": "python",
    "habitab.engine.threads": [],
    "[python]": { "habitab.enabled": "no" },
  });
  await start();
  await vscode.commands.executeCommand("habitab.client.menu");
  const options = received().find(({ method }) => method === "initialize")!.params["initializationOptions"];
  assert.deepEqual(options, { workspaceTrusted: true, languages: "python", engine: { threads: [] } });
});

test("the first time, and only then, a person is told that something is recorded", async () => {
  state.clear();
  stub.answers.push("What is recorded");
  await start();
  await until(() => stub.executed.includes("workbench.action.openWalkthrough"));
  assert.match(stub.messages[0]!.message, /records on this machine/);
  await vscode.commands.executeCommand("habitab.client.restart");
  await until(() => bar().text.includes("sparkle"));
  assert.equal(stub.messages.length, 1);
});

test("recording of typing is switched on by the person alone", async () => {
  await start();
  await vscode.commands.executeCommand("habitab.client.toggleRecordTyping");
  assert.equal(stub.settings["habitab.recordTyping"], true);
  await vscode.commands.executeCommand("habitab.client.toggleRecordTyping");
  assert.equal(stub.settings["habitab.recordTyping"], false);
});
