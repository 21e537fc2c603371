// Numbers, times and bytes as people read them.

const whole = new Intl.NumberFormat("en-GB");
const short = new Intl.NumberFormat("en-GB", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value: number): string => (Math.abs(value) < 100_000 ? whole.format(Math.round(value)) : short.format(value));

export function rate(value: number | null | undefined): string {
  if (value == null) return "–";
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : count(value);
}

export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export function seconds(value: number | null | undefined): string {
  if (value == null) return "–";
  if (value === 0) return "0";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${value < 0.01 ? (value * 1000).toFixed(1) : Math.round(value * 1000)} ms`;
  if (value < 60) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  if (value < 86_400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86_400)} d ${Math.floor((value % 86_400) / 3600)} h`;
}

const two = (value: number): string => String(value).padStart(2, "0");

/** A moment in the reader's own time: only the clock for today. */
export function moment(text: string | null | undefined): string {
  if (!text) return "–";
  const at = new Date(text);
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const today = new Date().toDateString() === at.toDateString();
  return today ? clock : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock}`;
}

export function ago(text: string | null | undefined): string {
  if (!text) return "";
  const since = (Date.now() - new Date(text).getTime()) / 1000;
  return since >= 0 ? `${seconds(Math.max(1, Math.round(since)))} ago` : `in ${seconds(Math.round(-since))}`;
}

/** What a date field has, as the API takes it. */
export function instant(local: string): string | undefined {
  if (!local) return undefined;
  const at = new Date(local);
  return Number.isNaN(at.getTime()) ? undefined : at.toISOString();
}

/** A body for people: JSON is indented. */
export function body(data: unknown, base64?: string | null): string {
  if (data !== undefined && data !== null && typeof data !== "string") return JSON.stringify(data, null, 2);
  const text = typeof data === "string" ? data : base64 ? decoded(base64) : "";
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function decoded(base64: string): string {
  const raw = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(raw);
  } catch {
    return `${raw.length} bytes that are no text: ${base64}`;
  }
}
