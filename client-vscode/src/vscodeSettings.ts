// Reads the person's settings from VS Code.

import * as vscode from "vscode";
import { type Configuration, serverSettings } from "./settings";

const SECTION = "habitab";

const configuration: Configuration = {
  inspect: (name) => vscode.workspace.getConfiguration(SECTION).inspect(name),
  get: (name, languageId) =>
    vscode.workspace.getConfiguration(SECTION, languageId === undefined ? undefined : { languageId }).get(name),
};

/** What the server is told. */
export function forServer(languages: readonly string[]): Record<string, unknown> {
  return serverSettings(configuration, vscode.workspace.isTrusted, languages);
}

/** A text of the person's own settings: no workspace may name a program to run or a package to install. */
export function personal(name: "serverPath" | "installSource"): string {
  return text(configuration.inspect(name)?.globalValue);
}

/** The interpreter that runs the server; a workspace may name it once the person trusts it. */
export function interpreter(): string {
  const inspected = configuration.inspect("interpreter");
  return text(vscode.workspace.isTrusted ? configuration.get("interpreter") : inspected?.globalValue);
}

export function isOnFor(languageId: string): boolean {
  const listed = configuration.get("languages") as Record<string, unknown> | null | undefined;
  const own = typeof listed === "object" ? listed?.[languageId] : undefined;
  return (own ?? configuration.get("enabled", languageId)) !== false;
}

/** Switches one language on or off in the person's settings. */
export async function switchLanguage(languageId: string, on: boolean): Promise<void> {
  const listed = configuration.inspect("languages")?.globalValue as Record<string, unknown> | undefined;
  const settings = vscode.workspace.getConfiguration(SECTION, { languageId });
  if (typeof listed === "object" && languageId in listed) {
    const { [languageId]: _, ...rest } = listed;
    await settings.update("languages", rest, vscode.ConfigurationTarget.Global);
  }
  await settings.update("enabled", on, vscode.ConfigurationTarget.Global, true);
}

/** Turns a switch of the person's settings over; returns what it is now. */
export async function toggle(name: "recordSuggestions" | "recordTyping"): Promise<boolean> {
  const on = configuration.get(name) !== true;
  await vscode.workspace.getConfiguration(SECTION).update(name, on, vscode.ConfigurationTarget.Global);
  return on;
}

export async function setServerPath(path: string): Promise<void> {
  await vscode.workspace.getConfiguration(SECTION).update("serverPath", path, vscode.ConfigurationTarget.Global);
}

function text(value: unknown): string {
  return typeof value === "string" ? value.trim() : "";
}
