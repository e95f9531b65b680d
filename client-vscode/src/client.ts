// One server process and the language client that speaks with it.

import type { ChildProcess } from "node:child_process";
import type { LogOutputChannel } from "vscode";
import {
  CloseAction,
  ErrorAction,
  LanguageClient,
  type LanguageClientOptions,
  type Middleware,
} from "vscode-languageclient/node";
import { type Command, Tail, account, start } from "./process";

/** Milliseconds a server has for its answer to `initialize`. */
const START_MS = 20_000;
const STOP_MS = 2_000;
/** Milliseconds a server has to end by itself once its connection is broken. */
const END_MS = 500;

/** What every message of a server begins with. */
const HEADER = "Content-";
const GARBAGE = "It sent something that is not the protocol.";

const DOCUMENTS = ["file", "untitled", "vscode-notebook-cell"].map((scheme) => ({ scheme }));

export interface SessionOptions {
  readonly cwd: string;
  readonly log: LogOutputChannel;
  readonly middleware: Middleware;
  readonly settings: () => object;
  readonly onStatus: (status: unknown) => void;
  readonly startMs?: number;
}

/**
 * The library shows a message for most faults; here a person gets one, from the supervisor. What else the library has
 * to say about an error may hold code of the person's, and a log may not.
 */
class QuietClient extends LanguageClient {
  override error(message: string, data?: unknown): void {
    super.error(withCode(message, data), undefined, false);
  }

  override warn(message: string, data?: unknown): void {
    super.warn(withCode(message, data), undefined, false);
  }

  override info(message: string): void {
    super.info(message, undefined, false);
  }
}

function withCode(message: string, data: unknown): string {
  const code = (data as { code?: unknown } | null | undefined)?.code;
  return typeof code === "number" ? `${message} (error ${code})` : message;
}

/** Lives as long as its process; is never started twice. */
export class Session {
  /** Why the process ended, in words; never rejects. */
  readonly ended: Promise<string>;
  private readonly client: LanguageClient;
  private readonly child: ChildProcess;
  private readonly tail = new Tail();
  private fault = "";

  private constructor(
    readonly command: Command,
    private readonly options: SessionOptions,
  ) {
    this.child = start(command, options);
    this.child.stdin?.on("error", () => {});
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.tail.add(text);
      options.log.info(text.trimEnd());
    });
    this.child.stdout?.once("data", (bytes: Buffer) => this.look(bytes.toString("latin1")));
    this.ended = new Promise((resolve) => {
      this.child.on("error", (error) => resolve(error.message));
      this.child.on("exit", (code, signal) => resolve(this.fault || `It ended with ${signal ?? `exit code ${code}`}.`));
    });
    this.client = new QuietClient("habitab", "habitab", async () => this.child, this.clientOptions());
    this.client.onNotification("habitab/didChangeStatus", options.onStatus);
  }

  /** Starts a server and waits until it is ready; rejects with the reason if it never is. */
  static async open(command: Command, options: SessionOptions): Promise<Session> {
    const session = new Session(command, options);
    const overdue = setTimeout(
      () => session.fail("It did not answer in time."),
      options.startMs ?? START_MS,
    );
    try {
      const gone = session.ended.then((why) => Promise.reject(new Error(why)));
      await Promise.race([session.client.start(), gone]);
      return session;
    } catch (error) {
      // Most often the process is ending, and what its end says is worth more than a broken pipe.
      const why = error instanceof Error ? error.message : String(error);
      const killing = setTimeout(() => session.fail(why), END_MS);
      throw new Error(await session.ended.finally(() => clearTimeout(killing)));
    } finally {
      clearTimeout(overdue);
    }
  }

  /** The commands that the server offers. */
  get commands(): readonly string[] {
    return this.client.initializeResult?.capabilities.executeCommandProvider?.commands ?? [];
  }

  notify(method: string, params: object): void {
    if (this.client.isRunning()) {
      this.client.sendNotification(method, params).catch(() => {});
    }
  }

  execute(command: string, ...args: unknown[]): Promise<unknown> {
    return this.client.sendRequest("workspace/executeCommand", { command, arguments: args });
  }

  /** Whether the server answers anything at all within `ms`. Servers must answer unknown requests that begin with `$/`. */
  async answers(ms: number): Promise<boolean> {
    const answer = this.client.sendRequest("$/habitab/alive").then(
      () => true,
      () => true,
    );
    let timer: NodeJS.Timeout | undefined;
    const silence = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), ms);
    });
    try {
      return await Promise.race([answer, silence]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** End a server that does not do what it should; `ended` then says `why`. */
  fail(why: string): void {
    this.fault ||= why;
    this.child.kill("SIGKILL");
  }

  async stop(): Promise<void> {
    await this.client.stop(STOP_MS).catch(() => {});
    const timer = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS);
    await this.ended;
    clearTimeout(timer);
  }

  /** For the log: what was run, and the last it said. */
  get lastWords(): string {
    return account(this.command, this.child.exitCode, this.tail.lines);
  }

  /** The library waits for ever for the end of what never was a header. */
  private look(firstWords: string): void {
    if (!HEADER.startsWith(firstWords.slice(0, HEADER.length))) {
      this.fail(GARBAGE);
    }
  }

  private clientOptions(): LanguageClientOptions {
    const { log, middleware, settings } = this.options;
    return {
      documentSelector: DOCUMENTS,
      outputChannel: log,
      middleware,
      initializationOptions: settings,
      initializationFailedHandler: () => false,
      stdioOptions: { stdout: () => {}, stderr: () => {} },
      // Who restarts is the supervisor: a garbled stream cannot be mended, a closed one stays closed.
      errorHandler: {
        error: () => {
          this.fail(GARBAGE);
          return { action: ErrorAction.Continue, handled: true, message: "The connection is broken." };
        },
        closed: () => ({ action: CloseAction.DoNotRestart, handled: true }),
      },
    };
  }
}
