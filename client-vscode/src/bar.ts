// The status bar item as VS Code draws it.

import * as vscode from "vscode";
import { type Mood, type ServerStatus, label, moodOf } from "./status";

export class Bar implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem("habitab", vscode.StatusBarAlignment.Right, 100);

  constructor() {
    this.item.name = "habitab";
    this.item.command = "habitab.client.menu";
    this.show("starting", "The server is starting.");
    this.item.show();
  }

  show(mood: Mood, message: string): void {
    this.item.text = label(mood);
    this.item.tooltip = `habitab: ${message}`;
    this.item.accessibilityInformation = { label: `habitab: ${message}`, role: "button" };
    const colour = mood === "error" ? "statusBarItem.warningBackground" : undefined;
    this.item.backgroundColor = colour === undefined ? undefined : new vscode.ThemeColor(colour);
  }

  showStatus(status: ServerStatus): void {
    this.show(moodOf(status), status.message);
  }

  dispose(): void {
    this.item.dispose();
  }
}
