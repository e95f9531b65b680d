// The real language client against a real process, in every way in which a server can be bad.

import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { resolve } from "node:path";
import { afterEach, test } from "node:test";
import * as vscode from "vscode";
import { Backoff } from "../src/backoff";
import { Session, type SessionOptions } from "../src/client";
import { Supervisor, type Trouble } from "../src/supervisor";
import { stub, until } from "./stub";

const SERVER = { program: process.execPath, args: [resolve("test/server.mjs"), "serve"] };
const log = vscode.window.createOutputChannel("habitab", { log: true });
let statuses: unknown[] = [];
let supervisor: Supervisor | undefined;

function options(startMs = 10_000): SessionOptions {
  const onStatus = (status: unknown): void => void statuses.push(status);
  return { cwd: tmpdir(), log, middleware: {}, settings: () => ({}), onStatus, startMs };
}

function mode(name: string): void {
  process.env["HABITAB_TEST_MODE"] = name;
}

/** Runs a supervisor with short times; returns its sessions, troubles and tries. */
function supervise(oldestWait = (): number => 0) {
  const seen = { sessions: [] as (Session | undefined)[], troubles: [] as Trouble[], tries: 0, waits: 0 };
  supervisor = new Supervisor(
    {
      find: async () => ({ command: SERVER, version: "0.1.0" }),
      open: async () => {
        seen.tries += 1;
        return Session.open(SERVER, options(2_000));
      },
      changed: (session) => seen.sessions.push(session),
      trouble: (trouble) => seen.troubles.push(trouble),
      waiting: () => {
        seen.waits += 1;
      },
      log: (line) => stub.lines.push(line),
      oldestWait,
    },
    new Backoff(5),
    200,
  );
  return seen;
}

afterEach(async () => {
  await supervisor?.stop();
  supervisor = undefined;
  statuses = [];
  stub.messages.length = 0;
  stub.lines.length = 0;
});

test("a good server: its commands, its status, its end", async () => {
  mode("good");
  const session = await Session.open(SERVER, options());
  assert.ok(session.commands.includes("habitab.accept"));
  await until(() => statuses.length === 1);
  assert.equal(await session.answers(5_000), true);
  assert.deepEqual(await session.execute("habitab.pause"), null);
  await session.stop();
  assert.match(await session.ended, /exit code 0/);
  assert.deepEqual(stub.messages, []);
});

test("the provider has no key of a proposed API", async () => {
  mode("good");
  const session = await Session.open(SERVER, options());
  const keys = stub.providers.flatMap(({ provider }) => Object.keys(provider));
  assert.deepEqual(keys, ["provideInlineCompletionItems"]);
  await session.stop();
});

for (const [name, why] of [
  ["dies", /exit code 3/],
  ["garbage", /something that is not the protocol/],
  ["chatters", /something that is not the protocol/],
  ["hangs", /did not answer in time/],
] as const) {
  test(`a server that ${name} at the start: the reason, and no message of the library's`, async () => {
    mode(name);
    await assert.rejects(Session.open(SERVER, options(1_000)), why);
    assert.deepEqual(stub.messages, []);
  });
}

test("a program that does not exist", async () => {
  await assert.rejects(Session.open({ program: "/no/such/program", args: [] }, options()), /ENOENT/);
  assert.deepEqual(stub.messages, []);
});

test("a server that dies at the start is tried six times, then there is one trouble", async () => {
  mode("dies");
  const seen = supervise();
  await supervisor!.restart();
  await until(() => seen.troubles.length > 0, 30_000);
  assert.deepEqual([seen.tries, seen.waits, seen.troubles.map(({ kind }) => kind)], [6, 5, ["crashing"]]);
  assert.deepEqual(stub.messages, []);
});

test("a server that crashes a moment after its start is started again, not for ever", async () => {
  mode("crashes");
  const seen = supervise();
  await supervisor!.restart();
  await until(() => seen.troubles.length > 0, 30_000);
  assert.equal(seen.sessions.filter((session) => session !== undefined).length, 6);
  assert.equal(seen.sessions.at(-1), undefined);
  assert.match(seen.troubles[0]!.why, /exit code 7/);
  assert.ok(stub.lines.some((line) => line.includes("server.mjs serve\n  exit code 7")));
});

test("a server that is killed comes back", async () => {
  mode("good");
  const seen = supervise();
  await supervisor!.restart();
  await until(() => seen.sessions.length === 1);
  seen.sessions[0]!.fail("killed by the test");
  await until(() => seen.sessions.length === 3 && seen.sessions[2] !== undefined);
  assert.deepEqual(seen.troubles, []);
});

test("a server that answers nothing any more is ended and started again", async () => {
  mode("deaf");
  let wait = 0;
  const seen = supervise(() => wait);
  await supervisor!.restart();
  await until(() => seen.sessions.length === 1);
  wait = 60_000;
  await until(() => seen.sessions.length >= 3);
  assert.ok(stub.lines.some((line) => line.includes("It hangs.")));
});

test("a slow request alone is no reason to end a server", async () => {
  mode("good");
  const seen = supervise(() => 60_000);
  await supervisor!.restart();
  await until(() => seen.sessions.length === 1);
  await new Promise((resolve) => setTimeout(resolve, 700));
  assert.equal(seen.sessions.length, 1);
});

test("starting again twice at once leaves one server", async () => {
  mode("good");
  const seen = supervise();
  await Promise.all([supervisor!.restart(), supervisor!.restart()]);
  await until(() => seen.sessions.length > 0);
  assert.equal(seen.tries, 1);
  await supervisor!.stop();
  assert.equal(seen.sessions.at(-1), undefined);
});
