// The extension's commands. Their ids begin with `habitab.client.`: the others are the server's.

import { existsSync } from "node:fs";
import * as vscode from "vscode";
import type { Habitab } from "./habitab";
import { install } from "./install";
import { installArgument } from "./paths";
import { statisticsRows } from "./statistics";
import { menuEntries } from "./status";
import * as settings from "./vscodeSettings";

const WALKTHROUGH = "habitab.habitab#start";

/** Registers all of them. */
export function registerCommands(habitab: Habitab): vscode.Disposable[] {
  const { outcomes } = habitab.inline;
  const commands: Record<string, () => unknown> = {
    acceptWord: () => take(habitab, "editor.action.inlineSuggest.acceptNextWord"),
    acceptLine: () => take(habitab, "editor.action.inlineSuggest.acceptNextLine"),
    reject: () => {
      outcomes.rejected();
      return vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
    },
    menu: () => showMenu(habitab),
    pause: () => habitab.pause(true),
    resume: () => habitab.pause(false),
    snooze: () => habitab.nap(),
    toggleLanguage: () => toggleLanguage(),
    statistics: () => showStatistics(habitab),
    night: () => runOnServer(habitab, "habitab.night"),
    report: () => runOnServer(habitab, "habitab.report"),
    export: () => exportAdapter(habitab),
    import: () => importAdapter(habitab),
    install: () => installServer(habitab),
    choosePath: () => choosePath(),
    restart: () => habitab.restart(),
    recording: () => vscode.commands.executeCommand("workbench.action.openWalkthrough", WALKTHROUGH),
    toggleRecordSuggestions: () => toggleRecording("recordSuggestions", "what becomes of suggestions"),
    toggleRecordTyping: () => toggleRecording("recordTyping", "what you type yourself"),
    showLog: () => habitab.log.show(),
  };
  return Object.entries(commands).map(([name, run]) =>
    vscode.commands.registerCommand(`habitab.client.${name}`, run),
  );
}

/** A key of ours that takes a piece: note it, let the editor do it. */
async function take(habitab: Habitab, command: string): Promise<void> {
  const { outcomes } = habitab.inline;
  outcomes.taking(true);
  try {
    await vscode.commands.executeCommand(command);
  } finally {
    outcomes.taking(false);
  }
}

async function showMenu(habitab: Habitab): Promise<void> {
  const language = vscode.window.activeTextEditor?.document.languageId;
  const entries = menuEntries({
    running: habitab.session !== undefined,
    offered: habitab.session?.commands ?? [],
    paused: habitab.isPaused,
    language,
    languageOn: language !== undefined && settings.isOnFor(language),
  });
  const chosen = await vscode.window.showQuickPick(entries, { title: "habitab" });
  if (chosen) {
    await vscode.commands.executeCommand(chosen.command);
  }
}

async function toggleLanguage(): Promise<void> {
  const language = vscode.window.activeTextEditor?.document.languageId;
  if (language !== undefined) {
    await settings.switchLanguage(language, !settings.isOnFor(language));
  }
}

async function toggleRecording(name: "recordSuggestions" | "recordTyping", what: string): Promise<void> {
  const on = await settings.toggle(name);
  void vscode.window.showInformationMessage(`habitab ${on ? "records" : "does not record"} ${what}.`);
}

async function showStatistics(habitab: Habitab): Promise<void> {
  const answer = (await habitab.session?.execute("habitab.status")) as { signals?: unknown } | undefined;
  const rows = statisticsRows(answer?.signals, habitab.inline.timing.quantile(0.95));
  const empty = { label: "Nothing was recorded yet." };
  await vscode.window.showQuickPick<vscode.QuickPickItem>(rows.length ? rows : [empty], { title: "habitab: statistics" });
}

/** Runs a command of the server; what it says in return is shown. */
async function runOnServer(habitab: Habitab, command: string, ...args: unknown[]): Promise<void> {
  if (!habitab.session?.commands.includes(command)) {
    void vscode.window.showInformationMessage("habitab's server does not offer that (yet).");
    return;
  }
  try {
    const answer = await habitab.session.execute(command, ...args);
    if (typeof answer === "string" && answer) {
      void vscode.window.showInformationMessage(`habitab: ${answer}`);
    }
  } catch (error) {
    void vscode.window.showErrorMessage(`habitab: ${error instanceof Error ? error.message : String(error)}`);
  }
}

const FILTERS = { "habitab adapter": ["habitab"] };

async function exportAdapter(habitab: Habitab): Promise<void> {
  const target = await vscode.window.showSaveDialog({ filters: FILTERS, title: "Export the adapter" });
  if (target) {
    await runOnServer(habitab, "habitab.adapters.export", target.fsPath);
  }
}

async function importAdapter(habitab: Habitab): Promise<void> {
  const [source] = (await vscode.window.showOpenDialog({ filters: FILTERS, title: "Import an adapter" })) ?? [];
  if (source) {
    await runOnServer(habitab, "habitab.adapters.import", source.fsPath);
  }
}

async function choosePath(): Promise<void> {
  const title = "Choose the habitab program";
  const [file] = (await vscode.window.showOpenDialog({ canSelectFiles: true, title })) ?? [];
  if (file) {
    await settings.setServerPath(file.fsPath);
  }
}

/** What to install is a file, a folder or an address that the person names, never a bare name. */
async function askSource(habitab: Habitab): Promise<string | undefined> {
  const validateInput = (text: string): string | undefined =>
    installArgument(habitab.machine, text) === undefined
      ? "A wheel's path, a source folder's path or an https:// address is needed; names in a registry are not used."
      : undefined;
  const known = settings.personal("installSource");
  if (known && validateInput(known) === undefined) {
    return installArgument(habitab.machine, known);
  }
  const prompt = "The habitab wheel or source to install: a path or an address";
  const text = await vscode.window.showInputBox({ prompt, value: known, validateInput, ignoreFocusOut: true });
  return text === undefined ? undefined : installArgument(habitab.machine, text);
}

async function installServer(habitab: Habitab): Promise<void> {
  const what = await askSource(habitab);
  if (what === undefined) {
    return;
  }
  await habitab.stopServer();
  const location = vscode.ProgressLocation.Notification;
  const fault = await vscode.window.withProgress(
    { location, title: "habitab", cancellable: true },
    async (progress, token) => {
      const controller = new AbortController();
      token.onCancellationRequested(() => controller.abort());
      return install(what, {
        machine: habitab.machine,
        exists: existsSync,
        venv: habitab.venv,
        cwd: habitab.folder,
        named: await habitab.interpreters(),
        log: (line) => habitab.log.info(line),
        signal: controller.signal,
        step: (message) => progress.report({ message }),
      });
    },
  );
  if (fault) {
    habitab.log.error(fault);
    void vscode.window.showErrorMessage(`habitab: ${fault}`, "Show log").then((chosen) => chosen && habitab.log.show());
    return;
  }
  await habitab.restart();
}
