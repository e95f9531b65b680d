// Runs a command to its end, within a time limit, and keeps what it said.

import { type ChildProcess, spawn } from "node:child_process";

const TAIL_LINES = 12;
const MOST_CHARACTERS = 20_000;

export interface Command {
  readonly program: string;
  readonly args: readonly string[];
}

export interface Outcome {
  /** The exit code; undefined for a command that could not start, was killed or took too long. */
  readonly code: number | undefined;
  readonly stdout: string;
  /** The last lines of standard error, or why there are none. */
  readonly stderr: string;
}

export interface Limits {
  readonly cwd: string;
  readonly ms: number;
  /** Gets what the command says as it says it. */
  readonly line?: (line: string) => void;
  readonly signal?: AbortSignal;
}

export function spell(command: Command): string {
  return [command.program, ...command.args].map((word) => (/[\s"]/.test(word) ? JSON.stringify(word) : word)).join(" ");
}

/** What a person needs to see of a command that ended, for the log. */
export function account(command: Command, exitCode: number | null | undefined, said: string): string {
  const code = typeof exitCode === "number" ? `exit code ${exitCode}` : "no exit code";
  return [spell(command), `  ${code}`, ...said.split("\n").map((line) => `  ${line}`)].join("\n");
}

/** The last lines of what a process says on standard error. */
export class Tail {
  private text = "";

  add(chunk: string): void {
    this.text = (this.text + chunk).slice(-MOST_CHARACTERS);
  }

  get lines(): string {
    return this.text.trimEnd().split(/\r?\n/).slice(-TAIL_LINES).join("\n");
  }
}

/** Never rejects: whatever goes wrong is in the outcome. */
export function run(command: Command, limits: Limits): Promise<Outcome> {
  return new Promise((resolve) => {
    const tail = new Tail();
    let stdout = "";
    let child: ChildProcess;
    try {
      child = start(command, limits);
    } catch (error) {
      // What cannot be a program at all (a batch file on Windows) is refused at once.
      resolve({ code: undefined, stdout, stderr: String(error) });
      return;
    }
    const stop = (why: string) => {
      tail.add(`\n${why}`);
      child.kill("SIGKILL");
      finish(undefined);
    };
    const timer = setTimeout(() => stop(`It did not end within ${limits.ms / 1000} s.`), limits.ms);
    const abort = () => stop("It was cancelled.");
    const finish = (code: number | undefined) => {
      clearTimeout(timer);
      limits.signal?.removeEventListener("abort", abort);
      resolve({ code, stdout, stderr: tail.lines });
    };
    limits.signal?.addEventListener("abort", abort);
    if (limits.signal?.aborted) {
      abort();
    }
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      stdout = (stdout + text).slice(-MOST_CHARACTERS);
      limits.line?.(text.trimEnd());
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      tail.add(text);
      limits.line?.(text.trimEnd());
    });
    child.on("error", (error) => {
      tail.add(error.message);
      finish(undefined);
    });
    child.on("close", (code) => finish(code ?? undefined));
  });
}

/** A child without a window of its own and without a shell: no character of the command means anything. */
export function start(command: Command, limits: { readonly cwd: string }): ChildProcess {
  return spawn(command.program, [...command.args], { cwd: limits.cwd, windowsHide: true, stdio: "pipe" });
}
