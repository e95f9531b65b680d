// Where a server may be installed, per platform; pure.

import { posix, win32 } from "node:path";

export type Environment = Readonly<Record<string, string | undefined>>;

/** What the places depend on. */
export interface Machine {
  readonly platform: NodeJS.Platform;
  readonly env: Environment;
  readonly home: string;
}

function pathsOf(machine: Machine): typeof posix {
  return machine.platform === "win32" ? win32 : posix;
}

/** A variable of the environment; on Windows its name is written in any case. */
function variable(machine: Machine, name: string): string | undefined {
  const { env, platform } = machine;
  const key = platform === "win32" ? Object.keys(env).find((each) => each.toUpperCase() === name) : name;
  return (key !== undefined && env[key]) || undefined;
}

/** Folders of PATH, then those of uv tool and pipx: who starts VS Code from the desktop lacks the shell's PATH. */
export function scriptFolders(machine: Machine): string[] {
  const path = pathsOf(machine);
  const named = ["UV_TOOL_BIN_DIR", "XDG_BIN_HOME", "PIPX_BIN_DIR"].map((name) => variable(machine, name));
  const dataHome = variable(machine, "XDG_DATA_HOME");
  const folders = [
    ...(variable(machine, "PATH") ?? "").split(path.delimiter),
    ...named,
    dataHome && path.join(dataHome, "..", "bin"),
    path.join(machine.home, ".local", "bin"),
    ...(machine.platform === "darwin" ? ["/opt/homebrew/bin", "/usr/local/bin"] : []),
  ];
  // A relative folder would be looked up in whatever folder is open.
  return [...new Set(folders.filter((folder) => folder !== undefined && path.isAbsolute(folder)))] as string[];
}

/** The places of the console script `name`, the likeliest first. */
export function scriptPlaces(machine: Machine, name: string): string[] {
  const file = machine.platform === "win32" ? `${name}.exe` : name;
  return scriptFolders(machine).map((folder) => pathsOf(machine).join(folder, file));
}

/** A program inside a virtual environment. */
export function inVenv(machine: Machine, venv: string, name: string): string {
  return machine.platform === "win32" ? win32.join(venv, "Scripts", `${name}.exe`) : posix.join(venv, "bin", name);
}

/** `~` at the start of a setting stands for the home folder; undefined for what is not absolute then. */
export function absolute(machine: Machine, setting: string): string | undefined {
  const path = pathsOf(machine);
  const text = setting.trim().replace(/^~(?=$|[\\/])/, () => machine.home);
  return path.isAbsolute(text) ? path.normalize(text) : undefined;
}

/** Commands that may start a Python which can make a virtual environment, the likeliest first. */
export function pythons(machine: Machine): string[] {
  const names = ["python3.13", "python3.12", "python3.11", "python3", "python"];
  const windows = ["python", "python3"];
  return (machine.platform === "win32" ? windows : names).flatMap((name) => scriptPlaces(machine, name));
}

/** What pip may install: a file, a folder or an address. A bare name is refused: nobody owns ours in a registry. */
export function installArgument(machine: Machine, source: string): string | undefined {
  const text = source.trim();
  if (/^(git\+)?(https|ssh|file):\/\/\S+$/.test(text)) {
    return text;
  }
  return absolute(machine, text);
}
