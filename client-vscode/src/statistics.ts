// The statistics of `habitab.status` as rows of a list; what a server does not send has no row.

/** A heading where `kind` is that of a separator. */
export interface Row {
  readonly label: string;
  readonly description?: string;
  readonly kind?: number;
}

type Figures = Readonly<Record<string, unknown>>;

/** As in `vscode.QuickPickItemKind`. */
const SEPARATOR = -1;
const MOST_DAYS = 14;

const OUTCOMES: Readonly<Record<string, string>> = {
  accepted: "Accepted",
  partly_accepted: "Partly accepted",
  typed_through: "Typed through",
  typed_over: "Typed over",
  rejected: "Rejected",
  ignored: "Ignored",
  unseen: "Gone before they could be seen",
  suppressed: "Held back",
};

/** `signals` is what the server answers; `added` the milliseconds that the extension adds to a request (p95). */
export function statisticsRows(signals: unknown, added?: number): Row[] {
  const figures = record(signals);
  return [
    ...row("Acceptance rate", percent(figures["acceptance_rate"])),
    ...row("Kept characters", count(figures["kept_characters"])),
    ...row("Characters saved", count(figures["characters_saved"])),
    ...row("Code that was completed", percent(figures["completed_ratio"])),
    ...row("Latency", latency(record(figures["latency_ms"]))),
    ...row("Added by the extension", added === undefined ? "" : `p95 ${added.toFixed(2)} ms`),
    ...section("Outcomes", Object.entries(OUTCOMES).flatMap(([name, label]) => row(label, count(figures[name])))),
    ...section("Languages", Object.entries(record(figures["languages"])).flatMap(summary)),
    ...section("Days", Object.entries(record(figures["days"])).sort().reverse().slice(0, MOST_DAYS).flatMap(summary)),
  ];
}

function record(value: unknown): Figures {
  return typeof value === "object" && value !== null ? (value as Figures) : {};
}

function row(label: string, description: string): Row[] {
  return description ? [{ label, description }] : [];
}

function section(label: string, rows: Row[]): Row[] {
  return rows.length ? [{ label, kind: SEPARATOR }, ...rows] : [];
}

function summary([name, value]: [string, unknown]): Row[] {
  const figures = record(value);
  const parts = [
    [percent(figures["acceptance_rate"]), "accepted"],
    [count(figures["kept_characters"]), "characters kept"],
    [percent(figures["completed_ratio"]), "completed"],
  ];
  return row(name, parts.flatMap(([text, what]) => (text ? `${text} ${what}` : [])).join(", "));
}

function latency(figures: Figures): string {
  const parts = ["p50", "p95"].flatMap((name) => (count(figures[name]) ? `${name} ${count(figures[name])} ms` : []));
  return parts.join(", ");
}

function percent(value: unknown): string {
  return typeof value === "number" ? `${(value * 100).toFixed(1)} %` : "";
}

function count(value: unknown): string {
  return typeof value === "number" ? String(Math.round(value)) : "";
}
