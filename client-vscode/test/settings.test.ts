import assert from "node:assert/strict";
import { test } from "node:test";
import { type Configuration, serverSettings } from "../src/settings";
import * as settings from "../src/vscodeSettings";
import { stub } from "./stub";

const LANGUAGES = ["python", "javascript", "plaintext"];

/** A configuration whose values are the person's own. */
function personal(values: Record<string, unknown>, perLanguage: Record<string, unknown> = {}): Configuration {
  return {
    inspect: (name) => ({
      globalValue: values[name],
      languageIds: name === "enabled" ? Object.keys(perLanguage) : [],
    }),
    get: (name, language) => (language === undefined ? undefined : perLanguage[language]) ?? values[name],
  };
}

test("what the person did not set is left to the server", () => {
  assert.deepEqual(serverSettings(personal({}), true, LANGUAGES), { workspaceTrusted: true });
});

test("what is set goes as it is, in groups where the server has them", () => {
  const values = { multiline: "never", "engine.threads": 2, "engine.kernel": "int8", recordTyping: true };
  assert.deepEqual(serverSettings(personal(values), false, LANGUAGES), {
    workspaceTrusted: false,
    multiline: "never",
    recordTyping: true,
    engine: { threads: 2, kernel: "int8" },
  });
});

test("wrong types go through: the server says so", () => {
  const values = { enabled: "yes", languages: 5, maxTokens: [], privateGlobs: { a: 1 }, "engine.threads": null };
  const sent = serverSettings(personal(values, { python: false }), true, LANGUAGES);
  assert.deepEqual(sent, { workspaceTrusted: true, ...without(values, "engine.threads"), engine: { threads: null } });
});

function without(values: Record<string, unknown>, name: string): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([key]) => key !== name));
}

test("a language that is switched off", () => {
  const sent = serverSettings(personal({}, { python: false, javascript: true }), true, LANGUAGES);
  assert.deepEqual(sent["languages"], { python: false, javascript: true });
  assert.equal(sent["enabled"], undefined);
});

test("off in general, on for one language", () => {
  const sent = serverSettings(personal({ enabled: false }, { python: true }), true, LANGUAGES);
  assert.equal(sent["enabled"], true);
  assert.deepEqual(sent["languages"], { python: true, javascript: false, plaintext: false });
});

test("off in general, and off for one language", () => {
  const sent = serverSettings(personal({ enabled: false }, { python: false }), true, LANGUAGES);
  assert.deepEqual(sent, { workspaceTrusted: true, enabled: false });
});

test("the setting `languages` counts more than a language's own", () => {
  const sent = serverSettings(personal({ languages: { python: true } }, { python: false }), true, LANGUAGES);
  assert.deepEqual(sent["languages"], { python: true });
});

test("a workspace adds to what is private and takes nothing from it", () => {
  const configuration: Configuration = {
    inspect: (name) => (name === "privateGlobs" ? { globalValue: ["a"], workspaceValue: ["b", "a"] } : {}),
    get: () => ["b", "a"],
  };
  assert.deepEqual(serverSettings(configuration, true, LANGUAGES)["privateGlobs"], ["a", "b"]);
});

test("no workspace may name the server, and an untrusted one no interpreter either", () => {
  const theirs = { "habitab.serverPath": "/evil", "habitab.interpreter": "/their/python" };
  Object.assign(stub.workspaceSettings, theirs);
  assert.equal(settings.personal("serverPath"), "");
  assert.equal(settings.interpreter(), "/their/python");
  Object.assign(stub.settings, { "habitab.serverPath": " /mine ", "habitab.interpreter": 7 });
  (require("vscode") as { workspace: { isTrusted: boolean } }).workspace.isTrusted = false;
  assert.equal(settings.personal("serverPath"), "/mine");
  assert.equal(settings.interpreter(), "");
});

test("a language is switched off and on again", async () => {
  assert.equal(settings.isOnFor("python"), true);
  await settings.switchLanguage("python", false);
  assert.equal(settings.isOnFor("python"), false);
  assert.equal(settings.isOnFor("javascript"), true);
  await settings.switchLanguage("python", true);
  assert.equal(settings.isOnFor("python"), true);
});

test("a language that the setting `languages` names is switched too", async () => {
  stub.settings["habitab.languages"] = { python: false, javascript: false };
  await settings.switchLanguage("python", true);
  assert.equal(settings.isOnFor("python"), true);
  assert.deepEqual(stub.settings["habitab.languages"], { javascript: false });
});
