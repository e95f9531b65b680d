// Finds the server: where it may be, in the order of preference, and whether what is there is ours and new enough.

import { type Machine, absolute, inVenv, scriptPlaces } from "./paths";
import { type Command, type Outcome, account } from "./process";

/** The oldest server this extension works with. */
export const OLDEST_SERVER = "0.1.0";

/** A place to look at; `origin` says in the log and in messages why. */
export interface Candidate extends Command {
  readonly origin: string;
}

/** What the search knows. Empty strings stand for what is not set. */
export interface Wishes {
  readonly serverPath: string;
  readonly interpreter: string;
  /** The Python extension's interpreter for this workspace. */
  readonly active: string;
  /** Our own virtual environment. */
  readonly venv: string;
}

export type Found =
  | { readonly command: Command; readonly version: string }
  | { readonly command?: undefined; readonly why: string };

/** A named server is the only candidate: another one in its place would be a surprise. */
export function candidates(machine: Machine, wishes: Wishes): Candidate[] {
  if (wishes.serverPath) {
    const program = absolute(machine, wishes.serverPath) ?? wishes.serverPath;
    return [{ program, args: [], origin: "the setting habitab.serverPath" }];
  }
  const scripts = scriptPlaces(machine, "habitab").map((program) => ({ program, args: [], origin: "the PATH" }));
  const managed = { program: inVenv(machine, wishes.venv, "habitab"), args: [], origin: "the extension's own folder" };
  return [
    ...scripts,
    ...asModule(absolute(machine, wishes.interpreter), "the setting habitab.interpreter"),
    ...asModule(absolute(machine, wishes.active), "the Python extension"),
    managed,
  ];
}

function asModule(interpreter: string | undefined, origin: string): Candidate[] {
  return interpreter ? [{ program: interpreter, args: ["-m", "habitab_server"], origin }] : [];
}

/** Returns the first server that answers `--version` well, else a sentence that says why there is none. */
export async function find(
  places: readonly Candidate[],
  exists: (path: string) => boolean,
  ask: (command: Command) => Promise<Outcome>,
  log: (line: string) => void,
): Promise<Found> {
  let why = "";
  for (const place of places) {
    const named = place.origin.startsWith("the setting");
    if (!exists(place.program)) {
      why ||= named ? `${place.origin} names ${place.program}, which is no file` : "";
      continue;
    }
    const command = { program: place.program, args: [...place.args, "--version"] };
    const outcome = await ask(command);
    const fault = faultOf(outcome);
    if (!fault) {
      return { command: { program: place.program, args: place.args }, version: versionIn(outcome.stdout) };
    }
    log(report(command, outcome, place.origin));
    why ||= named || !place.args.length ? `${place.program} (from ${place.origin}) ${fault}` : "";
  }
  return { why: why || "no habitab server is installed where the extension looks" };
}

function faultOf(outcome: Outcome): string {
  const version = versionIn(outcome.stdout);
  if (outcome.code !== 0) {
    return outcome.code === undefined ? "could not be run" : `ended with exit code ${outcome.code}`;
  }
  if (!version) {
    return "is not habitab";
  }
  return isOlder(version, OLDEST_SERVER) ? `is version ${version}; ${OLDEST_SERVER} or newer is needed` : "";
}

export function versionIn(stdout: string): string {
  return /^habitab, version (\d+(?:\.\d+)+)\S*\s*$/.exec(stdout.trim())?.[1] ?? "";
}

export function isOlder(version: string, oldest: string): boolean {
  const [left, right] = [version, oldest].map((text) => text.split(".").map(Number));
  const at = right!.findIndex((part, index) => part !== (left![index] ?? 0));
  return at >= 0 && (left![at] ?? 0) < right![at]!;
}

/** What a person needs to see why a command failed. */
export function report(command: Command, outcome: Outcome, origin: string): string {
  return `From ${origin}: ${account(command, outcome.code, outcome.stderr || outcome.stdout)}`;
}
