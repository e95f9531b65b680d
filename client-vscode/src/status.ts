// The status bar item and its menu.

/** What the status bar shows. */
export type Mood = "starting" | "ready" | "working" | "learning" | "paused" | "error";

/** As `habitab/didChangeStatus` sends it. */
export interface ServerStatus {
  readonly kind: string;
  readonly busy: boolean;
  readonly message: string;
}

const ICONS: Record<Mood, string> = {
  starting: "$(loading~spin)",
  ready: "$(sparkle)",
  working: "$(loading~spin)",
  learning: "$(mortar-board)",
  paused: "$(debug-pause)",
  error: "$(warning)",
};

export function moodOf(status: ServerStatus): Mood {
  if (status.kind === "Error" || status.kind === "Warning") {
    return "error";
  }
  if (status.kind === "Inactive") {
    return "paused";
  }
  if (/\b(learn|night)/i.test(status.message)) {
    return "learning";
  }
  return status.busy ? "working" : "ready";
}

export function label(mood: Mood): string {
  return `${ICONS[mood]} habitab`;
}

/** Reads what a server sent; a server that sends something else is in error. */
export function readStatus(value: unknown): ServerStatus {
  const { kind, busy, message } = (value ?? {}) as Record<string, unknown>;
  if (typeof kind === "string" && typeof busy === "boolean" && typeof message === "string") {
    return { kind, busy, message };
  }
  return { kind: "Error", busy: false, message: "The server sent a status that cannot be read." };
}

/** What the menu depends on. */
export interface MenuState {
  readonly running: boolean;
  /** The commands that the server offers. */
  readonly offered: readonly string[];
  readonly paused: boolean;
  /** The language of the active editor, if there is one. */
  readonly language?: string | undefined;
  readonly languageOn: boolean;
}

export interface Entry {
  readonly label: string;
  readonly description?: string;
  /** The extension's command that the entry runs. */
  readonly command: string;
}

/** The entries that make sense now: what needs a command of the server appears once it offers that command. */
export function menuEntries(state: MenuState): Entry[] {
  const has = (command: string): boolean => state.running && state.offered.includes(command);
  const when = (on: boolean, ...entries: Entry[]): Entry[] => (on ? entries : []);
  const { language } = state;
  return [
    ...when(has("habitab.pause") && !state.paused, { label: "$(debug-pause) Pause", command: "habitab.client.pause" }),
    ...when(has("habitab.resume") && state.paused, { label: "$(play) Go on", command: "habitab.client.resume" }),
    ...when(has("habitab.pause") && !state.paused, {
      label: "$(clock) Snooze",
      description: "10 minutes",
      command: "habitab.client.snooze",
    }),
    ...when(language !== undefined, {
      label: `$(symbol-misc) Switch ${state.languageOn ? "off" : "on"} for ${language}`,
      command: "habitab.client.toggleLanguage",
    }),
    ...when(has("habitab.status"), { label: "$(graph) Statistics", command: "habitab.client.statistics" }),
    ...when(has("habitab.night"), { label: "$(mortar-board) Night now", command: "habitab.client.night" }),
    ...when(has("habitab.report"), { label: "$(book) Morning report", command: "habitab.client.report" }),
    ...when(has("habitab.adapters.export"), {
      label: "$(desktop-download) Export the adapter",
      command: "habitab.client.export",
    }),
    ...when(has("habitab.adapters.import"), {
      label: "$(cloud-upload) Import an adapter",
      command: "habitab.client.import",
    }),
    ...when(
      !state.running,
      { label: "$(desktop-download) Install the server", command: "habitab.client.install" },
      { label: "$(folder-opened) Choose the server's path", command: "habitab.client.choosePath" },
    ),
    { label: "$(refresh) Start the server again", command: "habitab.client.restart" },
    { label: "$(shield) What is recorded", command: "habitab.client.recording" },
    { label: "$(output) Show the log", command: "habitab.client.showLog" },
  ];
}
