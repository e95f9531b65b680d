// What the person set, as the server wants it: only what differs from the server's own defaults is sent.

/** The server's settings, by the names that both sides use (`habitab_engine/config.py`). */
export const SERVER_SETTINGS = [
  "enabled",
  "languages",
  "maxTokens",
  "budgetMs",
  "multiline",
  "showThreshold",
  "debounceMinMs",
  "debounceMaxMs",
  "privateGlobs",
  "respectGitignore",
  "contextOpen",
  "contextEdits",
  "contextImports",
  "contextSimilar",
  "memory",
  "recordSuggestions",
  "recordTyping",
  "engine.kernel",
  "engine.threads",
  "engine.idleMinutes",
  "engine.signalDays",
  "engine.signalMegabytes",
] as const;

/** What VS Code knows of one setting. */
export interface Inspected {
  readonly globalValue?: unknown;
  readonly workspaceValue?: unknown;
  readonly workspaceFolderValue?: unknown;
  readonly languageIds?: readonly string[] | undefined;
}

/** The part of VS Code's configuration that is read here, for the section `habitab`. */
export interface Configuration {
  inspect(name: string): Inspected | undefined;
  get(name: string, language?: string): unknown;
}

/** The server's settings. Values of wrong types go through: the server says so in one message. */
export function serverSettings(
  configuration: Configuration,
  trusted: boolean,
  languages: readonly string[],
): Record<string, unknown> {
  const settings: Record<string, unknown> = { workspaceTrusted: trusted };
  for (const name of SERVER_SETTINGS) {
    if (isSet(configuration.inspect(name))) {
      put(settings, name, configuration.get(name));
    }
  }
  const globs = privateGlobs(configuration.inspect("privateGlobs"));
  return { ...settings, ...globs, ...switches(configuration, settings, languages) };
}

function isSet(inspected: Inspected | undefined): boolean {
  const { globalValue, workspaceValue, workspaceFolderValue } = inspected ?? {};
  return [globalValue, workspaceValue, workspaceFolderValue].some((value) => value !== undefined);
}

function put(settings: Record<string, unknown>, name: string, value: unknown): void {
  const [group, key] = name.split(".");
  if (key === undefined) {
    settings[name] = value;
  } else {
    settings[group!] = { ...(settings[group!] as object | undefined), [key]: value };
  }
}

/** What the person keeps private stays private whatever a workspace adds. */
function privateGlobs(inspected: Inspected | undefined): { privateGlobs?: unknown } {
  const { globalValue, workspaceValue } = inspected ?? {};
  if (Array.isArray(globalValue) && Array.isArray(workspaceValue)) {
    return { privateGlobs: [...new Set([...globalValue, ...workspaceValue])] };
  }
  return {};
}

/** `enabled` per language becomes the server's `languages`; it has no other way to be on for a few only. */
function switches(
  configuration: Configuration,
  settings: Readonly<Record<string, unknown>>,
  languages: readonly string[],
): { enabled?: unknown; languages?: unknown } {
  const named = configuration.inspect("enabled")?.languageIds ?? [];
  const own = settings["languages"] ?? {};
  const isObject = typeof own === "object" && own !== null && !Array.isArray(own);
  if (named.length === 0 || !isObject) {
    return {};
  }
  const on = named.map((language) => [language, configuration.get("enabled", language)] as const);
  if (settings["enabled"] !== false) {
    return { languages: { ...Object.fromEntries(on), ...own } };
  }
  if (on.every(([, value]) => value === false)) {
    return {};
  }
  const off = languages.map((language) => [language, false] as const);
  return { enabled: true, languages: { ...Object.fromEntries([...off, ...on]), ...own } };
}
