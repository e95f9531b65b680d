#!/usr/bin/env node
// A language server for the tests. HABITAB_TEST_MODE: good, old, foreign, dies, garbage, chatters, hangs, deaf (answers initialize
// only), crashes (a moment after it started). What it is told goes to the file HABITAB_TEST_LOG, one JSON object a line.

import { appendFileSync } from "node:fs";

const mode = process.env.HABITAB_TEST_MODE ?? "good";
const LINES = [
  "def alpha(first, second): return first + second",
  "print('hello', 'wide', 'world')",
  "for index in range(10):\n    total += index",
];
const documents = new Map();

function log(entry) {
  if (process.env.HABITAB_TEST_LOG) {
    appendFileSync(process.env.HABITAB_TEST_LOG, `${JSON.stringify(entry)}\n`);
  }
}

function send(message) {
  const body = JSON.stringify({ jsonrpc: "2.0", ...message });
  process.stdout.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}

function offset(text, { line, character }) {
  const lines = text.split("\n");
  return lines.slice(0, line).reduce((sum, each) => sum + each.length + 1, 0) + character;
}

function complete({ textDocument, position }) {
  const text = documents.get(textDocument.uri) ?? "";
  const before = `\n${text.slice(0, offset(text, position))}`;
  return LINES.flatMap((line, index) => {
    const cut = [...line].findIndex((_, at) => at >= 3 && before.endsWith(`\n${line.slice(0, at)}`));
    const rest = cut < 0 ? "" : line.slice(cut);
    return rest.trim()
      ? [{
          insertText: rest,
          range: { start: position, end: position },
          command: { title: "Accept", command: "habitab.accept", arguments: [`id-${index}`] },
        }]
      : [];
  });
}

const CAPABILITIES = {
  textDocumentSync: 2,
  inlineCompletionProvider: {},
  executeCommandProvider: { commands: ["habitab.accept", "habitab.status", "habitab.pause", "habitab.resume"] },
};

const handlers = {
  initialize: () => ({ capabilities: CAPABILITIES, serverInfo: { name: "habitab" } }),
  "textDocument/didOpen": ({ textDocument }) => documents.set(textDocument.uri, textDocument.text),
  "textDocument/didChange": ({ textDocument, contentChanges }) => {
    for (const { range, text } of contentChanges) {
      const old = documents.get(textDocument.uri);
      const [start, end] = [offset(old, range.start), offset(old, range.end)];
      documents.set(textDocument.uri, old.slice(0, start) + text + old.slice(end));
    }
  },
  "textDocument/inlineCompletion": complete,
  "workspace/executeCommand": ({ command }) =>
    command === "habitab.status" ? { signals: { accepted: 3, acceptance_rate: 0.5, latency_p50_ms: 41.2 } } : null,
  shutdown: () => null,
  exit: () => process.exit(0),
};

function handle({ id, method, params }) {
  log({ method, params });
  if (mode === "deaf" && method !== "initialize") {
    return;
  }
  const result = handlers[method]?.(params);
  if (id !== undefined) {
    send(handlers[method] ? { id, result: result ?? null } : { id, error: { code: -32601, message: "unknown" } });
  }
  if (method === "initialized") {
    send({ method: "habitab/didChangeStatus", params: { kind: "Normal", busy: false, message: "Ready." } });
    if (mode === "crashes") {
      setTimeout(() => process.exit(7), 100);
    }
  }
}

function listen() {
  let buffer = Buffer.alloc(0);
  process.stdin.on("data", (chunk) => {
    buffer = Buffer.concat([buffer, chunk]);
    for (;;) {
      const head = buffer.indexOf("\r\n\r\n");
      const length = Number(/Content-Length: (\d+)/.exec(buffer.subarray(0, Math.max(head, 0)).toString())?.[1]);
      if (head < 0 || buffer.length < head + 4 + length) {
        return;
      }
      const message = JSON.parse(buffer.subarray(head + 4, head + 4 + length).toString());
      buffer = buffer.subarray(head + 4 + length);
      handle(message);
    }
  });
  process.stdin.on("end", () => process.exit(0));
}

if (process.argv.includes("--version")) {
  const versions = { old: "habitab, version 0.0.9", foreign: "habitat 3.1" };
  console.log(versions[mode] ?? "habitab, version 0.1.0");
} else if (mode === "dies") {
  console.error("Traceback: no model\nlast line");
  process.exit(3);
} else if (mode === "garbage") {
  setInterval(() => process.stdout.write("Welcome to the server!\r\n\r\n{}{}\r\n\r\n"), 50);
} else if (mode === "chatters") {
  setInterval(() => process.stdout.write("still starting ... "), 50);
} else if (mode === "hangs") {
  setInterval(() => {}, 1000);
} else {
  listen();
}
