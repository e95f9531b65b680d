// One window: its server, its suggestions, its status; what the commands act on.

import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import * as vscode from "vscode";
import { Bar } from "./bar";
import { Session } from "./client";
import { Inline } from "./inline";
import type { Machine } from "./paths";
import { type Command, run } from "./process";
import { activeInterpreter } from "./python";
import { type Found, candidates, find } from "./server";
import { readStatus } from "./status";
import { Supervisor, type Trouble } from "./supervisor";
import * as settings from "./vscodeSettings";

const VERSION_MS = 20_000;
const SNOOZE_MS = 600_000;
const INTRODUCED = "habitab.introduced";

export class Habitab implements vscode.Disposable {
  readonly log = vscode.window.createOutputChannel("habitab", { log: true });
  readonly inline = new Inline((method, params) => this.session?.notify(method, params));
  readonly machine: Machine = { platform: process.platform, env: process.env, home: homedir() };
  readonly folder: string;
  session: Session | undefined;
  private readonly bar = new Bar();
  private readonly supervisor: Supervisor;
  private readonly listeners: vscode.Disposable[];
  private paused = false;
  private snooze: NodeJS.Timeout | undefined;
  private languages: readonly string[] = [];
  private sent = "";

  constructor(private readonly context: vscode.ExtensionContext) {
    this.folder = context.globalStorageUri.fsPath;
    this.supervisor = new Supervisor({
      find: () => this.find(),
      open: ({ command }) => this.open(command as Command),
      changed: (session) => this.changed(session),
      trouble: (trouble) => void this.report(trouble),
      waiting: (why) => this.bar.show("starting", `The server is gone and is started again. ${why}`),
      log: (line) => this.log.info(line),
      oldestWait: () => this.inline.oldestWait,
    });
    this.listeners = [
      vscode.workspace.onDidChangeConfiguration((event) => this.reconfigure(event)),
      vscode.workspace.onDidGrantWorkspaceTrust(() => (this.session ? this.sendSettings() : this.begin())),
    ];
  }

  /** The folder of the server that the extension installs itself. */
  get venv(): string {
    return join(this.folder, "venv");
  }

  get isPaused(): boolean {
    return this.paused;
  }

  begin(): void {
    void this.restart();
  }

  async restart(): Promise<void> {
    this.bar.show("starting", "The server is starting.");
    await this.supervisor.restart();
  }

  async stopServer(): Promise<void> {
    await this.supervisor.stop();
  }

  async end(): Promise<void> {
    this.inline.outcomes.left();
    await this.supervisor.stop();
  }

  /** Pause or go on; also a server that is started later is told. */
  async pause(paused: boolean, forMs?: number): Promise<void> {
    clearTimeout(this.snooze);
    this.paused = paused;
    if (forMs !== undefined) {
      this.snooze = setTimeout(() => void this.pause(false), forMs);
    }
    await this.session?.execute(paused ? "habitab.pause" : "habitab.resume").catch((error) => this.log.warn(error));
  }

  async nap(): Promise<void> {
    await this.pause(true, SNOOZE_MS);
  }

  /** Interpreters that the person named or chose, the likeliest first. */
  async interpreters(): Promise<string[]> {
    return [settings.interpreter(), await this.active()].filter((path) => path !== "");
  }

  dispose(): void {
    clearTimeout(this.snooze);
    for (const each of [...this.listeners, this.inline, this.bar, this.log]) {
      each.dispose();
    }
  }

  /** The Python extension's interpreter; a workspace that nobody trusts chooses none. */
  private async active(): Promise<string> {
    return vscode.workspace.isTrusted ? activeInterpreter(this.log) : "";
  }

  private async find(): Promise<Found> {
    await mkdir(this.folder, { recursive: true });
    this.languages = await vscode.languages.getLanguages();
    const wishes = {
      serverPath: settings.personal("serverPath"),
      interpreter: settings.interpreter(),
      active: await this.active(),
      venv: this.venv,
    };
    const ask = (command: Command) => run(command, { cwd: this.folder, ms: VERSION_MS });
    return find(candidates(this.machine, wishes), existsSync, ask, (line) => this.log.warn(line));
  }

  private async open(command: Command): Promise<Session> {
    const serve = { program: command.program, args: [...command.args, "serve"] };
    this.log.info(`Starting ${serve.program} ${serve.args.join(" ")}`);
    return Session.open(serve, {
      cwd: this.folder,
      log: this.log,
      middleware: this.inline.middleware,
      settings: () => settings.forServer(this.languages),
      onStatus: (status) => this.bar.showStatus(readStatus(status)),
    });
  }

  private changed(session: Session | undefined): void {
    this.session = session;
    this.sent = "";
    if (!session) {
      this.inline.outcomes.left();
      this.bar.show("starting", "The server is not running.");
      return;
    }
    if (this.paused) {
      void this.pause(true);
    }
    void this.introduce();
  }

  private reconfigure(event: vscode.ConfigurationChangeEvent): void {
    if (!event.affectsConfiguration("habitab")) {
      return;
    }
    const search = ["serverPath", "interpreter"].some((name) => event.affectsConfiguration(`habitab.${name}`));
    if (search) {
      void this.restart();
    } else {
      this.sendSettings();
    }
  }

  private sendSettings(): void {
    const wanted = settings.forServer(this.languages);
    const text = JSON.stringify(wanted);
    if (text !== this.sent) {
      this.sent = text;
      this.session?.notify("workspace/didChangeConfiguration", { settings: { habitab: wanted } });
    }
  }

  /** One message with a way out; the log has the details. */
  private async report(trouble: Trouble): Promise<void> {
    const message =
      trouble.kind === "missing"
        ? `habitab cannot start: ${trouble.why}.`
        : `habitab's server ended again and again and is left alone now. ${trouble.why}`;
    this.bar.show("error", message);
    this.log.error(message);
    const ways: [string, string][] = [
      ["Install", "habitab.client.install"],
      ["Choose path", "habitab.client.choosePath"],
      ["Show log", "habitab.client.showLog"],
    ];
    if (trouble.kind === "crashing") {
      ways[0] = ["Start again", "habitab.client.restart"];
    }
    const chosen = await vscode.window.showErrorMessage(message, ...ways.map(([title]) => title));
    const command = ways.find(([title]) => title === chosen)?.[1];
    if (command) {
      await vscode.commands.executeCommand(command);
    }
  }

  /** Once, when everything works: say that something is recorded, without taking the person's focus. */
  private async introduce(): Promise<void> {
    if (this.context.globalState.get(INTRODUCED)) {
      return;
    }
    await this.context.globalState.update(INTRODUCED, true);
    const show = "What is recorded";
    const chosen = await vscode.window.showInformationMessage(
      "habitab suggests code, and records on this machine what becomes of its suggestions.",
      show,
    );
    if (chosen === show) {
      await vscode.commands.executeCommand("habitab.client.recording");
    }
  }
}
