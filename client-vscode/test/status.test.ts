import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff } from "../src/backoff";
import { statisticsRows } from "../src/statistics";
import { type MenuState, menuEntries, moodOf, readStatus } from "../src/status";

const state: MenuState = { running: true, offered: [], paused: false, language: "python", languageOn: true };
const commands = (changes: Partial<MenuState>): string[] =>
  menuEntries({ ...state, ...changes }).map(({ command }) => command.replace("habitab.client.", ""));

test("an entry appears once the server offers its command", () => {
  const always = ["toggleLanguage", "restart", "recording", "showLog"];
  assert.deepEqual(commands({}), always);
  const offered = ["status", "night", "report", "adapters.export", "adapters.import"].map((name) => `habitab.${name}`);
  assert.deepEqual(
    commands({ offered }).filter((name) => !always.includes(name)),
    ["statistics", "night", "report", "export", "import"],
  );
});

test("pause and snooze, or go on", () => {
  const offered = ["habitab.pause", "habitab.resume"];
  assert.deepEqual(commands({ offered }).slice(0, 2), ["pause", "snooze"]);
  assert.deepEqual(commands({ offered, paused: true }).slice(0, 2), ["resume", "toggleLanguage"]);
});

test("without a server: what helps to get one", () => {
  const entries = commands({ running: false, offered: ["habitab.pause"], language: undefined });
  assert.deepEqual(entries, ["install", "choosePath", "restart", "recording", "showLog"]);
});

test("what the status bar shows", () => {
  const mood = (kind: string, busy: boolean, message = "") => moodOf({ kind, busy, message });
  assert.equal(mood("Normal", false, "Ready."), "ready");
  assert.equal(mood("Normal", true, "The engine is starting."), "working");
  assert.equal(mood("Normal", true, "Learning from today."), "learning");
  assert.equal(mood("Inactive", false), "paused");
  assert.equal(mood("Warning", false), "error");
  assert.equal(mood("Error", false, "The night failed."), "error");
});

test("a status that cannot be read is an error, not an exception", () => {
  for (const bad of [null, 7, {}, { kind: "Normal", busy: "no", message: "" }]) {
    assert.equal(readStatus(bad).kind, "Error");
  }
});

test("statistics: the figures, then outcomes, languages and days", () => {
  const part = { acceptance_rate: 0.5, kept_characters: 7, completed_ratio: 0.25 };
  const signals = {
    ...{ accepted: 3, rejected: 1, acceptance_rate: 0.351, kept_characters: 1234, completed_ratio: 0.2 },
    ...{ characters_saved: 99, latency_ms: { p50: 41.6, p95: 120 } },
    ...{ languages: { python: part }, days: { "2026-01-01": part, "2026-01-02": part } },
  };
  const rows = statisticsRows(signals, 0.123).map(({ label, description }) => (description ? `${label}: ${description}` : label));
  const summary = "50.0 % accepted, 7 characters kept, 25.0 % completed";
  assert.deepEqual(rows, [
    "Acceptance rate: 35.1 %",
    "Kept characters: 1234",
    "Characters saved: 99",
    "Code that was completed: 20.0 %",
    "Latency: p50 42 ms, p95 120 ms",
    "Added by the extension: p95 0.12 ms",
    "Outcomes",
    "Accepted: 3",
    "Rejected: 1",
    "Languages",
    `python: ${summary}`,
    "Days",
    `2026-01-02: ${summary}`,
    `2026-01-01: ${summary}`,
  ]);
});

test("statistics that cannot be read are no rows", () => {
  for (const bad of [undefined, null, 7, {}, { acceptance_rate: "x", languages: 5, days: { today: null } }]) {
    assert.deepEqual(statisticsRows(bad), []);
  }
});

test("a server that keeps ending is started five times, later each time, then left alone", () => {
  const backoff = new Backoff();
  const delays = Array.from({ length: 7 }, () => backoff.next(100));
  assert.deepEqual(delays, [1_000, 2_000, 4_000, 8_000, 16_000, undefined, undefined]);
});

test("a server that ran well for long gets all its tries again", () => {
  const backoff = new Backoff();
  backoff.next(100);
  backoff.next(100);
  assert.equal(backoff.next(600_000), 1_000);
});
