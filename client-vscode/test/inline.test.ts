import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import * as vscode from "vscode";
import { Inline } from "../src/inline";
import { type FakeDocument, stub } from "./stub";

const KEYBOARD = 1;
const GHOST = "alpha(1)";

let told: string[];
let inline: Inline;
let document: FakeDocument;
const timers: (() => void)[] = [];

function itemAt(position: vscode.Position, text = GHOST, id = "A", name = "habitab.accept"): vscode.InlineCompletionItem {
  const command = { title: "", command: name, arguments: [id] };
  return new vscode.InlineCompletionItem(text, new vscode.Range(position, position), command);
}

beforeEach(() => {
  inline?.dispose();
  told = [];
  timers.length = 0;
  const clock = { now: () => 0, later: (_: number, then: () => void) => (timers.push(then), () => {}) };
  const notify = (method: string, params: { item?: unknown; reason?: string; acceptedLength?: number }): void => {
    const id = (params.item as { command: { arguments: string[] } }).command.arguments[0];
    told.push([method.split("/")[1], id, params.reason ?? params.acceptedLength ?? ""].join(" ").trim());
  };
  inline = new Inline(notify as never, clock);
  document = stub.open("/a.py", "x = ");
  stub.show(document, 4);
});

/** Asks as VS Code does; `meanwhile` happens before the server answers. */
async function ask(items: (position: vscode.Position) => vscode.InlineCompletionItem[], meanwhile = () => {}) {
  const position = vscode.window.activeTextEditor!.selection.active;
  const source = new vscode.CancellationTokenSource();
  const next = async () => {
    meanwhile();
    return items(position);
  };
  return inline.middleware.provideInlineCompletionItems!(document, position, {} as never, source.token, next);
}

function key(text: string): void {
  const at = document.offsetAt(vscode.window.activeTextEditor!.selection.active);
  document.edit([at, 0, text]);
  stub.select(document, at + text.length, KEYBOARD);
}

function byEditor(text: string): void {
  const at = document.offsetAt(vscode.window.activeTextEditor!.selection.active);
  document.edit([at, 0, text]);
  stub.select(document, at + text.length, undefined);
}

async function command(id: string): Promise<void> {
  await inline.middleware.executeCommand!("habitab.accept", [id], async () => null);
}

test("the answer goes to VS Code as the server gave it", async () => {
  const answer = await ask((position) => [itemAt(position)]);
  assert.equal((answer as vscode.InlineCompletionItem[])[0]!.insertText, GHOST);
});

test("Tab: text, selection without a kind, command", async () => {
  await ask((position) => [itemAt(position)]);
  byEditor(GHOST);
  await command("A");
  stub.select(document, 0, KEYBOARD);
  assert.deepEqual(told, []);
});

test("a word: text and a selection without a kind", async () => {
  await ask((position) => [itemAt(position)]);
  byEditor("alpha");
  assert.deepEqual(told, ["didPartiallyAcceptCompletion A 5"]);
});

test("keys that agree, keys that do not, and an arrow", async () => {
  await ask((position) => [itemAt(position)]);
  key("a");
  assert.deepEqual(told, []);
  key("x");
  await ask((position) => [itemAt(position, GHOST, "B")]);
  stub.select(document, 0, KEYBOARD);
  assert.deepEqual(told, ["didDismissCompletion A typed_over", "didDismissCompletion B ignored"]);
});

test("an answer that came too late was never on the screen", async () => {
  await ask((position) => [itemAt(position)], () => key("z"));
  assert.equal(inline.outcomes.active, false);
  await ask((position) => [itemAt(position)], () => stub.select(document, 0, KEYBOARD));
  assert.equal(inline.outcomes.active, false);
});

test("a cancelled request shows nothing", async () => {
  const position = vscode.window.activeTextEditor!.selection.active;
  const source = new vscode.CancellationTokenSource();
  const next = async () => {
    source.cancel();
    return [itemAt(position)];
  };
  await inline.middleware.provideInlineCompletionItems!(document, position, {} as never, source.token, next);
  assert.equal(inline.outcomes.active, false);
});

test("items of another kind are not followed", async () => {
  await ask((position) => [itemAt(position, GHOST, "A", "other.accept")]);
  assert.equal(inline.outcomes.active, false);
});

test("no ghost of ours: edits, moves and keys say nothing", () => {
  byEditor("other()");
  stub.select(document, 0, KEYBOARD);
  inline.outcomes.rejected();
  assert.deepEqual(told, []);
});

test("the same document in a second editor does not move the cursor of the first", async () => {
  await ask((position) => [itemAt(position)]);
  const other = { document, selection: new vscode.Selection(new vscode.Position(0, 0), new vscode.Position(0, 0)) };
  stub.fireWindow("onDidChangeTextEditorSelection", { textEditor: other, selections: [other.selection], kind: 1 });
  assert.deepEqual(told, []);
});

test("going to another editor ignores it, and the next one has its own", async () => {
  await ask((position) => [itemAt(position)]);
  document = stub.open("/b.py", "y = ");
  stub.show(document, 4);
  await ask((position) => [itemAt(position, GHOST, "B")]);
  byEditor("alpha");
  assert.deepEqual(told, ["didDismissCompletion A ignored", "didPartiallyAcceptCompletion B 5"]);
});

test("a suggestion is compared with the document's own line ends", async () => {
  document = stub.open("/c.py", "x\r\ny = ");
  stub.show(document, 7);
  await ask((position) => [itemAt(position, "1\n  2")]);
  byEditor("1\r\n");
  assert.deepEqual(told, ["didPartiallyAcceptCompletion A 3"]);
});

test("what the server is told of an item is what it sent", async () => {
  const sent: { item: { insertText: string; range: object; command: object } }[] = [];
  inline.dispose();
  inline = new Inline((_, params) => sent.push(params as never), { now: () => 0, later: () => () => {} });
  await ask((position) => [itemAt(position)]);
  inline.outcomes.rejected();
  assert.deepEqual(JSON.parse(JSON.stringify(sent[0]!.item)), {
    insertText: GHOST,
    range: { start: { line: 0, character: 4 }, end: { line: 0, character: 4 } },
    command: { title: "Accept", command: "habitab.accept", arguments: ["A"] },
  });
});

test("the extension's own work for a request stays under 5 ms (p95)", async () => {
  for (let count = 0; count < 500; count += 1) {
    await ask((position) => [itemAt(position)]);
    key(GHOST[0]!);
  }
  const [p50, p95] = [0.5, 0.95].map((share) => inline.timing.quantile(share)!);
  console.log(`added to a request: p50 ${p50!.toFixed(3)} ms, p95 ${p95!.toFixed(3)} ms`);
  assert.ok(p95! < 5, `${p95} ms`);
});
