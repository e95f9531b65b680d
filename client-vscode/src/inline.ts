// Between VS Code and the outcome machine: requests on their way through the language client, and what happens in editors.

import * as vscode from "vscode";
import type { Middleware } from "vscode-languageclient/node";
import { type Clock, type Listener, type Offer, type Offers, Outcomes, type Reason } from "./outcomes";
import { Timing } from "./timing";

/** The server's command in every item; its argument is the suggestion's id. */
export const ACCEPT = "habitab.accept";
const REQUEST = "textDocument/inlineCompletion";

/** An item as the server made it. */
export interface ServerItem {
  insertText: string;
  range: { start: vscode.Position; end: vscode.Position } | undefined;
  command: { title: string; command: string; arguments: [string] };
}

/** Sends one notification to the server. */
export type Notify = (method: string, params: object) => void;

/** The three notifications of the protocol. */
export function teller(notify: Notify): Listener<ServerItem> {
  return {
    shown: (item) => notify("textDocument/didShowCompletion", { item }),
    partlyAccepted: (item, acceptedLength) =>
      notify("textDocument/didPartiallyAcceptCompletion", { item, acceptedLength }),
    dismissed: (item, reason: Reason) => notify("habitab/didDismissCompletion", { item, reason }),
  };
}

const realClock: Clock = {
  now: () => performance.now(),
  later: (ms, then) => {
    const timer = setTimeout(then, ms);
    return () => clearTimeout(timer);
  },
};

type Answer = vscode.InlineCompletionItem[] | vscode.InlineCompletionList | null | undefined;

/** Watches the suggestions of all clients, one after the other. */
export class Inline implements vscode.Disposable {
  readonly timing = new Timing();
  readonly outcomes: Outcomes<ServerItem>;
  private readonly listeners: vscode.Disposable[];
  private readonly waiting = new Map<object, number>();

  constructor(notify: Notify, clock: Clock = realClock) {
    this.outcomes = new Outcomes(teller(notify), clock);
    const { workspace, window } = vscode;
    this.listeners = [
      workspace.onDidChangeTextDocument((event) => this.changed(event)),
      workspace.onDidCloseTextDocument((document) => this.outcomes.left(document.uri.toString())),
      window.onDidChangeTextEditorSelection((event) => this.moved(event)),
      window.onDidChangeActiveTextEditor(() => this.outcomes.left()),
    ];
  }

  /** What the language client calls on the way of requests and commands. */
  get middleware(): Middleware {
    return {
      provideInlineCompletionItems: (document, position, context, token, next) =>
        this.timing.measured(token, () => this.provide(document, position, context, token, next)),
      sendRequest: (type, param, token, next) => {
        const method = typeof type === "string" ? type : type.method;
        const send = async () => next(type, param, token);
        return method === REQUEST && token ? this.timing.elsewhere(token, send) : send();
      },
      executeCommand: (command, args, next) => {
        if (command === ACCEPT) {
          this.outcomes.accepted(String(args[0]));
        }
        return next(command, args);
      },
    };
  }

  /** Milliseconds that the oldest unanswered request has been waiting. */
  get oldestWait(): number {
    const [oldest] = this.waiting.values();
    return oldest === undefined ? 0 : performance.now() - oldest;
  }

  dispose(): void {
    this.outcomes.left();
    for (const listener of this.listeners) {
      listener.dispose();
    }
  }

  private async provide(
    document: vscode.TextDocument,
    position: vscode.Position,
    context: vscode.InlineCompletionContext,
    token: vscode.CancellationToken,
    next: (
      document: vscode.TextDocument,
      position: vscode.Position,
      context: vscode.InlineCompletionContext,
      token: vscode.CancellationToken,
    ) => vscode.ProviderResult<vscode.InlineCompletionItem[] | vscode.InlineCompletionList>,
  ): Promise<Answer> {
    const version = document.version;
    this.waiting.set(token, performance.now());
    try {
      const answer = await next(document, position, context, token);
      if (!token.isCancellationRequested && document.version === version && isCursor(document, position)) {
        this.offer(document, position, answer, context.selectedCompletionInfo?.text);
      }
      return answer;
    } finally {
      this.waiting.delete(token);
    }
  }

  private offer(
    document: vscode.TextDocument,
    position: vscode.Position,
    answer: Answer,
    selected: string | undefined,
  ): void {
    const items = (Array.isArray(answer) ? answer : (answer?.items ?? [])).flatMap(
      (item) => offerOf(document, item) ?? [],
    );
    const [first, ...rest] = items;
    if (first) {
      const start = first.item.range?.start ?? position;
      const before = document.getText(new vscode.Range(start, position));
      const offers: Offers<ServerItem> = {
        document: document.uri.toString(),
        start: document.offsetAt(start),
        before,
        items: [first, ...rest],
        selected,
      };
      this.outcomes.offered(offers);
    }
  }

  private changed(event: vscode.TextDocumentChangeEvent): void {
    if (this.outcomes.active && event.contentChanges.length > 0) {
      const changes = event.contentChanges.map((change) => ({
        offset: change.rangeOffset,
        removed: change.rangeLength,
        text: change.text,
      }));
      this.outcomes.changed(event.document.uri.toString(), changes);
    }
  }

  private moved(event: vscode.TextEditorSelectionChangeEvent): void {
    const cursor = event.selections[0]?.active;
    if (this.outcomes.active && cursor && event.textEditor === vscode.window.activeTextEditor) {
      const { document } = event.textEditor;
      this.outcomes.moved(document.uri.toString(), document.offsetAt(cursor), event.kind === undefined);
    }
  }
}

function isCursor(document: vscode.TextDocument, position: vscode.Position): boolean {
  const editor = vscode.window.activeTextEditor;
  return editor?.document === document && editor.selection.active.isEqual(position);
}

/** Undefined for an item that is not the server's. */
function offerOf(document: vscode.TextDocument, item: vscode.InlineCompletionItem): Offer<ServerItem> | undefined {
  const [id] = item.command?.command === ACCEPT ? (item.command.arguments ?? []) : [];
  if (typeof id !== "string" || typeof item.insertText !== "string") {
    return undefined;
  }
  const lineEnd = document.eol === vscode.EndOfLine.CRLF ? "\r\n" : "\n";
  const text = item.insertText.replace(/\r?\n/g, lineEnd);
  const range = item.range && { start: item.range.start, end: item.range.end };
  const command: ServerItem["command"] = { title: "Accept", command: ACCEPT, arguments: [id] };
  return { id, text, item: { insertText: item.insertText, range, command } };
}
