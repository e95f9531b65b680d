// The controls of the stub in vscode.js, typed.

import * as vscode from "vscode";

export interface FakeDocument extends vscode.TextDocument {
  text: string;
  /** Each change is offset, characters removed, text. */
  edit(...changes: [number, number, string][]): void;
}

export interface Stub {
  settings: Record<string, unknown>;
  workspaceSettings: Record<string, unknown>;
  lines: string[];
  messages: { message: string; buttons: string[] }[];
  answers: string[];
  picks: { label: string; description?: string }[][];
  /** The input boxes that were shown. */
  asked: vscode.InputBoxOptions[];
  executed: string[];
  providers: { provider: vscode.InlineCompletionItemProvider }[];
  statusItems: { text: string; tooltip: string; command: string }[];
  commands: Map<string, (...args: unknown[]) => unknown>;
  fireWorkspace(name: string, value: unknown): void;
  fireWindow(name: string, value: unknown): void;
  trust(): void;
  set(name: string, value: unknown): void;
  open(path: string, text: string, languageId?: string): FakeDocument;
  show(document: FakeDocument, offset: number): void;
  select(document: FakeDocument, offset: number, kind: number | undefined): void;
}

export const stub = (vscode as unknown as { stub: Stub }).stub;

/** Waits until `condition` holds; fails after `ms`. */
export async function until(condition: () => boolean, ms = 10_000): Promise<void> {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) {
      throw new Error(`It did not happen within ${ms} ms: ${condition}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
