// Guards: what package.json must and must not say, and that it agrees with the server's sources.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import manifest from "../package.json";
import { OLDEST_SERVER, isOlder } from "../src/server";
import { SERVER_SETTINGS } from "../src/settings";

const read = (path: string): string => readFileSync(path, "utf8");
const ENGINE = "../server/habitab_engine";
const properties = Object.assign({}, ...manifest.contributes.configuration.map((group) => group.properties)) as Record<
  string,
  { default: unknown; scope: string; markdownDescription: string }
>;

test("the version is the Python package's, and works with the oldest server that is accepted", () => {
  assert.equal(/__version__ = "(.+)"/.exec(read(`${ENGINE}/__init__.py`))![1], manifest.version);
  assert.ok(!isOlder(manifest.version, OLDEST_SERVER));
});

test("only stable API: no proposals, and types of the oldest VS Code", () => {
  assert.ok(!("enabledApiProposals" in manifest));
  assert.equal(manifest.engines.vscode, "^1.91.0");
  assert.equal(manifest.devDependencies["@types/vscode"], "1.91.0");
  for (const name of readdirSync("src")) {
    assert.doesNotMatch(read(`src/${name}`), /handleDid|handleEndOfLifetime/, name);
  }
});

test("our commands have other ids than the server's", () => {
  const theirs = [...read("../server/habitab_server/lsp.py").matchAll(/"(habitab\.[\w.]+)": /g)].map(([, id]) => id!);
  assert.ok(theirs.includes("habitab.accept"));
  for (const { command } of manifest.contributes.commands) {
    assert.ok(command.startsWith("habitab.client.") && !theirs.includes(command), command);
  }
});

/** The options in `config.py` by the name an editor uses, with their defaults as they are written. */
function serverOptions(): Map<string, string> {
  const camel = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
  const [engine, rest] = read(`${ENGINE}/config.py`).split("class EngineSettings:")[1]!.split("class Settings:");
  const found = (text: string, group: string): [string, string][] =>
    [...text.matchAll(/^ {4}(\w+): .+ = (?:_option\(((?:\(\))|[^,]+),|field\(default_factory=(dict))/gm)].map(
      ([, name, value, dict]) => [group + camel(name!), value ?? dict!],
    );
  return new Map([...found(engine!, "engine."), ...found(rest!, "")]);
}

const PYTHON: Record<string, unknown> = { True: true, False: false, "()": [], dict: {}, '""': "" };

test("every setting of the server can be set here, with the same default", () => {
  const options = serverOptions();
  // A test's base, other editors' fallback, and what VS Code itself knows.
  for (const name of ["engine.base", "completionFallback", "workspaceTrusted"]) {
    assert.ok(options.delete(name), name);
  }
  assert.deepEqual([...SERVER_SETTINGS].sort(), [...options.keys()].sort());
  for (const [name, value] of options) {
    const expected = value in PYTHON ? PYTHON[value] : JSON.parse(value);
    assert.deepEqual(properties[`habitab.${name}`]!.default, expected, name);
  }
});

test("every setting says what it does", () => {
  for (const [name, { markdownDescription }] of Object.entries(properties)) {
    assert.ok(markdownDescription.length > 20, name);
  }
});

test("no workspace can switch recording on, name a program or a package", () => {
  assert.deepEqual(
    ["recordTyping", "recordSuggestions", "serverPath", "installSource"].map((name) => properties[`habitab.${name}`]!.scope),
    ["application", "application", "machine", "machine"],
  );
  assert.equal(properties["habitab.recordTyping"]!.default, false);
  assert.equal(properties["habitab.enabled"]!.scope, "language-overridable");
});

test("what an untrusted workspace may not say", () => {
  const { supported, restrictedConfigurations } = manifest.capabilities.untrustedWorkspaces;
  assert.equal(supported, "limited");
  for (const name of ["serverPath", "interpreter", "installSource", "privateGlobs", "respectGitignore"]) {
    assert.ok(restrictedConfigurations.includes(`habitab.${name}`), name);
  }
  for (const name of restrictedConfigurations) {
    assert.ok(name in properties, name);
  }
});

test("the keys work only over a ghost", () => {
  const [word, escape] = manifest.contributes.keybindings;
  assert.deepEqual([word!.key, word!.mac, escape!.key], ["ctrl+right", "cmd+right", "escape"]);
  for (const { when } of manifest.contributes.keybindings) {
    assert.match(when, /^inlineSuggestionVisible && /);
  }
});

test("the walkthrough's links and pictures exist", () => {
  const ids = manifest.contributes.commands.map(({ command }) => command);
  const [walkthrough] = manifest.contributes.walkthroughs;
  for (const { description, media } of walkthrough!.steps) {
    assert.ok(read(media.markdown).length > 0);
    for (const [, link] of description.matchAll(/command:([\w.]+)/g)) {
      assert.ok(ids.includes(link!), link);
    }
  }
});

test("the lockfile names no download address", () => {
  assert.doesNotMatch(read("package-lock.json"), /"resolved"|registry\.npmjs/);
});
