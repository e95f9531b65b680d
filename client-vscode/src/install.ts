// Puts a server into a virtual environment of the extension's own, from a wheel or a source that the person names.

import { type Machine, inVenv, pythons } from "./paths";
import { type Command, type Outcome, run, spell } from "./process";
import { report } from "./server";

export const OLDEST_PYTHON: readonly [number, number] = [3, 11];
const ASK_MS = 15_000;
const VENV_MS = 120_000;
/** The first installation brings torch. */
const INSTALL_MS = 3_600_000;
const CANCELLED = "The installation was cancelled.";

export interface Installation {
  readonly machine: Machine;
  readonly exists: (path: string) => boolean;
  readonly venv: string;
  /** An existing folder outside every workspace. */
  readonly cwd: string;
  /** Interpreters that the person named, the likeliest first. */
  readonly named: readonly string[];
  readonly log: (line: string) => void;
  readonly signal: AbortSignal;
  readonly step: (message: string) => void;
}

/** Returns a sentence that says what went wrong, or "". */
export async function install(what: string, how: Installation): Promise<string> {
  how.step("looking for Python");
  const python = await findPython(how);
  if (how.signal.aborted) {
    return CANCELLED;
  }
  if (!python) {
    return `No Python ${OLDEST_PYTHON.join(".")} or newer was found; name one in the setting habitab.interpreter.`;
  }
  how.step("making a virtual environment");
  const made = await perform({ program: python, args: ["-m", "venv", "--clear", how.venv] }, VENV_MS, how);
  if (made) {
    return made;
  }
  how.step("installing the server, which may take some minutes");
  const pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", what];
  return perform({ program: inVenv(how.machine, how.venv, "python"), args: pip }, INSTALL_MS, how);
}

async function findPython(how: Installation): Promise<string | undefined> {
  const places = [...how.named, ...pythons(how.machine)].filter(how.exists);
  for (const program of new Set(places)) {
    const args = ["-c", "import sys; print(*sys.version_info[:2])"];
    const { code, stdout } = await run({ program, args }, { cwd: how.cwd, ms: ASK_MS, signal: how.signal });
    if (code === 0 && isNewEnough(stdout)) {
      return program;
    }
  }
  return undefined;
}

export function isNewEnough(stdout: string): boolean {
  const [major = 0, minor = 0] = stdout.trim().split(/\s+/).map(Number);
  return major > OLDEST_PYTHON[0] || (major === OLDEST_PYTHON[0] && minor >= OLDEST_PYTHON[1]);
}

async function perform(command: Command, ms: number, how: Installation): Promise<string> {
  how.log(spell(command));
  const outcome: Outcome = await run(command, { cwd: how.cwd, ms, line: how.log, signal: how.signal });
  if (outcome.code === 0) {
    return "";
  }
  how.log(report(command, outcome, "the installation"));
  return how.signal.aborted ? CANCELLED : "The installation failed; the log says why.";
}

