// Where VS Code comes in and goes out; everything is put together here.

import * as vscode from "vscode";
import { registerCommands } from "./commands";
import { Habitab } from "./habitab";

let habitab: Habitab | undefined;

/** Returns at once: the server is looked for in the background. */
export function activate(context: vscode.ExtensionContext): void {
  habitab = new Habitab(context);
  context.subscriptions.push(habitab, ...registerCommands(habitab));
  habitab.begin();
}

export async function deactivate(): Promise<void> {
  await habitab?.end();
  habitab = undefined;
}
